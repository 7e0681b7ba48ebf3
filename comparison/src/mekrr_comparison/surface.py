"""Test and leave-one-out error over length scale and ridge around what a fit chose."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from mekrr.data import Structure
from mekrr.features import Extraction, FeatureCache, extract
from mekrr.kernels import gram, make_kernel
from mekrr.potential import Fitted
from mekrr.prior import Compositions, fit_prior
from mekrr.solve import LinearPrior, RidgeFactor, leave_one_out
from mekrr.typing import Float, Tensor
from mekrr_comparison.method import Method
from mekrr_comparison.own import Automatic

RUNGS = tuple(2.0 ** (step / 2) for step in range(4, -5, -1))
DECADES = tuple(10.0 ** (step / 2) for step in range(-6, 13))


def surface_of(method: Method, test: Sequence[Structure]) -> dict[str, Any]:
    """RMSE in meV/atom on the test set and by leave-one-out, for factors of the chosen length scale and ridge.

    Layers, prior and species weight stay as chosen.

    Args:
        method: a fitted one of mekrr's own, solved exactly.
        test: with energies.

    Raises:
        ValueError: for another method.
    """
    if not isinstance(method, Automatic):
        raise ValueError(f"sensitivity needs one of mekrr's own methods, solved exactly; got {method.name}")
    problem, fitted = _Problem(method, test), method.potential.fitted_
    energies = torch.tensor([s.energy for s in test], dtype=torch.float64)
    rows = [problem.errors(fitted.length_scale * rung, energies) for rung in RUNGS]
    return {
        "length_scales": [fitted.length_scale * rung for rung in RUNGS],
        "ridges": [fitted.ridge * decade for decade in DECADES],
        "test_rmse": [test_errors for test_errors, _ in rows],
        "loo_rmse": [loo_errors for _, loo_errors in rows],
        "chosen": {"length_scale": fitted.length_scale, "ridge": fitted.ridge},
    }


def _extracted(method: Automatic, structures: Sequence[Structure]) -> Extraction:
    cache = None if method.setup.cache is None else FeatureCache(method.setup.cache)
    potential = method.potential
    return extract([s.atoms for s in structures], potential.backbone, potential.fitted_.layers, cache)


def _prior_energies(fitted: Fitted, extraction: Extraction) -> Float[Tensor, "structures"]:
    x = extraction.environments
    shifts = fitted.prior.shift_energies(x.species)
    total = torch.zeros(x.n_structures, dtype=torch.float64).index_add_(0, x.structure, shifts)
    return total if extraction.energies is None else total + fitted.prior.factor * extraction.energies


class _Problem:
    """The regression of a fit, to be solved again at other hyperparameters."""

    def __init__(self, method: Automatic, test: Sequence[Structure]) -> None:
        self.fitted = fitted = method.potential.fitted_
        known, new = (_extracted(method, structures) for structures in (method.training, test))
        self.training, self.test = fitted.scaler(known.environments), fitted.scaler(new.environments)
        self.prior = _prior_energies(fitted, new)
        energies = torch.tensor([s.energy for s in method.training], dtype=torch.float64)
        compositions = Compositions.of(self.training.species, self.training.n_atoms)
        _, linear, design = fit_prior(fitted.prior.name, energies, compositions, known.energies)
        self.n = self.training.n_atoms.double()
        ones = torch.ones_like(self.n)
        self.unit, self.noise = (ones, self.n) if fitted.embedding == "sum" else (self.n, ones)
        self.linear = LinearPrior(linear.H / self.unit[:, None], linear.beta, linear.beta_without)
        self.target = (energies - design.fixed) / self.unit

    def errors(self, length_scale: float, energies: Float[Tensor, "structures"]) -> tuple[list[float], list[float]]:
        """Test and leave-one-out RMSE along the ridges."""
        fitted, w = self.fitted, self.fitted.species_weight
        kernel = make_kernel(fitted.kernel.name, length_scale)
        factor = RidgeFactor.of(gram(self.training, None, kernel, fitted.embedding).mix(0, w), self.noise)
        cross = gram(self.test, self.training, kernel, fitted.embedding).mix(0, w)
        ridges = torch.tensor([fitted.ridge * decade for decade in DECADES], dtype=torch.float64)
        residual = self.target - self.linear.H @ self.linear.beta
        n = self.test.n_atoms.double()
        predicted = cross @ factor.solve(residual[:, None], ridges)[:, :, 0].T
        predicted = predicted if fitted.embedding == "sum" else predicted * n[:, None]
        errors = (predicted + (self.prior - energies)[:, None]) / n[:, None]
        loo = leave_one_out(factor, self.target, self.linear, ridges).residuals
        loo = loo * (self.unit / self.n)
        return _mev(errors.square().mean(0)), _mev(loo.square().mean(1))


def _mev(squares: Float[Tensor, "ridges"]) -> list[float]:
    return [1000 * math.sqrt(value) for value in squares.tolist()]
