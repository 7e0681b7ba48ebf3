"""The potential: fit, predict, save, load."""

from mekrr.potential.advice import MekrrWarning
from mekrr.potential.evaluate import Evaluated, Wanted, evaluate_graph, evaluate_owned
from mekrr.potential.fitted import Fitted
from mekrr.potential.options import AUTO, FitOptions
from mekrr.potential.potential import KernelPotential
from mekrr.potential.prediction import Prediction
from mekrr.potential.training import StageProgress

__all__ = [
    "AUTO",
    "Evaluated",
    "FitOptions",
    "Fitted",
    "KernelPotential",
    "MekrrWarning",
    "Prediction",
    "StageProgress",
    "Wanted",
    "evaluate_graph",
    "evaluate_owned",
]
