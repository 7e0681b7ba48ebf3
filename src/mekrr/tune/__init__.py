"""Choosing hyperparameters by closed-form leave-one-structure-out or evidence."""

from mekrr.tune.criteria import AUTO, BALANCED, CRITERIA, CRITERION_NAMES, Judged, criterion_for, score
from mekrr.tune.observations import observation
from mekrr.tune.problem import (
    FORCE_WEIGHTS,
    MEDIAN,
    OF_ENVIRONMENTS,
    OF_STRUCTURES,
    TANGENT_SHARES,
    Grid,
    Observed,
    Plan,
    SearchProblem,
    Size,
)
from mekrr.tune.search import Choice, search
from mekrr.tune.surface import Point, Surface, ridge_unit
from mekrr.tune.trial import Trial, best_of, make_trials

__all__ = [
    "AUTO",
    "BALANCED",
    "CRITERIA",
    "CRITERION_NAMES",
    "FORCE_WEIGHTS",
    "MEDIAN",
    "OF_ENVIRONMENTS",
    "OF_STRUCTURES",
    "TANGENT_SHARES",
    "Choice",
    "Grid",
    "Judged",
    "Observed",
    "Plan",
    "Point",
    "SearchProblem",
    "Size",
    "Surface",
    "Trial",
    "best_of",
    "criterion_for",
    "make_trials",
    "observation",
    "ridge_unit",
    "score",
    "search",
]
