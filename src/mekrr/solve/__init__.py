"""Solvers: exact kernel ridge regression with everything its one factor gives."""

from mekrr.solve.ridge import LeaveOneOut, LinearPrior, RidgeFactor, leave_one_out, log_evidence

__all__ = ["LeaveOneOut", "LinearPrior", "RidgeFactor", "leave_one_out", "log_evidence"]
