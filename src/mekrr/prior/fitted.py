"""A fitted prior."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from ase.data import chemical_symbols

from mekrr.prior.design import Compositions, PriorDesign, prior_design
from mekrr.prior.regression import LinearPrior
from mekrr.typing import Float, Int, Tensor


@dataclass(frozen=True, eq=False)
class Prior:
    """A fitted prior.

    Attributes:
        name: one of PRIORS.
        shifts: eV per atom of each element seen in training.
        factor: of the backbone's energy, 0 for priors without one.
        everywhere: eV per atom of any element (the prior "none").
        undetermined: orthonormal rows spanning the element combinations the training data leave undetermined.
    """

    name: str
    shifts: dict[int, float]
    factor: float = 0.0
    everywhere: float = 0.0
    undetermined: list[list[float]] = field(default_factory=list)

    @staticmethod
    def from_coefficients(
        design: PriorDesign,
        beta: Float[Tensor, "columns"],
        compositions: Compositions,
        references: Mapping[int, float] | None,
    ) -> "Prior":
        """The prior that a fit of `design` gave."""
        found = dict(zip(design.columns, beta.tolist(), strict=True))
        factor = 1.0 if design.name == "backbone" else float(found.pop("factor", 0.0))
        everywhere = float(found.pop("mean", 0.0))
        shifts = dict.fromkeys(compositions.elements, 0.0) if design.name == "none" else {}
        if design.name == "composition" and references:
            shifts |= {z: references[z] for z in compositions.elements if z in references}
        shifts |= {int(z): value for z, value in found.items()}
        free = [z for z in compositions.elements if z in found]
        return Prior(design.name, shifts, factor, everywhere, _null_space(compositions, free))

    def shift_energies(self, species: Int[Tensor, "atoms"]) -> Float[Tensor, "atoms"]:
        """The part of each atom that no geometry changes, eV; 0 shift for elements unseen in training."""
        table = torch.zeros(int(species.max()) + 1, dtype=torch.float64)
        for z, shift in self.shifts.items():
            if z < len(table):
                table[z] = shift
        return table[species] + self.everywhere

    def undetermined_combination(self, counts: Mapping[int, int]) -> str | None:
        """Names a change of composition whose energy the training data do not determine, or None.

        Args:
            counts: atoms of each element in the structure asked about.
        """
        elements = sorted(self.shifts)
        for row in self.undetermined:
            vector = dict(zip(elements, row, strict=True))
            size = sum(counts.get(z, 0) * vector.get(z, 0.0) for z in elements)
            if abs(size) > 1e-6 * max(1, sum(counts.values())):
                return _name_combination(vector)
        return None


def fit_prior(
    name: str,
    energies: Float[Tensor, "structures"],
    compositions: Compositions,
    backbone_energies: Float[Tensor, "structures"] | None,
    weights: Float[Tensor, "structures"] | None = None,
    references: Mapping[int, float] | None = None,
) -> tuple[Prior, LinearPrior, PriorDesign]:
    """Fit one prior to total energies in eV.

    Returns:
        The prior, its regression problem with all leave-one-out refits, and its design.
    """
    design = prior_design(name, compositions, backbone_energies, references)
    row_weight = (torch.ones_like(energies) if weights is None else weights.sqrt()) / compositions.n_atoms
    linear = LinearPrior.fit(design.H, energies - design.fixed, row_weight)
    return Prior.from_coefficients(design, linear.beta, compositions, references), linear, design


def _null_space(compositions: Compositions, free: Sequence[int]) -> list[list[float]]:
    """Orthonormal rows over all elements, zero outside the free ones, that no training composition has a share in."""
    columns = [compositions.elements.index(z) for z in free]
    if not columns:
        return []
    fractions = compositions.counts[:, columns] / compositions.n_atoms[:, None]
    _, s, Vh = torch.linalg.svd(fractions, full_matrices=True)
    rank = int((s > 1e-8 * s.max()).sum())
    rows = torch.zeros(len(columns) - rank, len(compositions.elements), dtype=torch.float64)
    rows[:, columns] = Vh[rank:]
    return rows.tolist()


def _name_combination(vector: Mapping[int, float]) -> str:
    """A direction in composition space in words, e.g. '+1.00 C -0.50 O'."""
    largest = max(abs(value) for value in vector.values())
    terms = [(z, value / largest) for z, value in vector.items() if abs(value) > 1e-3 * largest]
    return " ".join(f"{value:+.2f} {chemical_symbols[z]}" for z, value in terms)
