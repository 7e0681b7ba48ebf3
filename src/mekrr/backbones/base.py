"""What a backbone is: a frozen network that turns edge vectors into per-atom features and, often, atomic energies."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mekrr.graph import GraphBatch
from mekrr.typing import Float, Tensor


@dataclass(frozen=True)
class BackboneCard:
    """What a user should know of a backbone before using it.

    Attributes:
        name: the name given to --backbone.
        package: PyPI distribution that brings it, with mekrr's extra in `extra`.
        extra: `pip install mekrr[extra]` brings it.
        licence: licence of the weights (SPDX where there is one).
        citation: whom to cite.
        trained_on: data and level of theory.
        url: where the weights can be fetched, empty when they come inside the package.
    """

    name: str
    package: str
    extra: str
    licence: str
    citation: str
    trained_on: str
    url: str = ""


@dataclass(frozen=True, eq=False)
class BackboneOutput:
    """One pass over a batch.

    Attributes:
        features: invariant features of the requested layers, concatenated in the order asked for.
        atomic_energies: eV; their sum over a structure is the backbone's own energy. None when it has none.
    """

    features: Float[Tensor, "atoms features"]
    atomic_energies: Float[Tensor, "atoms"] | None


class Backbone(ABC):
    """A frozen network behind one method; forces, stress and directional derivatives are derived elsewhere.

    Subclasses set the attributes and implement `forward`, which must be deterministic, differentiable in the edge
    vectors (reverse mode; forward mode where `forward_mode` is True), and must not keep state.

    Attributes:
        card: licence, citation and origin.
        cutoff: Angstrom; the graph holds all edges up to it.
        max_neighbours: keep only so many nearest neighbours an atom, None for all.
        layers: names of the layers that can be tapped, in order of depth.
        layer_widths: number of features of each layer.
        known_species: atomic numbers it was trained on.
        has_energy: whether it predicts an energy of its own.
        forward_mode: whether torch.func.jvp works through it.
        weights_hash: SHA-256 hex digest of the weights; cached features and saved potentials are tied to it.
        dtype: of its weights and features.
        device: where it computes.
    """

    card: BackboneCard
    cutoff: float
    max_neighbours: int | None = None
    layers: tuple[str, ...]
    layer_widths: dict[str, int]
    known_species: frozenset[int]
    has_energy: bool
    forward_mode: bool = True
    weights_hash: str
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")

    @property
    def name(self) -> str:
        """The name under which it is registered."""
        return self.card.name

    @property
    def identity(self) -> str:
        """Name and hash of the weights: equal exactly when features are comparable."""
        return f"{self.name}:{self.weights_hash}"

    @abstractmethod
    def forward(
        self, graph: GraphBatch, edge_vectors: Float[Tensor, "edges 3"], layers: Sequence[str]
    ) -> BackboneOutput:
        """Features of `layers` and atomic energies.

        Args:
            graph: topology and species; its positions are not read.
            edge_vectors: Angstrom, any float dtype; cast to the backbone's own inside.
            layers: non-empty, each one of `self.layers`.
        """
