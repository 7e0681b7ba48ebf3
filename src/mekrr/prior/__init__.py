"""What the potential falls back on far from its data: priors, their fits, and their columns of targets."""

from mekrr.prior.columns import PriorColumns, column_coefficients, target_columns
from mekrr.prior.design import NEEDS_BACKBONE, PRIORS, Compositions, PriorDesign, prior_design
from mekrr.prior.fitted import Prior, fit_prior
from mekrr.prior.regression import LinearPrior

__all__ = [
    "NEEDS_BACKBONE",
    "PRIORS",
    "Compositions",
    "LinearPrior",
    "Prior",
    "PriorColumns",
    "PriorDesign",
    "column_coefficients",
    "fit_prior",
    "prior_design",
    "target_columns",
]
