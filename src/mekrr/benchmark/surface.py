"""Test and leave-one-out error over length scale and ridge around what a fit chose."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from mekrr.benchmark.method import Method
from mekrr.benchmark.own import Automatic
from mekrr.data import Structure
from mekrr.features import Environments, extract
from mekrr.kernels import gram, make_kernel
from mekrr.potential import Fitted
from mekrr.prior import Compositions, fit_prior
from mekrr.solve import LinearPrior, RidgeFactor, leave_one_out
from mekrr.typing import Float, Tensor

RUNGS = tuple(2.0 ** (step / 2) for step in range(4, -5, -1))
DECADES = tuple(10.0 ** (step / 2) for step in range(-8, 9))


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
    fitted, backbone = method.potential.fitted_, method.potential.backbone
    found = extract([s.atoms for s in test], backbone, fitted.layers)
    problem = _Problem(fitted, method, found.environments, _prior_energies(fitted, found.environments, found.energies))
    energies = torch.tensor([s.energy for s in test], dtype=torch.float64)
    rows = [problem.errors(fitted.length_scale * rung, energies) for rung in RUNGS]
    return {
        "length_scales": [fitted.length_scale * rung for rung in RUNGS],
        "ridges": [fitted.ridge * decade for decade in DECADES],
        "test_rmse": [test_errors for test_errors, _ in rows],
        "loo_rmse": [loo_errors for _, loo_errors in rows],
        "chosen": {"length_scale": fitted.length_scale, "ridge": fitted.ridge},
    }


def _prior_energies(
    fitted: Fitted, environments: Environments, own: Float[Tensor, "structures"] | None
) -> Float[Tensor, "structures"]:
    shifts = fitted.prior.shift_energies(environments.species)
    total = torch.zeros(environments.n_structures, dtype=torch.float64).index_add_(0, environments.structure, shifts)
    return total if own is None else total + fitted.prior.factor * own


class _Problem:
    """The regression of a fit, to be solved again at other hyperparameters."""

    def __init__(
        self, fitted: Fitted, method: Automatic, test: Environments, prior: Float[Tensor, "structures"]
    ) -> None:
        self.fitted = fitted
        self.test, self.prior = fitted.scaler(test), prior
        training = fitted.training
        own = None
        if fitted.prior.factor:
            structures = method.training_atoms
            own = extract(structures, method.potential.backbone, fitted.layers).energies
        compositions = Compositions.of(training.species, training.n_atoms)
        _, linear, design = fit_prior(fitted.prior.name, fitted.energies, compositions, own)
        n = training.n_atoms.double()
        self.unit = torch.ones_like(n) if fitted.embedding == "sum" else n
        self.noise = n if fitted.embedding == "sum" else torch.ones_like(n)
        self.linear = LinearPrior(linear.H / self.unit[:, None], linear.beta, linear.beta_without)
        self.target = (fitted.energies - design.fixed) / self.unit

    def errors(self, length_scale: float, energies: Float[Tensor, "structures"]) -> tuple[list[float], list[float]]:
        """Test and leave-one-out RMSE along the ridges."""
        fitted, w = self.fitted, self.fitted.species_weight
        kernel = make_kernel(fitted.kernel_name, length_scale)
        factor = RidgeFactor.of(gram(fitted.standardised, None, kernel, fitted.embedding).mix(0, w), self.noise)
        cross = gram(self.test, fitted.standardised, kernel, fitted.embedding).mix(0, w)
        ridges = torch.tensor([fitted.ridge * decade for decade in DECADES], dtype=torch.float64)
        residual = self.target - self.linear.H @ self.linear.beta
        n = self.test.n_atoms.double()
        predicted = cross @ factor.solve(residual[:, None], ridges)[:, :, 0].T
        predicted = predicted if fitted.embedding == "sum" else predicted * n[:, None]
        errors = (predicted + (self.prior - energies)[:, None]) / n[:, None]
        loo = leave_one_out(factor, self.target, self.linear, ridges).residuals
        loo = loo * (self.unit / fitted.training.n_atoms)
        return _mev(errors.square().mean(0)), _mev(loo.square().mean(1))


def _mev(squares: Float[Tensor, "ridges"]) -> list[float]:
    return [1000 * math.sqrt(value) for value in squares.tolist()]
