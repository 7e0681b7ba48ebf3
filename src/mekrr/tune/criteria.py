"""Criteria by which leave-one-out chooses hyperparameters; larger scores are better.

Every score is minus the logarithm of an error, up to a constant, so that a difference of two scores is the log of a
ratio of errors: where all residuals and deviations grow by a factor c, a mean log density and the log evidence per
structure both fall by log c.

A few violent structures rule a squared error and a Gaussian density, so leave-one-out is scored by the density of a
Student t with 4 degrees of freedom, whose scale is fitted to the bulk, or by means of first powers. With forces, the
score is that of the geometric mean of two errors, energies over sqrt(n) and forces: its ratio form makes eV and
eV/Angstrom comparable without a weight.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from mekrr.solve import Factor, Residuals
from mekrr.typing import Float, Tensor

DEGREES_OF_FREEDOM = 4.0
PERFECT = 1e-12  # the smallest error that counts, so that an exact fit has a finite score
AUTO = "auto"


@dataclass(frozen=True, eq=False)
class Judged:
    """What a criterion looks at.

    Attributes:
        residuals: of leave-one-structure-out.
        evidence: log evidence; None with force rows: probes are not independent observations of a likelihood.
        noise: n_t / weight_t (sum) or n_t^2 / weight_t (mean).
    """

    residuals: Residuals
    evidence: Float[Tensor, "priors ridges"] | None
    noise: Float[Tensor, "structures"]

    @staticmethod
    def of(
        found: Residuals,
        factor: Factor,
        prior: Float[Tensor, "priors columns"],
        ridges: Float[Tensor, "ridges"],
        noise: Float[Tensor, "structures"],
    ) -> "Judged":
        """With the evidence where energies alone are fitted, and nothing is pinned."""
        equations = factor.equations
        if equations.n_force_rows or equations.n_pinned or found.rows > len(noise):
            return Judged(found, None, noise)
        evidence = factor.log_evidence(prior, ridges, found.misfit, found.log_weight, found.rows)
        return Judged(found, evidence, noise)


Criterion = Callable[[Judged], Float[Tensor, "priors ridges"]]


def student_log_density(judged: Judged) -> Float[Tensor, "priors ridges"]:
    """Mean log density of the energies' residuals under a Student t with each structure's own predictive variance.

    The common scale is the maximum-likelihood one, found by the EM fixed point for the t distribution
    (Lange, Little & Taylor, J. Am. Stat. Assoc. 84, 881, 1989).
    """
    nu, variance = DEGREES_OF_FREEDOM, judged.residuals.energy_variance
    squared = judged.residuals.energy.square() / variance
    scale = squared.median(dim=-1, keepdim=True).values.clamp_min(1e-300)
    for _ in range(30):
        scale = (squared * (nu + 1) / (nu + squared / scale)).mean(dim=-1, keepdim=True)
    constant = math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2) - 0.5 * math.log(nu * math.pi)
    density = constant - 0.5 * torch.log(scale * variance) - (nu + 1) / 2 * torch.log1p(squared / scale / nu)
    return density.mean(dim=-1)


def gaussian_log_density(judged: Judged) -> Float[Tensor, "priors ridges"]:
    """Mean log density under Gaussians with each structure's own predictive variance, common scale profiled out."""
    variance = judged.residuals.energy_variance
    scale = (judged.residuals.energy.square() / variance).mean(dim=-1, keepdim=True)
    return -0.5 * (torch.log(2 * torch.pi * scale * variance) + 1.0).mean(dim=-1)


def evidence_per_structure(judged: Judged) -> Float[Tensor, "priors ridges"]:
    """Log evidence over the number of structures.

    Raises:
        ValueError: where rows of strains, or of forces, leave no evidence.
    """
    if judged.evidence is None:
        raise ValueError(
            "the evidence is that of energies, but derivatives are fitted beside them; take the criterion "
            f"{' or '.join(WITH_FORCES)}, or fit with --no-forces"
        )
    return judged.evidence / len(judged.noise)


def balanced(judged: Judged) -> Float[Tensor, "priors ridges"]:
    """Mean of the Student density and the log evidence per structure.

    Leave-one-out alone is noisy with few structures, the evidence alone trusts its Gaussian model; docs/results.md
    compares them.
    """
    return 0.5 * (student_log_density(judged) + evidence_per_structure(judged))


def minus_log_mae(judged: Judged) -> Float[Tensor, "priors ridges"]:
    """Of mean absolute energies over the root noise, and of the mean over structures of root-mean-square forces."""
    energy = (judged.residuals.energy.abs() / judged.noise.sqrt()).mean(-1)
    return _minus_log(energy, judged.residuals.force.nanmean(-1))


def minus_log_rmse(judged: Judged) -> Float[Tensor, "priors ridges"]:
    """The same with root mean squares."""
    energy = (judged.residuals.energy.square() / judged.noise).mean(-1).sqrt()
    return _minus_log(energy, judged.residuals.force.square().nanmean(-1).sqrt())


def _minus_log(energy: Tensor, force: Tensor) -> Tensor:
    """Of the geometric mean of both; of the energy error alone without forces."""
    energy, force = (error.clamp_min(PERFECT).log() for error in (energy, force))
    return torch.where(force.isnan(), -energy, -0.5 * (energy + force))


EVIDENCE = "evidence"
BALANCED = "loo+evidence"
WITH_FORCES: dict[str, Criterion] = {"loo-mae": minus_log_mae, "loo-rmse": minus_log_rmse}
ENERGIES_ONLY: dict[str, Criterion] = {
    BALANCED: balanced,
    EVIDENCE: evidence_per_structure,
    "loo": student_log_density,
    "loo-gaussian": gaussian_log_density,
}
CRITERIA = ENERGIES_ONLY | WITH_FORCES
CRITERION_NAMES = (AUTO, *CRITERIA)


def criterion_for(name: str, forces: bool, of_structures: bool) -> str:
    """The criterion that a name stands for.

    "auto" is "loo+evidence" where the structures are their own basis, and "loo-mae" otherwise.

    Args:
        name: one of CRITERION_NAMES.
        forces: whether there are force rows.
        of_structures: whether the basis is the training structures themselves.

    Raises:
        ValueError: for a criterion of energies where forces are fitted.
    """
    if name == AUTO:
        return BALANCED if of_structures else "loo-mae"
    if forces and name in ENERGIES_ONLY:
        raise ValueError(
            f"the criterion {name!r} looks at energies only, but forces are fitted; take {' or '.join(WITH_FORCES)}, "
            "or fit with --no-forces"
        )
    return name


def score(name: str, judged: Judged) -> Float[Tensor, "priors ridges"]:
    """What is maximised along a ridge path; minus infinity where nothing finite comes out."""
    return torch.nan_to_num(CRITERIA[name](judged), nan=-torch.inf)
