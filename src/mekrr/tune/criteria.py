"""Criteria by which leave-one-out residuals choose hyperparameters; larger scores are better.

A few violent structures rule a squared error and a Gaussian density (design trap 2), so leave-one-out is scored by the
density of a Student t with 4 degrees of freedom, whose scale is fitted to the bulk.
"""

import math

import torch

from mekrr.solve import LeaveOneOut
from mekrr.typing import Float, Tensor

DEGREES_OF_FREEDOM = 4.0


def student_log_density(loo: LeaveOneOut, noise: Float[Tensor, "structures"]) -> Float[Tensor, "ridges"]:
    """Mean log density of the residuals under a Student t with each structure's own predictive variance.

    The common scale is the maximum-likelihood one, found by the EM fixed point for the t distribution
    (Lange, Little & Taylor, J. Am. Stat. Assoc. 84, 881, 1989).

    Args:
        loo: leave-one-out residuals and variances.
        noise: unused here; every criterion has the same arguments.
    """
    nu = DEGREES_OF_FREEDOM
    squared = loo.residuals.square() / loo.variances
    scale = squared.median(dim=1, keepdim=True).values.clamp_min(1e-300)
    for _ in range(30):
        scale = (squared * (nu + 1) / (nu + squared / scale)).mean(dim=1, keepdim=True)
    constant = math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2) - 0.5 * math.log(nu * math.pi)
    density = constant - 0.5 * torch.log(scale * loo.variances) - (nu + 1) / 2 * torch.log1p(squared / scale / nu)
    return density.mean(dim=1)


def gaussian_log_density(loo: LeaveOneOut, noise: Float[Tensor, "structures"]) -> Float[Tensor, "ridges"]:
    """Mean log density under Gaussians with each structure's own predictive variance, common scale profiled out."""
    scale = (loo.residuals.square() / loo.variances).mean(dim=1, keepdim=True)
    return -0.5 * (torch.log(2 * torch.pi * scale * loo.variances) + 1.0).mean(dim=1)


def negative_mae(loo: LeaveOneOut, noise: Float[Tensor, "structures"]) -> Float[Tensor, "ridges"]:
    """Minus the mean absolute residual in units of the root noise."""
    return -(loo.residuals.abs() / noise.sqrt()).mean(dim=1)


def negative_rmse(loo: LeaveOneOut, noise: Float[Tensor, "structures"]) -> Float[Tensor, "ridges"]:
    """Minus the root mean square residual in units of the root noise."""
    return -(loo.residuals.square() / noise).mean(dim=1).sqrt()


CRITERIA = {
    "loo": student_log_density,
    "loo-gaussian": gaussian_log_density,
    "loo-mae": negative_mae,
    "loo-rmse": negative_rmse,
}
EVIDENCE = "evidence"
BALANCED = "loo+evidence"
CRITERION_NAMES = (BALANCED, EVIDENCE, *CRITERIA)


def score(
    criterion: str, loo: LeaveOneOut, evidence: Float[Tensor, "ridges"], noise: Float[Tensor, "structures"]
) -> Float[Tensor, "ridges"]:
    """What is maximised along a ridge path.

    "loo+evidence" adds the leave-one-out density to the log evidence per structure. Leave-one-out alone is noisy with
    few structures, the evidence alone trusts its Gaussian model;
    comparison/figures/accuracy.py with --criterion compares them.

    Args:
        criterion: one of CRITERION_NAMES.
        loo: leave-one-out residuals and variances.
        evidence: log evidence.
        noise: n_t / weight_t (sum) or 1 / weight_t (mean).
    """
    if criterion == EVIDENCE:
        return evidence
    if criterion == BALANCED:
        return student_log_density(loo, noise) + evidence / len(noise)
    return CRITERIA[criterion](loo, noise)


def minus_log_error(criterion: str, value: float, n_structures: int) -> float:
    """A score as minus the log of an error, up to a constant: differences are logs of ratios of errors.

    Where all residuals and deviations grow by a factor c, the mean log density falls by log(c), and so does the log
    evidence per structure.

    Args:
        criterion: one of CRITERION_NAMES.
        value: its score.
        n_structures: those that were scored.
    """
    if criterion == EVIDENCE:
        return value / n_structures
    if criterion == BALANCED:
        return value / 2
    return -math.log(max(-value, math.ulp(0.0))) if criterion in ("loo-mae", "loo-rmse") else value
