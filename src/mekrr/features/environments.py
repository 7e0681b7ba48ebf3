"""Environments: ragged per-atom features, the hinge between networks and kernels."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from mekrr.typing import Float, Int, Tensor

SPECIES_BITS = 8  # an atomic number fits


@dataclass(frozen=True, eq=False)
class SpeciesGroups:
    """Atoms of one species in one structure, grouped.

    Attributes:
        of_atom: the group of each atom.
        structure: of each group.
        species: of each group.
        counts: atoms in each group.
    """

    of_atom: Int[Tensor, "atoms"]
    structure: Int[Tensor, "groups"]
    species: Int[Tensor, "groups"]
    counts: Int[Tensor, "groups"]


@dataclass(frozen=True, eq=False)
class Environments:
    """The atoms of many structures as one matrix of features.

    Attributes:
        features: dimensionless.
        species: atomic numbers.
        n_atoms: atoms of each structure; rows are grouped by structure in this order.
    """

    features: Float[Tensor, "atoms features"]
    species: Int[Tensor, "atoms"]
    n_atoms: Int[Tensor, "structures"]

    @property
    def n_structures(self) -> int:
        """Number of structures."""
        return len(self.n_atoms)

    @cached_property
    def offsets(self) -> Int[Tensor, "offsets"]:
        """Structure t owns rows offsets[t] to offsets[t + 1]."""
        return torch.cat([self.n_atoms.new_zeros(1), self.n_atoms.cumsum(0)])

    @property
    def structure(self) -> Int[Tensor, "atoms"]:
        """For each atom, the index of its structure."""
        indices = torch.arange(self.n_structures, device=self.n_atoms.device)
        return torch.repeat_interleave(indices, self.n_atoms)

    def species_groups(self) -> SpeciesGroups:
        """The atoms of each species in each structure, in order of structure, then species."""
        key = (self.structure << SPECIES_BITS) + self.species
        keys, of_atom, counts = torch.unique(key, return_inverse=True, return_counts=True)
        return SpeciesGroups(of_atom, keys >> SPECIES_BITS, keys & (2**SPECIES_BITS - 1), counts)

    def __getitem__(self, indices: Int[Tensor, "chosen"]) -> "Environments":
        """The environments of the chosen structures, in the order given."""
        offsets = self.offsets
        device = offsets.device
        rows = torch.cat([torch.arange(int(offsets[t]), int(offsets[t + 1]), device=device) for t in indices])
        return Environments(self.features[rows], self.species[rows], self.n_atoms[indices])

    def singletons(self) -> "Environments":
        """Each atom as a structure of its own."""
        return Environments(self.features, self.species, torch.ones_like(self.species))

    def to(self, device: torch.device | str) -> "Environments":
        """The same on another device."""
        return Environments(self.features.to(device), self.species.to(device), self.n_atoms.to(device))

    def with_features(self, features: Float[Tensor, "atoms other"]) -> "Environments":
        """The same atoms with other features."""
        return Environments(features, self.species, self.n_atoms)

    @staticmethod
    def concatenate(parts: Sequence["Environments"]) -> "Environments":
        """All structures of `parts`, one after another."""
        return Environments(
            torch.cat([part.features for part in parts]),
            torch.cat([part.species for part in parts]),
            torch.cat([part.n_atoms for part in parts]),
        )
