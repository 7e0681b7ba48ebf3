"""Choosing hyperparameters by closed-form leave-one-out or evidence."""

from mekrr.tune.criteria import BALANCED, CRITERIA, CRITERION_NAMES
from mekrr.tune.problem import MEDIAN, FeatureCandidate, Grid, PriorCandidate, Trial, best_of
from mekrr.tune.search import Choice, SearchProblem, search
from mekrr.tune.sparse import (
    FORCE_WEIGHTS,
    LENGTH_SCALES,
    RIDGES,
    PriorColumns,
    Probed,
    SparseProblem,
    make_block,
    scores_of,
    search_sparse,
    trials_of,
)
from mekrr.tune.surface import Surface, ridge_floor

__all__ = [
    "BALANCED",
    "CRITERIA",
    "CRITERION_NAMES",
    "FORCE_WEIGHTS",
    "LENGTH_SCALES",
    "MEDIAN",
    "RIDGES",
    "Choice",
    "FeatureCandidate",
    "Grid",
    "PriorCandidate",
    "PriorColumns",
    "Probed",
    "SearchProblem",
    "SparseProblem",
    "Surface",
    "Trial",
    "best_of",
    "make_block",
    "ridge_floor",
    "scores_of",
    "search",
    "search_sparse",
    "trials_of",
]
