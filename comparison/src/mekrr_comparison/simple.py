"""Yardsticks that need no tuning: the backbone itself, and ridge regression on mean features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms

from mekrr.backbones import Backbone, BackboneOutput, load_backbone
from mekrr.backbones.derivatives import edge_gradient
from mekrr.data import Structure
from mekrr.features import Extraction, FeatureCache, Scaler, extract, observe
from mekrr.potential import Evaluated, FitOptions, Prediction
from mekrr.potential.prediction import predictions_of as predictions_of_batch
from mekrr.potential.training import layer_candidates
from mekrr.prior import Compositions, Prior, fit_prior
from mekrr.typing import Float, Tensor
from mekrr_comparison.method import Method

AtomicEnergies = Callable[[BackboneOutput], Float[Tensor, "atoms"]]
NO_SHIFTS = Prior("none", {})
RIDGES = tuple(10.0 ** (-8 + 0.5 * step) for step in range(25))


def predictions_of(
    backbone: Backbone, atoms: Sequence[Atoms], layers: Sequence[str], energies: AtomicEnergies, shifts: Prior
) -> list[Prediction]:
    """Energies, forces and stress of any differentiable function of a backbone's output.

    Args:
        backbone: network.
        atoms: structures.
        layers: that `energies` reads.
        energies: atomic energies in eV of a batch.
        shifts: added by element.
    """
    found: list[Prediction] = []
    for _, seen in observe(atoms, backbone, layers, gradients=True):
        atomic = energies(seen.output)
        pulled = seen.pull_back(edge_gradient([atomic], [torch.ones_like(atomic)], seen.vectors))
        total = atomic.detach().double().cpu() + shifts.shift_energies(seen.graph.species.cpu())
        evaluated = Evaluated(seen.graph, total, None, pulled.forces, pulled.strain_gradient)
        found += predictions_of_batch(evaluated)
    return found


class BackboneAsItIs(Method):
    """The backbone's own energies and forces."""

    name: ClassVar[str] = "backbone"
    settings_from: ClassVar[str] = "the published weights, nothing fitted"
    needs_validation: ClassVar[bool] = False
    shifts: Prior = NO_SHIFTS

    def fit(self, training: Sequence[Structure], validation: Sequence[Structure], seconds: float | None) -> None:
        """Only loads the network.

        Raises:
            ValueError: when it predicts no energy.
        """
        self.backbone = load_backbone(self.setup.backbone, self.setup.device)
        if not self.backbone.has_energy:
            raise ValueError(f"{self.setup.backbone} predicts no energy; choose another --backbone")

    def predict(self, atoms: Sequence[Atoms]) -> list[Prediction]:
        """See Method.predict."""
        return predictions_of(self.backbone, atoms, self.backbone.layers[-1:], _own_energies, self.shifts)

    def settings(self) -> dict[str, Any]:
        """The backbone."""
        return {"backbone": self.setup.backbone}


class BackboneShifted(BackboneAsItIs):
    """The backbone plus one energy per element."""

    name: ClassVar[str] = "backbone+shifts"
    settings_from: ClassVar[str] = "the published weights plus one shift per element by least squares"
    reads_features: ClassVar[bool] = True

    def fit(self, training: Sequence[Structure], validation: Sequence[Structure], seconds: float | None) -> None:
        """Shifts by least squares over the energies per atom."""
        super().fit(training, validation, seconds)
        cache = None if self.setup.cache is None else FeatureCache(self.setup.cache)
        own = extract([s.atoms for s in training], self.backbone, self.backbone.layers[-1:], cache)
        self.shifts = _shifts("backbone", training, own)

    def chosen(self) -> dict[str, Any]:
        """Shifts in eV by atomic number."""
        return {"shifts_ev": {str(z): shift for z, shift in self.shifts.shifts.items()}}


def _own_energies(output: BackboneOutput) -> Float[Tensor, "atoms"]:
    assert output.atomic_energies is not None  # checked in fit
    return output.atomic_energies


