"""Prior means as regression problems: what the potential falls back on far from its data.

| name            | energy of a structure                                            | fitted                    |
|-----------------|------------------------------------------------------------------|---------------------------|
| none            | n times the mean energy per atom                                 | that mean                 |
| composition     | sum of one energy per element                                    | the energies per element  |
| backbone        | the backbone's own energy plus one shift per element             | the shifts                |
| backbone-scaled | the backbone's energy times a factor plus one shift per element  | the factor and the shifts |

All are linear in what is fitted, so leave-one-out refits them in closed form. Rows are weighted by
sqrt(weight) / n: the fit is to energies per atom.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from mekrr.typing import Float, Int, Tensor

PRIORS = ("none", "composition", "backbone", "backbone-scaled")
NEEDS_BACKBONE = ("backbone", "backbone-scaled")


@dataclass(frozen=True, eq=False)
class Compositions:
    """How many atoms of each element each structure has.

    Attributes:
        counts: float64.
        elements: atomic numbers, ascending.
    """

    counts: Float[Tensor, "structures elements"]
    elements: tuple[int, ...]

    @staticmethod
    def of(
        species: Int[Tensor, "atoms"], n_atoms: Int[Tensor, "structures"], elements: Sequence[int] | None = None
    ) -> "Compositions":
        """Count atoms; elements outside `elements` are not counted."""
        elements = tuple(torch.unique(species).tolist()) if elements is None else tuple(elements)
        structure = torch.repeat_interleave(torch.arange(len(n_atoms)), n_atoms)
        counts = torch.zeros(len(n_atoms), len(elements), dtype=torch.float64)
        for column, z in enumerate(elements):
            counts[:, column] = torch.zeros(len(n_atoms), dtype=torch.float64).index_add_(
                0, structure, (species == z).double()
            )
        return Compositions(counts, elements)

    @property
    def n_atoms(self) -> Float[Tensor, "structures"]:
        """Atoms counted in each structure."""
        return self.counts.sum(1)

    @property
    def rank(self) -> int:
        """Number of independent compositions."""
        return int(torch.linalg.matrix_rank(self.counts / self.n_atoms[:, None], rtol=1e-8))


@dataclass(frozen=True, eq=False)
class PriorDesign:
    """A prior as a regression problem on given structures.

    Attributes:
        name: of the prior.
        fixed: energy that is not fitted, eV.
        H: design matrix, total energies.
        columns: what each column's coefficient is: an atomic number, or "factor", or "mean".
    """

    name: str
    fixed: Float[Tensor, "structures"]
    H: Float[Tensor, "structures columns"]
    columns: tuple[int | str, ...]


def prior_design(
    name: str,
    compositions: Compositions,
    backbone_energies: Float[Tensor, "structures"] | None,
    references: Mapping[int, float] | None = None,
) -> PriorDesign:
    """The fixed part and the design matrix of a prior.

    Args:
        name: one of PRIORS.
        compositions: of the structures.
        backbone_energies: eV; needed by the backbone priors.
        references: energies of isolated atoms in eV, which the composition prior then does not fit.

    Raises:
        ValueError: for an unknown prior, or a backbone prior without backbone energies.
    """
    if name not in PRIORS:
        raise ValueError(f"unknown prior {name!r}; choose auto or one of {', '.join(PRIORS)}")
    if name in NEEDS_BACKBONE and backbone_energies is None:
        raise ValueError(f"the prior {name!r} needs a backbone with an energy of its own; choose none or composition")
    counts, elements = compositions.counts, compositions.elements
    fixed = torch.zeros(len(counts), dtype=torch.float64)
    if name == "none":
        return PriorDesign(name, fixed, counts.sum(1, keepdim=True), ("mean",))
    if name == "composition" and references:
        free = [column for column, z in enumerate(elements) if z not in references]
        energies = torch.tensor([references.get(z, 0.0) for z in elements], dtype=torch.float64)
        return PriorDesign(name, counts @ energies, counts[:, free], tuple(elements[column] for column in free))
    if name == "composition":
        return PriorDesign(name, fixed, counts, elements)
    assert backbone_energies is not None
    if name == "backbone":
        return PriorDesign(name, backbone_energies, counts, elements)
    return PriorDesign(name, fixed, torch.cat([counts, backbone_energies[:, None]], dim=1), (*elements, "factor"))
