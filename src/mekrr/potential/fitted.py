"""What a fit leaves behind: everything that prediction, saving and the report read."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from scipy.spatial import cKDTree

from mekrr.data import Structure, sketches_of
from mekrr.features import Environments, Scaler, structure_hash
from mekrr.kernels import Component, KernelFunction, PointwiseKernel
from mekrr.potential.data_record import HASH_DIGITS
from mekrr.potential.model import Model
from mekrr.potential.record import Record
from mekrr.prior import Prior
from mekrr.typing import Float, Int, Tensor


@dataclass(frozen=True, eq=False)
class TrainingLabels:
    """What the training structures were and how well leave-one-out did on them.

    Attributes:
        species: of all atoms, grouped by structure.
        n_atoms: of each structure.
        energies: DFT, eV.
        backbone_energies: the backbone's own, eV; NaN when it has none.
        weights: of the structures.
        loo_residuals: leave-one-out residuals, eV (DFT minus predicted total energy); of structures added by an update
            the error of the prediction made before.
        sketches: by which the structures are known again, see `mekrr.data.sketches_of`; None in older potentials.
    """

    species: Int[Tensor, "atoms"]
    n_atoms: Int[Tensor, "structures"]
    energies: Float[Tensor, "structures"]
    backbone_energies: Float[Tensor, "structures"]
    weights: Float[Tensor, "structures"]
    loo_residuals: Float[Tensor, "structures"]
    sketches: Float[Tensor, "structures numbers"] | None = None

    def __add__(self, other: "TrainingLabels") -> "TrainingLabels":
        """Of the structures of both, in order."""
        known = self.sketches is not None and other.sketches is not None
        names = [f.name for f in fields(self) if known or f.name != "sketches"]
        return TrainingLabels(**{name: torch.cat([getattr(self, name), getattr(other, name)]) for name in names})

    def holds(self, structures: Sequence[Structure]) -> list[bool]:
        """Which of the structures are among these, whoever has written them: to 1e-4 Angstrom or so."""
        if self.sketches is None or not structures:
            return [False] * len(structures)
        members: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for t, species in enumerate(self.species.split(self.n_atoms.tolist())):
            members[tuple(species.sort().values.tolist())].append(t)
        trees = {key: cKDTree(self.sketches[each].cpu().numpy()) for key, each in members.items()}
        sketches, found = sketches_of(structures), []
        for structure, numbers, reach in zip(structures, sketches.numbers, sketches.reach, strict=True):
            tree = trees.get(tuple(sorted(structure.species.tolist())))
            found.append(tree is not None and bool(tree.query(numbers)[0] <= reach))
        return found


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted potential without its backbone.

    Attributes:
        model: the kernel part.
        labels: of the training structures.
        prior: fitted prior mean.
        baseline: the backbone's energy plus shifts, whatever the prior; None when it has no energy.
        reference: mean energy per atom by composition fit, for comparison.
        layers: names.
        record: how it was made.
        refined: coordinates of a change of the network's weights, in the space of the tangent part; the potential is
            on the changed network. None where the network is as pretrained.
    """

    model: Model
    labels: TrainingLabels
    prior: Prior
    baseline: Prior | None
    reference: Prior
    layers: tuple[str, ...]
    record: Record
    refined: Float[Tensor, "width"] | None = None

    @property
    def is_network(self) -> bool:
        """Whether nothing but a network with shifts is left: refined, and not updated since."""
        tangent = self.model.tangent
        if self.refined is None or tangent is None:
            return False
        return not bool(self.model.coefficients.any()) and not bool(tangent.weights.any())

    def trained_on(self, structures: Sequence[Structure]) -> list[bool]:
        """Which of the structures are training structures, to the last bit or in other digits."""
        known = set(self.record.data.hashes)
        held = self.labels.holds(structures)
        return [
            structure_hash(s.atoms)[:HASH_DIGITS] in known or alike for s, alike in zip(structures, held, strict=True)
        ]

    def with_deviations_times(self, times: float) -> "Fitted":
        """The same potential with its deviations multiplied, and a record that says so."""
        model, record = self.model, self.record
        forces = None if model.force_amplitude is None else times**2 * model.force_amplitude
        return replace(
            self,
            model=replace(model, energy_amplitude=times**2 * model.energy_amplitude, force_amplitude=forces),
            record=replace(record, deviations_times=times * record.deviations_times),
        )

    @property
    def component(self) -> Component:
        """The kernel's first component, the one on features."""
        return self.model.kernel.components[0]

    @property
    def kernel(self) -> PointwiseKernel:
        """Its pointwise kernel."""
        return self.component.pointwise

    @property
    def scaler(self) -> Scaler:
        """Standardisation."""
        return self.model.scaler

    @property
    def embedding(self) -> str:
        """The kind of embedding, "sum" or "mean"."""
        return self.model.embedding

    @property
    def length_scale(self) -> float:
        """Of the pointwise kernel on features."""
        return self.kernel.length_scale

    @property
    def species_weight(self) -> float:
        """The weight w: the share of pairs of one species."""
        return self.component.same_species / (self.component.all_pairs + self.component.same_species)

    @property
    def ridge(self) -> float:
        """Of the solution."""
        return self.model.ridge

    @property
    def function(self) -> KernelFunction:
        """The kernel part of the energy."""
        return self.model.function

    @property
    def known_species(self) -> set[int]:
        """Elements seen in training."""
        return set(torch.unique(self.labels.species).tolist())

    @property
    def tangent_share(self) -> float:
        """The share s of the tangent kernel."""
        return 0.0 if self.model.tangent is None else self.model.tangent.share

    def energy_deviation(
        self,
        x: Environments,
        rows: Float[Tensor, "structures groups"],
        T: Float[Tensor, "structures elements width"] | None = None,
    ) -> Float[Tensor, "structures"]:
        """Calibrated standard deviation of the total energy, eV; see the model's."""
        return self.model.energy_deviation(x, rows, T)
