"""What a backbone is: a frozen network that turns edge vectors into per-atom features and, often, atomic energies."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from ase.data import chemical_symbols

from mekrr.backbones.linear_maps import LinearMap, offer_linear_maps
from mekrr.errors import BackboneUnavailableError
from mekrr.graph import GraphBatch
from mekrr.typing import Float, Tensor


@dataclass(frozen=True)
class BackboneCard:
    """What a user should know of a backbone before using it.

    Attributes:
        name: the name given to --backbone.
        package: PyPI distribution that brings it, empty when mekrr alone is enough.
        extra: `pip install mekrr[extra]` brings it, empty when mekrr alone is enough.
        licence: licence of the weights (SPDX where there is one).
        citation: whom to cite.
        trained_on: data and level of theory.
        url: where the weights can be fetched, empty when they come inside the package or from the user.
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
        path: of the weights, empty when they come inside a package.
        cutoff: Angstrom; the graph holds all edges up to it.
        reach: how many cutoffs far the energy of an atom looks; 0 where nobody needed to know.
        max_neighbours: keep only so many nearest neighbours an atom, None for all.
        jumps: why its energy is not continuous at the cutoff, in words that follow the name; empty where it is.
        layers: names of the layers that can be tapped, in order of depth.
        layer_widths: number of features of each layer.
        known_species: atomic numbers it was trained on.
        has_energy: whether it predicts an energy of its own.
        forward_mode: whether torch.func.jvp works through it, also under torch.func.vmap.
        reads: which of "charge" and "spin" of a structure it reads from the graph, beside the geometry. Features are
            cached under the hash of a structure with both, whoever reads them.
        double_reverse: whether reverse mode works through it twice, in what enters linear maps and in the edge vectors;
            networks trained on forces allow that. Where False, reverse over forward mode is relied on instead.
        exchanges: whether `forward` asks for ghosts' rows before each convolution, where an exchange is set.
        linear_maps: those on the way to the energy that `forward` shows to a tap (`offer`), in the order in
            which it meets them; none where a network has nothing to offer.
        linear_layers: the modules that hold them, by name.
        origin: the network whose weights were changed, and the change; None for one as it was loaded.
        without_maps: why there are none, in words that follow the name.
        weights_hash: SHA-256 hex digest of the weights; cached features and saved potentials are tied to it.
        dtype: of its weights and features.
        device: where it computes.
        trusted: whether its weights may be unpickled again, by another process.
    """

    card: BackboneCard
    path: str = ""
    trusted: bool = False
    cutoff: float
    reach: int = 0
    max_neighbours: int | None = None
    jumps: str = ""
    layers: tuple[str, ...]
    layer_widths: dict[str, int]
    known_species: frozenset[int]
    has_energy: bool
    reads: tuple[str, ...] = ()
    forward_mode: bool = True
    double_reverse: bool = True
    exchanges: bool = False
    linear_maps: tuple[LinearMap, ...] = ()
    linear_layers: Mapping[str, Any] = MappingProxyType({})
    origin: tuple[Any, Any] | None = None
    without_maps: str = "names no linear maps"
    weights_hash: str
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")

    @property
    def name(self) -> str:
        """The name under which it is registered."""
        return self.card.name

    @property
    def spec(self) -> str:
        """What `load_backbone` takes to load it again: the name, and the path of the weights if they have one."""
        return f"{self.name}:{self.path}" if self.path else self.name

    @property
    def identity(self) -> str:
        """Name and hash of the weights: equal exactly when features are comparable."""
        return f"{self.name}:{self.weights_hash}"

    def __reduce__(self) -> tuple[Any, tuple]:
        """A network travels as its name and the hash of its weights, and is loaded, and changed, where it arrives."""
        from mekrr.backbones.changed import changed
        from mekrr.backbones.registry import load_equal

        if self.origin is not None:
            return changed, self.origin
        return load_equal, (self.spec, self.device.type, self.dtype, self.trusted, self.identity)

    @abstractmethod
    def forward(
        self,
        graph: GraphBatch,
        edge_vectors: Float[Tensor, "edges 3"],
        layers: Sequence[str],
        energies: bool = True,
    ) -> BackboneOutput:
        """Features of `layers` and atomic energies.

        Args:
            graph: topology and species; its positions are not read.
            edge_vectors: Angstrom, any float dtype; cast to the backbone's own inside.
            layers: non-empty, each one of `self.layers`.
            energies: False when nobody reads them: what lies deeper than `layers` may then be left out.

        Raises:
            ValueError: if a layer or a species is unknown.
        """

    def offer(self, layers: Mapping[str, Any]) -> None:
        """Name the linear layers on the way to the energy; see `offer_linear_maps`."""
        self.linear_layers = dict(layers)
        self.linear_maps = offer_linear_maps(layers)

    def write_checkpoint(self, path: Path, shifts: Mapping[int, float]) -> None:
        """Write the network as a checkpoint of its own package, with shifts of its energy by element.

        Args:
            path: the file to write.
            shifts: eV, by atomic number.

        Raises:
            ValueError: for a network that cannot be written.
            OSError: when the file cannot be written.
        """
        raise ValueError(f"{self.name} cannot be written as a checkpoint of its own package; SevenNet can")

    def scripted(self, layers: Sequence[str]) -> Any:
        """The network as a TorchScript module, on the CPU, for programs that load one.

        Its `forward(species, structure, n_atoms, centre, neighbour, vectors, tracked)` returns features, atomic
        energies and, where tracked, for each of `linear_maps` what goes in and what comes out of it: (atoms, channels x
        components). Energies can be differentiated in what comes out, and once more in the vectors.

        Args:
            layers: whose features are wanted, concatenated in this order.

        Raises:
            ValueError: for a network that cannot be scripted.
        """
        raise ValueError(
            f"{self.name} cannot be written as TorchScript; SevenNet can. This potential runs through mekrr's "
            "calculator and engines"
        )

    def prepare(
        self, graph: GraphBatch, edge_vectors: Float[Tensor, "edges 3"], layers: Sequence[str]
    ) -> tuple[GraphBatch, Float[Tensor, "edges 3"]]:
        """Graph and edge vectors on the backbone's device and in its dtype: the first line of every `forward`.

        Raises:
            ValueError: if a layer or a species is unknown, or a charge or spin that it reads is no number.
        """
        unknown_layers = [layer for layer in layers if layer not in self.layers]
        if unknown_layers or not layers:
            raise ValueError(
                f"layers of {self.name} are {', '.join(self.layers)}; received {list(layers)}, ask for at least one of "
                "its layers and no other"
            )
        self.check_species(graph.species.unique().tolist())
        self._check_electrons(graph)
        if graph.species.device != self.device:
            graph = graph.to(self.device)
        return graph, edge_vectors.to(self.device, self.dtype)

    def _check_electrons(self, graph: GraphBatch) -> None:
        for name in self.reads:
            values = getattr(graph, name)
            wrong = [0] if values is None else (~values.isfinite()).nonzero().flatten().tolist()
            if wrong:
                raise ValueError(
                    f"{self.name} reads the {name} of a structure, and structure {wrong[0]} of the batch has none that "
                    f"is a number; correct info[{name!r}], or leave it out for a neutral singlet"
                )

    def check_species(self, species: Sequence[int]) -> None:
        """Raise ValueError, naming the elements, unless all atomic numbers in `species` are known."""
        unknown = sorted(set(species) - self.known_species)
        if unknown:
            names = ", ".join(chemical_symbols[z] if 0 < z < len(chemical_symbols) else str(z) for z in unknown)
            raise ValueError(
                f"{self.name} was not trained on {names}; choose another backbone (`mekrr backbones` lists them) or "
                "drop those structures"
            )


class BackboneEntry(ABC):
    """What an entry point of the group `mekrr.backbones` holds: a card and a way to load; importing it is cheap.

    Attributes:
        card: licence, citation and origin.
        layers: names of the layers, known before loading; empty when they depend on the checkpoint.
        module: the module whose presence tells that the package is installed, empty when mekrr alone is enough.
        weights: where the weights come from, in words.
    """

    card: BackboneCard
    layers: tuple[str, ...]
    module: str = ""
    weights: str

    def is_installed(self) -> bool:
        """Whether the package it needs can be imported; nothing is imported to find out."""
        return not self.module or find_spec(self.module) is not None

    @abstractmethod
    def load(self, path: Path | None, device: torch.device, dtype: torch.dtype, trust_checkpoint: bool) -> Backbone:
        """The backbone, ready to compute.

        Args:
            path: the user's weights, None for the published ones.
            device: where to compute.
            dtype: of weights and features.
            trust_checkpoint: allow unpickling a file that can run code when loaded.

        Raises:
            BackboneUnavailableError: if the weights are missing, altered, unreadable or not trusted.
        """

    def require_installed(self) -> None:
        """Raise BackboneUnavailableError, with the line to type, unless the package is installed."""
        if not self.is_installed():
            raise BackboneUnavailableError(
                f"backbone {self.card.name} needs the package {self.card.package}, which is not installed; "
                f'run: pip install "mekrr[{self.card.extra}]"'
            )
