"""Energies, forces and stress of new structures, by one pass forward and one back through backbone and kernel."""

from dataclasses import dataclass

import numpy as np
import torch

from mekrr.backbones import Backbone, BackboneOutput
from mekrr.backbones.derivatives import edge_gradient, pull_back, stress_of
from mekrr.features import Environments
from mekrr.graph import GraphBatch
from mekrr.potential.fitted import Fitted
from mekrr.potential.sparse import SparseModel
from mekrr.typing import Float, Tensor, ndarray

FORCE_DRAWS = 16  # a standard deviation from so many is known to 18%


@dataclass(frozen=True, eq=False)
class Prediction:
    """What is predicted for one structure.

    Attributes:
        energy: total, eV.
        forces: eV/Angstrom; None when not asked for.
        stress: eV/Angstrom^3 in ASE's sign; None without three lattice vectors or when not asked for.
        atomic_energies: eV, adding up to the energy; None for the mean embedding, which has none.
        energy_std: calibrated standard deviation of the energy, eV; None when not asked for.
        atomic_energies_std: the same of each atom's energy; None when not asked for.
        forces_std: the same of each force component, eV/Angstrom; None when not asked for.
        backbone_energy: the backbone's own, unshifted; None when it has none.
        backbone_forces: the backbone's own; None when not asked for.
    """

    energy: float
    forces: Float[ndarray, "atoms 3"] | None = None
    stress: Float[ndarray, "3 3"] | None = None
    atomic_energies: Float[ndarray, "atoms"] | None = None
    energy_std: float | None = None
    atomic_energies_std: Float[ndarray, "atoms"] | None = None
    forces_std: Float[ndarray, "atoms 3"] | None = None
    backbone_energy: float | None = None
    backbone_forces: Float[ndarray, "atoms 3"] | None = None


@dataclass(frozen=True)
class Wanted:
    """Which quantities a prediction should hold beside the energy."""

    forces: bool = True
    energy_std: bool = False
    backbone_forces: bool = False
    atomic_std: bool = False
    forces_std: bool = False

    @property
    def gradients(self) -> bool:
        """Whether anything needs a reverse pass."""
        return self.forces or self.backbone_forces or self.forces_std

    def check(self, fitted: Fitted) -> None:
        """Refuse what the potential does not have.

        Raises:
            ValueError: for deviations of atoms or forces from the exact solver, or of forces not trained on.
        """
        if not self.atomic_std and not self.forces_std:
            return
        if not isinstance(fitted.model, SparseModel):
            raise ValueError("only the sparse solver gives deviations of atomic energies and forces; fit with it")
        if self.forces_std and fitted.model.force_amplitude is None:
            raise ValueError("this potential was trained without forces: deviations of forces are not calibrated")


def predict_batch(fitted: Fitted, backbone: Backbone, graph: GraphBatch, wanted: Wanted) -> list[Prediction]:
    """Predictions for the structures of one batch.

    Args:
        fitted: the potential.
        backbone: the network it was fitted with.
        graph: on the backbone's device.
        wanted: quantities.
    """
    with torch.set_grad_enabled(wanted.gradients):
        vectors = graph.edge_vectors().detach().requires_grad_(wanted.gradients)
        output = backbone.forward(graph, vectors, fitted.layers)
    raw = Environments(output.features.detach().cpu(), graph.species.cpu(), graph.n_atoms.cpu())
    x = fitted.scaler(raw)
    kernel = fitted.expansion(x, slopes=wanted.forces, cross=wanted.energy_std)
    own = None if output.atomic_energies is None else output.atomic_energies.detach().double().cpu()
    atomic = kernel.atomic_energies + fitted.prior.shift_energies(raw.species)
    if fitted.prior.factor and own is not None:
        atomic = atomic + fitted.prior.factor * own
    parts = _Parts(graph, atomic, own, fitted.embedding)
    if wanted.backbone_forces and output.atomic_energies is not None:
        ones = torch.ones_like(output.atomic_energies)
        gradient = edge_gradient(
            [output.atomic_energies], [ones], vectors, keep_graph=wanted.forces or wanted.forces_std
        )
        parts.backbone_forces = pull_back(graph, gradient).forces.cpu().numpy()
    if isinstance(fitted.model, SparseModel) and wanted.atomic_std:
        parts.atomic_deviations = fitted.model.atomic_deviation(x).numpy()
    if isinstance(fitted.model, SparseModel) and wanted.forces_std:
        variance = _force_variance(fitted.model, graph, output, vectors, x)
        parts.force_deviations = fitted.model.force_deviation(variance).numpy()
    if kernel.slopes is not None:
        gradient = _total_gradient(fitted, output, vectors, fitted.scaler.pull_back(kernel.slopes))
        pulled = pull_back(graph, gradient)
        parts.forces = pulled.forces.cpu().numpy()
        parts.stress = stress_of(graph, pulled.strain_gradient).cpu().numpy()
    if kernel.cross is not None:
        parts.deviations = fitted.energy_deviation(x, kernel.cross)
    return parts.predictions()


