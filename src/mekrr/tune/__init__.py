"""Choosing hyperparameters by closed-form leave-one-out or evidence."""

from mekrr.tune.criteria import BALANCED, CRITERIA, CRITERION_NAMES
from mekrr.tune.problem import MEDIAN, FeatureCandidate, Grid, PriorCandidate, Trial, best_of
from mekrr.tune.search import Choice, SearchProblem, search
from mekrr.tune.surface import Surface, ridge_floor

__all__ = [
    "BALANCED",
    "CRITERIA",
    "CRITERION_NAMES",
    "MEDIAN",
    "Choice",
    "FeatureCandidate",
    "Grid",
    "PriorCandidate",
    "SearchProblem",
    "Surface",
    "Trial",
    "best_of",
    "ridge_floor",
    "search",
]
