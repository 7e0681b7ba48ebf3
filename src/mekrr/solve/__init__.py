"""Ridge regression in a whitened basis: equations that add up, one factor, leave-one-out, conjugate gradients."""

from mekrr.solve.equations import NormalEquations, Observation, RowWeights
from mekrr.solve.factor import Factor
from mekrr.solve.inducing import choose_inducing, default_count
from mekrr.solve.iteration import TOLERANCE, Iterations, conjugate_gradients
from mekrr.solve.leave_out import Residuals, leave_one_structure_out

__all__ = [
    "TOLERANCE",
    "Factor",
    "Iterations",
    "NormalEquations",
    "Observation",
    "Residuals",
    "RowWeights",
    "choose_inducing",
    "conjugate_gradients",
    "default_count",
    "leave_one_structure_out",
]
