"""Solvers: exact kernel ridge regression with everything its one factor gives."""

from mekrr.solve.inducing import choose_inducing, default_count
from mekrr.solve.normal import (
    Block,
    BlockResiduals,
    NormalEquations,
    NotPositiveDefiniteError,
    RowWeights,
    SparseFactor,
    cholesky_with_jitter,
    leave_one_structure_out,
    whiten,
)
from mekrr.solve.ridge import LeaveOneOut, LinearPrior, RidgeFactor, leave_one_out, log_evidence

__all__ = [
    "Block",
    "BlockResiduals",
    "LeaveOneOut",
    "LinearPrior",
    "NormalEquations",
    "NotPositiveDefiniteError",
    "RidgeFactor",
    "RowWeights",
    "SparseFactor",
    "cholesky_with_jitter",
    "choose_inducing",
    "default_count",
    "leave_one_out",
    "leave_one_structure_out",
    "log_evidence",
    "whiten",
]
