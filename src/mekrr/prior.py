"""Prior means: what the potential falls back on far from its data.

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
from dataclasses import dataclass, field

import torch
from ase.data import chemical_symbols

from mekrr.solve import LinearPrior
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


def target_columns(
    energies: Float[Tensor, "structures"],
    backbone_energies: Float[Tensor, "structures"] | None,
    compositions: Compositions,
) -> Float[Tensor, "structures columns"]:
    """What every prior is a combination of: DFT energy, backbone energy (0 without one), atoms of each element."""
    own = torch.zeros_like(energies) if backbone_energies is None else backbone_energies
    return torch.cat([energies[:, None], own[:, None], compositions.counts], dim=1)


def column_coefficients(
    design: PriorDesign,
    beta: Float[Tensor, "*fits parameters"],
    elements: Sequence[int],
    references: Mapping[int, float] | None = None,
) -> Float[Tensor, "*fits columns"]:
    """DFT minus prior as a combination of the target columns.

    Args:
        design: of the prior.
        beta: its coefficients, of one fit or of several.
        elements: of the columns.
        references: as in `prior_design`.
    """
    found = torch.zeros(*beta.shape[:-1], 2 + len(elements), dtype=torch.float64)
    found[..., 0] = 1.0
    found[..., 1] = -1.0 if design.name == "backbone" else 0.0
    if design.name == "composition" and references:
        found[..., 2:] -= torch.tensor([references.get(z, 0.0) for z in elements], dtype=torch.float64)
    for p, column in enumerate(design.columns):
        if column == "mean":
            found[..., 2:] -= beta[..., p, None]
        elif column == "factor":
            found[..., 1] -= beta[..., p]
        else:
            found[..., 2 + list(elements).index(int(column))] -= beta[..., p]
    return found


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
