"""The environments a potential remembers, and how far others lie from them."""

from dataclasses import dataclass
from functools import cached_property

import torch
from ase.data import chemical_symbols
from ase.symbols import Symbols

from mekrr.features import Environments
from mekrr.pages.words import short_names
from mekrr.potential import Fitted
from mekrr.potential.data_record import DataRecord
from mekrr.typing import Float, Int, Tensor

PAIRS_AT_ONCE = 4_000_000
SAMPLED = 400  # environments of each species from which the usual distance is taken
USUAL = 0.95  # the quantile that is called usual


@dataclass(frozen=True, eq=False)
class Nearest:
    """The nearest remembered environment of the same species, for each atom.

    Attributes:
        index: among the remembered environments; -1 where the species was never seen.
        distance: between standardised features; infinite where the species was never seen.
    """

    index: Int[Tensor, "atoms"]
    distance: Float[Tensor, "atoms"]


@dataclass(frozen=True, eq=False)
class Known:
    """Remembered environments: all training atoms (exact solver), or the inducing environments (sparse solver).

    Attributes:
        features: standardised.
        species: atomic numbers.
        group: the group of the expansion each belongs to: training structure, or inducing environment.
        are_training_atoms: whether groups are training structures.
    """

    features: Float[Tensor, "known features"]
    species: Int[Tensor, "known"]
    group: Int[Tensor, "known"]
    are_training_atoms: bool

    @staticmethod
    def of(fitted: Fitted) -> "Known":
        """Those of a potential."""
        found = fitted.model.centres
        return Known(found.features, found.species, found.structure, fitted.model.solver == "exact")

    def nearest(self, x: Environments) -> Nearest:
        """For each atom of standardised environments, the nearest remembered one of its species."""
        index = torch.full_like(x.species, -1)
        distance = torch.full(x.species.shape, torch.inf, dtype=torch.float64)
        for z in torch.unique(x.species).tolist():
            rows, columns = torch.nonzero(x.species == z).flatten(), torch.nonzero(self.species == z).flatten()
            if len(columns):
                index[rows], distance[rows] = self._nearest(x.features[rows], columns)
        return Nearest(index, distance)

    @cached_property
    def usual(self) -> dict[int, float]:
        """For each species, the distance within which 95% of the remembered environments have another one.

        For the exact solver, another one of another training structure. It is measured on at most 400 of a species;
        a species with a single group has no entry.
        """
        found = {int(z): self._usual(int(z)) for z in torch.unique(self.species)}
        return {z: value for z, value in found.items() if value is not None}

    def _usual(self, z: int) -> float | None:
        columns = torch.nonzero(self.species == z).flatten()
        sample = columns[torch.linspace(0, len(columns) - 1, min(SAMPLED, len(columns))).long()]
        _, distance = self._nearest(self.features[sample], columns, self.group[sample])
        distance = distance[distance.isfinite()]
        return float(torch.quantile(distance, USUAL)) if len(distance) else None

    def _nearest(
        self, h: Float[Tensor, "rows features"], columns: Int[Tensor, "columns"], own: Int[Tensor, "rows"] | None = None
    ) -> tuple[Int[Tensor, "rows"], Float[Tensor, "rows"]]:
        """Index and distance among `columns`, without those of the row's own group if that is given."""
        u = self.features[columns]
        chosen, none = [], []
        for rows in torch.arange(len(h)).split(max(1, PAIRS_AT_ONCE // len(columns))):
            squares = torch.cdist(h[rows], u)
            if own is not None:
                squares[own[rows][:, None] == self.group[columns][None, :]] = torch.inf
            best = squares.min(1)
            chosen.append(best.indices)
            none.append(best.values.isinf())
        index = torch.cat(chosen)
        # again by differences: products lose what is left between nearly equal features
        distance = (h - u[index]).square().sum(1).sqrt()
        distance[torch.cat(none)] = torch.inf
        return columns[index], distance

    def name(self, group: int, fitted: Fitted) -> str:
        """What a group is called: by file, index and, for inducing environments, atom, where the model knows them."""
        record = fitted.record
        if self.are_training_atoms:
            where = _where(record.data, group) or f"training structure {group}"
            return f"{where} ({training_formula(fitted, group)})"
        symbol = chemical_symbols[int(self.species[group])]
        places = record.solver.inducing_atoms
        if group >= len(places):
            return f"inducing environment {group} ({symbol})"
        structure, atom = places[group]
        return f"{_where(record.data, structure) or f'training structure {structure}'}, atom {atom} ({symbol})"


def _where(data: DataRecord, structure: int) -> str | None:
    """Shortened file and index of a training structure."""
    origin = data.origin(structure)
    return None if origin is None else f"{short_names(data.sources)[origin[0]]}, index {origin[1]}"


def training_formula(fitted: Fitted, structure: int) -> str:
    """Composition of a training structure in Hill's order, as in CHCu12O2."""
    labels = fitted.labels
    end = int(labels.n_atoms[: structure + 1].sum())
    return Symbols(labels.species[end - int(labels.n_atoms[structure]) : end].numpy()).get_chemical_formula()
