"""The potential: fit, predict, save, load."""

from mekrr.potential.advice import MekrrWarning
from mekrr.potential.fitted import Fitted
from mekrr.potential.options import AUTO, FitOptions
from mekrr.potential.potential import KernelPotential
from mekrr.potential.prediction import Prediction
from mekrr.potential.training import StageProgress

__all__ = [
    "AUTO",
    "FitOptions",
    "Fitted",
    "KernelPotential",
    "MekrrWarning",
    "Prediction",
    "StageProgress",
]