def _total_gradient(
    fitted: Fitted, output: BackboneOutput, vectors: Float[Tensor, "edges 3"], slopes: Float[Tensor, "atoms features"]
) -> Float[Tensor, "edges 3"]:
    """dE/d(edge vectors) of kernel and prior together, in one reverse pass."""
    outputs, seeds = [output.features], [slopes.to(output.features)]
    if fitted.prior.factor and output.atomic_energies is not None:
        outputs.append(output.atomic_energies)
        seeds.append(torch.full_like(output.atomic_energies, fitted.prior.factor))
    return edge_gradient(outputs, seeds, vectors)


def _force_variance(
    model: SparseModel, graph: GraphBatch, output: BackboneOutput, vectors: Float[Tensor, "edges 3"], x: Environments
) -> Float[Tensor, "atoms 3"]:
    """Mean square over posterior draws of what forces differ by from the mean, at unit amplitude."""
    total = torch.zeros(len(x.species), 3, dtype=torch.float64)
    for slopes in model.force_slopes(x, FORCE_DRAWS):
        seed = model.scaler.pull_back(slopes).to(output.features)
        gradient = edge_gradient([output.features], [seed], vectors, keep_graph=True)
        total += pull_back(graph, gradient).forces.cpu().double().square()
    return total / FORCE_DRAWS


class _Parts:
    """Quantities of a batch, cut into predictions."""

    def __init__(
        self,
        graph: GraphBatch,
        atomic: Float[Tensor, "atoms"],
        own: Float[Tensor, "atoms"] | None,
        embedding: str,
    ) -> None:
        self.n_atoms = graph.n_atoms.tolist()
        self.atomic = atomic.numpy()
        self.own = None if own is None else own.numpy()
        self.embedding = embedding
        self.forces: np.ndarray | None = None
        self.stress: np.ndarray | None = None
        self.backbone_forces: np.ndarray | None = None
        self.deviations: Tensor | None = None
        self.atomic_deviations: np.ndarray | None = None
        self.force_deviations: np.ndarray | None = None

    def predictions(self) -> list[Prediction]:
        """One a structure."""
        ends = np.cumsum(self.n_atoms)
        return [self._one(t, slice(end - n, end)) for t, (n, end) in enumerate(zip(self.n_atoms, ends, strict=True))]

    def _one(self, t: int, atoms: slice) -> Prediction:
        return Prediction(
            energy=float(self.atomic[atoms].sum()),
            forces=None if self.forces is None else self.forces[atoms],
            stress=self._stress(t),
            atomic_energies=self.atomic[atoms] if self.embedding == "sum" else None,
            energy_std=None if self.deviations is None else float(self.deviations[t]),
            atomic_energies_std=None if self.atomic_deviations is None else self.atomic_deviations[atoms],
            forces_std=None if self.force_deviations is None else self.force_deviations[atoms],
            backbone_energy=None if self.own is None else float(self.own[atoms].sum()),
            backbone_forces=None if self.backbone_forces is None else self.backbone_forces[atoms],
        )

    def _stress(self, t: int) -> np.ndarray | None:
        """None for a structure without a volume."""
        return None if self.stress is None or np.isnan(self.stress[t]).any() else self.stress[t]
