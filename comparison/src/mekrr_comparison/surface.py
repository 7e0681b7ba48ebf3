"""Test and leave-one-out error over length scale and ridge around what a fit chose."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from mekrr.data import Structure
from mekrr.features import Environments, Extraction, FeatureCache, extract
from mekrr.kernels import Basis, Pooling, StructureKernel, energy_noise, make_kernel
from mekrr.potential import Fitted
from mekrr.potential.training import TrainingSet
from mekrr.solve import Factor, NormalEquations, RowWeights, leave_one_structure_out
from mekrr.tune import OF_STRUCTURES, observation
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
        weights = torch.tensor([s.weight for s in method.training], dtype=torch.float64)
        self.data = TrainingSet.of(known, None, energies, weights)
        self.columns = self.data.prior_columns(fitted.prior.name)

    def errors(self, length_scale: float, energies: Float[Tensor, "structures"]) -> tuple[list[float], list[float]]:
        """Test and leave-one-out RMSE along the ridges."""
        fitted, data = self.fitted, self.data
        pointwise = make_kernel(fitted.kernel.name, length_scale)
        kernel = StructureKernel.weighted(pointwise, fitted.species_weight, fitted.embedding)
        K = kernel.gram(self.training)
        basis = Basis.of(self.training, kernel, K, relative=OF_STRUCTURES.jitter)
        psi, new = (
            basis.whiten(rows * _scale(x, kernel))
            for x, rows in ((self.training, K), (self.test, kernel.gram(self.test, self.training)))
        )
        noise = energy_noise(data.n_atoms, fitted.embedding)
        rows = zip(psi, data.columns, self.training.n_atoms, data.weights, noise, strict=True)
        observed = [observation(r[None], c, None, int(n), float(w), float(v)) for r, c, n, w, v in rows]
        weights, prior = RowWeights(0.0, 0.0), self.columns
        factor = Factor.of(NormalEquations.of(observed, weights))
        ridges = torch.tensor([fitted.ridge * decade for decade in DECADES], dtype=torch.float64)
        left_out = leave_one_structure_out(
            factor, observed, weights, prior.coefficients[None], prior.without[None], ridges
        )
        moments = factor.equations.moments @ prior.coefficients
        predicted = torch.stack([new @ factor.solve(moments, ridge) for ridge in ridges.tolist()])
        errors = (predicted + self.prior - energies) / self.test.n_atoms
        return _mev(errors.square().mean(1)), _mev((left_out.energy[0] / data.n_atoms).square().mean(1))


def _scale(x: Environments, kernel: StructureKernel) -> Float[Tensor, "structures one"]:
    return Pooling.of(x, kernel.embedding).scale[:, None]


def _mev(squares: Float[Tensor, "ridges"]) -> list[float]:
    return [1000 * math.sqrt(value) for value in squares.tolist()]
