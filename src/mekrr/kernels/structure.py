"""The kernel between structures: a sum of components, each a pointwise kernel summed over pairs of atoms.

With p = q = f = 1 for the sum embedding (for the mean one see `embedding`), a component is

    K_c(x, y) = sum_(i in x, j in y) k(h_i, h_j) [a + b (z_i = z_j)]

with k its pointwise kernel, a the amplitude of all pairs and b that of pairs of one species. The paper's species weight
w (arXiv 2306.01589, its multi-weight kernel) is the choice a = 1 - w, b = w. Sums of kernels are kernels, so that a
further component changes nothing but the list.
"""

from dataclasses import dataclass
from typing import Any

from mekrr.features.environments import Environments
from mekrr.kernels.embedding import EMBEDDINGS, Split
from mekrr.kernels.pointwise import PointwiseKernel, make_kernel
from mekrr.kernels.tiles import gram
from mekrr.typing import Float, Int, Tensor


@dataclass(frozen=True)
class Component:
    """One term of a structure kernel.

    Attributes:
        pointwise: k.
        all_pairs: amplitude a of every pair of atoms.
        same_species: amplitude b of pairs of one species, beside a.
    """

    pointwise: PointwiseKernel
    all_pairs: float
    same_species: float

    def mix(self, split: Split) -> Tensor:
        """A (all pairs) + b (same species)."""
        return self.all_pairs * split.all_pairs + self.same_species * split.same_species

    def between_atoms(
        self,
        values: Float[Tensor, "*any rows columns"],
        species: Int[Tensor, "rows"],
        other: Int[Tensor, "columns"],
    ) -> Float[Tensor, "*any rows columns"]:
        """K [a + b (z_i = z_j)] from values of k."""
        same = (species[:, None] == other[None, :]).to(values.dtype)
        return values * (self.all_pairs + self.same_species * same)


@dataclass(frozen=True)
class StructureKernel:
    """A sum of components under one embedding.

    Attributes:
        components: at least one.
        embedding: "sum" or "mean".
    """

    components: tuple[Component, ...]
    embedding: str = "sum"

    def __post_init__(self) -> None:
        if not self.components:
            raise ValueError("a structure kernel needs at least one component; received none")
        if self.embedding not in EMBEDDINGS:
            raise ValueError(f"unknown embedding {self.embedding!r}; choose {' or '.join(EMBEDDINGS)}")

    @staticmethod
    def weighted(pointwise: PointwiseKernel, species_weight: float, embedding: str = "sum") -> "StructureKernel":
        """One component with the species weight w: (1 - w) of all pairs and w of those of one species."""
        return StructureKernel((Component(pointwise, 1.0 - species_weight, species_weight),), embedding)

    def __add__(self, other: "StructureKernel") -> "StructureKernel":
        if other.embedding != self.embedding:
            raise ValueError(f"kernels of one embedding add up; received {self.embedding} and {other.embedding}")
        return StructureKernel(self.components + other.components, self.embedding)

    def gram(self, x: Environments, y: Environments | None = None) -> Float[Tensor, "rows columns"]:
        """K between the structures of x and y, or of x alone, in tiles."""
        parts = [c.mix(gram(x, y, c.pointwise, self.embedding).split(0)) for c in self.components]
        return sum(parts[1:], parts[0])

    def diagonal(self, x: Environments) -> Float[Tensor, "structures"]:
        """K(t, t) of each structure."""
        single = bool((x.n_atoms == 1).all())  # all pairs of one atom are of one species
        if single:
            return self.between_equal_atoms(x)
        values = [self.gram(x[x.n_atoms.new_tensor([t])]).reshape(()) for t in range(x.n_structures)]
        return x.features.new_tensor(values).double()

    def slope_diagonal(
        self, x: Environments, derivatives: Float[Tensor, "directions atoms features"]
    ) -> Float[Tensor, "directions"]:
        """Variances of the derivatives of one structure's energy along directions, sum embedding.

        Args:
            x: of one structure.
            derivatives: of its features along each direction.
        """
        parts = [
            c.between_atoms(c.pointwise.curvature(x.features, derivatives), x.species, x.species).sum((1, 2))
            for c in self.components
        ]
        return sum(parts[1:], parts[0])

    def between_equal_atoms(self, x: Environments) -> Float[Tensor, "atoms"]:
        """The kernel of each atom with itself."""
        parts = [(c.all_pairs + c.same_species) * c.pointwise.diagonal(x.features) for c in self.components]
        return sum(parts[1:], parts[0])

    def between_atoms(self, x: Environments, y: Environments) -> Float[Tensor, "rows columns"]:
        """The kernel between single atoms, sum embedding."""
        parts = [
            c.between_atoms(c.pointwise.values(x.features, y.features), x.species, y.species) for c in self.components
        ]
        return sum(parts[1:], parts[0])

    def as_records(self) -> list[dict[str, Any]]:
        """For the model file."""
        return [
            {
                "kernel": c.pointwise.name,
                "length_scale": c.pointwise.length_scale,
                "all_pairs": c.all_pairs,
                "same_species": c.same_species,
            }
            for c in self.components
        ]

    @staticmethod
    def from_records(records: list[dict[str, Any]], embedding: str) -> "StructureKernel":
        """From a model file.

        Raises:
            ValueError: for an unknown kernel or embedding.
        """
        components = tuple(
            Component(make_kernel(r["kernel"], r["length_scale"]), r["all_pairs"], r["same_species"]) for r in records
        )
        return StructureKernel(components, embedding)