def _shifts(name: str, training: Sequence[Structure], extraction: Extraction) -> Prior:
    environments = extraction.environments
    compositions = Compositions.of(environments.species, environments.n_atoms)
    energies = torch.tensor([s.energy for s in training], dtype=torch.float64)
    return fit_prior(name, energies, compositions, extraction.energies)[0]


@dataclass(frozen=True, eq=False)
class _RidgeFit:
    """A solved ridge regression of energies per atom on mean features."""

    layers: tuple[str, ...]
    scaler: Scaler
    weights: Float[Tensor, "features"]
    intercept: float
    ridge: float
    loo_rmse: float


class Linear(Method):
    """Energy per atom beyond the composition, linear in the mean of the standardised features."""

    name: ClassVar[str] = "linear"
    settings_from: ClassVar[str] = "ridge and layers by exact leave-one-out, composition fitted first"
    reads_features: ClassVar[bool] = True
    needs_validation: ClassVar[bool] = False

    def fit(self, training: Sequence[Structure], validation: Sequence[Structure], seconds: float | None) -> None:
        """The best layers and ridge by leave-one-out."""
        self.backbone = load_backbone(self.setup.backbone, self.setup.device)
        cache = None if self.setup.cache is None else FeatureCache(self.setup.cache)
        candidates = layer_candidates(FitOptions(backbone=self.setup.backbone), self.backbone)
        wanted = [name for name in self.backbone.layers if any(name in layers for layers in candidates)]
        extraction = extract([s.atoms for s in training], self.backbone, wanted, cache)
        self.shifts = _shifts("composition", training, extraction)
        energies = torch.tensor([s.energy for s in training], dtype=torch.float64)
        known = [self.shifts.shift_energies(torch.as_tensor(s.species)).sum() for s in training]
        y = (energies - torch.stack(known)) / extraction.environments.n_atoms
        self.best = min((_ridge_fit(extraction.select(c), y) for c in candidates), key=lambda fit: fit.loo_rmse)

    def predict(self, atoms: Sequence[Atoms]) -> list[Prediction]:
        """Forces are those of the linear function."""
        best = self.best
        slopes = best.scaler.pull_back(best.weights[None])[0]

        def energies(output: BackboneOutput) -> Float[Tensor, "atoms"]:
            return (output.features.double() - best.scaler.mean) @ slopes + best.intercept

        return predictions_of(self.backbone, atoms, best.layers, energies, self.shifts)

    def settings(self) -> dict[str, Any]:
        """The backbone and the ridges tried."""
        return {"backbone": self.setup.backbone, "ridges": [min(RIDGES), max(RIDGES)]}

    def chosen(self) -> dict[str, Any]:
        """Layers, ridge and leave-one-out error."""
        loo = {"rmse_mev_per_atom": 1000 * self.best.loo_rmse}
        return {"layers": list(self.best.layers), "ridge": self.best.ridge, "leave_one_out": loo}


def _ridge_fit(extraction: Extraction, y: Float[Tensor, "structures"]) -> _RidgeFit:
    """Ridge regression with an intercept; r_t / (1 - leverage_t) is the exact leave-one-out residual."""
    scaler = Scaler.fit(extraction.environments.features, extraction.widths)
    x = scaler(extraction.environments)
    mean = torch.zeros(x.n_structures, x.features.shape[1], dtype=torch.float64)
    mean = mean.index_add_(0, x.structure, x.features) / x.n_atoms[:, None]
    centre, offset = mean.mean(0), y.mean()
    U, s, Vh = torch.linalg.svd(mean - centre, full_matrices=False)
    projected = U.T @ (y - offset)
    errors = []
    for ridge in RIDGES:
        shrink = s**2 / (s**2 + ridge * s[0] ** 2)
        leverage = (U**2) @ shrink + 1 / len(y)
        errors.append(float(((y - offset - U @ (shrink * projected)) / (1 - leverage).clamp_min(1e-9)).square().mean()))
    best = int(np.argmin(errors))
    weights = Vh.T @ (s / (s**2 + RIDGES[best] * s[0] ** 2) * projected)
    intercept = float(offset - centre @ weights)
    return _RidgeFit(extraction.layers, scaler, weights, intercept, RIDGES[best], errors[best] ** 0.5)
