"""A fitted prior."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

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
        table = torch.zeros(1 + int(species.max()) if len(species) else 0, dtype=torch.float64)
        for z, shift in self.shifts.items():
            if z < len(table):
                table[z] = shift
        return table[species] + self.everywhere

    def leaves_open(self, counts: Mapping[int, int]) -> bool:
        """Whether the training data do not determine the energy of a composition.

        Args:
            counts: atoms of each element in the structure asked about.
        """
        elements = sorted(self.shifts)
        shares = [sum(counts.get(z, 0) * v for z, v in zip(elements, row, strict=True)) for row in self.undetermined]
        return any(abs(share) > 1e-6 * max(1, sum(counts.values())) for share in shares)


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
