"""SevenNet: equivariant message passing by the group of S. Han, weights inside the PyPI package sevenn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mekrr.backbones.base import Backbone, BackboneCard, BackboneEntry, BackboneOutput
from mekrr.backbones.convolution import Edges
from mekrr.backbones.convolve import convolve
from mekrr.backbones.equivariant import eager_e3nn, even_scalars, fused
from mekrr.backbones.exchange import exchanged
from mekrr.backbones.linear_maps import map_columns
from mekrr.backbones.sevennet_checkpoint import write_checkpoint
from mekrr.backbones.sevennet_script import scripted_sevennet
from mekrr.backbones.weights import packaged_file, require_trust
from mekrr.errors import BackboneUnavailableError
from mekrr.files import sha256_of
from mekrr.graph import GraphBatch
from mekrr.typing import Float, Tensor

_CITATION = "Park, Kim, Hwang, Han, J. Chem. Theory Comput. 20, 4857 (2024)"
_LAYERS = tuple(f"interaction_{depth}" for depth in range(5))


class SevenNet(Backbone):
    """SevenNet's own modules, run up to the atomic energies with the edge vectors given.

    A layer's features are the even scalars after an interaction's equivariant gate. The convolutions, which take nearly
    all the time, are done by `mekrr.backbones.convolution`; first derivatives only, in reverse and forward mode.

    Args:
        card: licence, citation and origin.
        model: sevenn's AtomGraphSequential.
        weights_hash: SHA-256 of the checkpoint.
        modality: level of theory, for multi-fidelity models only.
        path: of a user's checkpoint.
        source: of the weights, wherever they come from.
    """

    has_energy = True
    exchanges = True
    double_reverse = False  # the convolution's gradient in the geometry has no derivative; its tangent has

    def __init__(
        self,
        card: BackboneCard,
        model: Any,
        weights_hash: str,
        modality: str | None = None,
        path: str = "",
        source: Path | None = None,
    ) -> None:
        self.card = card
        self.path = path
        self._source = source
        self.weights_hash = weights_hash
        self.cutoff = float(model.cutoff)
        self.known_species = frozenset(model.type_map)
        parameter = next(model.parameters())
        self.dtype, self.device = parameter.dtype, parameter.device
        self._modules = _up_to_atomic_energies(model)
        self._modality = _modality_index(card.name, model.modal_map, modality)
        self._type_index = torch.zeros(120, dtype=torch.int64, device=self.device)
        self._type_index[list(model.type_map)] = torch.tensor(list(model.type_map.values()), device=self.device)
        self._spherical = model.edge_embedding.spherical
        self._convolutions = {
            name: fused(module, model.edge_embedding)
            for name, module in self._modules.items()
            if name.endswith("_convolution")
        }
        self.reach = len(self._convolutions)
        self._scalars = {
            name: even_scalars(module.gate.irreps_out)
            for name, module in self._modules.items()
            if name.endswith("equivariant_gate")
        }
        self.layers = tuple(f"interaction_{depth}" for depth in range(len(self._scalars)))
        # Not the embedding, whose weights are one vector an element, and not the self-connections: they add nothing.
        self.offer({name: m.linear for name, m in self._modules.items() if type(m).__name__ == "IrrepsLinear"})
        self.layer_widths = dict(zip(self.layers, map(len, self._scalars.values()), strict=True))

    def forward(
        self,
        graph: GraphBatch,
        edge_vectors: Float[Tensor, "edges 3"],
        layers: Sequence[str],
        energies: bool = True,
    ) -> BackboneOutput:
        """See Backbone.forward; energies in eV."""
        graph, edge_vectors = self.prepare(graph, edge_vectors, layers)
        lengths, harmonics = torch.linalg.vector_norm(edge_vectors, dim=1), self._spherical(edge_vectors)
        edges = Edges.of(graph)
        data, tapped = self._inputs(graph), []
        last = max(self.layers.index(layer) for layer in layers)
        for name, module in self._modules.items():
            if name in self._convolutions:
                data["x"] = convolve(self._convolutions[name], edges, exchanged(data["x"]), lengths, harmonics)
            else:
                data = module(data)
            if name == "onehot_idx_to_onehot":
                data = {key: self._floats(value) for key, value in data.items()}
            if name in self._scalars:
                tapped.append(data["x"][:, self._scalars[name]])
            if not energies and len(tapped) > last:
                break
        features = torch.cat([tapped[self.layers.index(layer)] for layer in layers], dim=1)
        return BackboneOutput(features, data["atomic_energy"].squeeze(1) if energies else None)

    def write_checkpoint(self, path: Path, shifts: Mapping[int, float]) -> None:
        """See Backbone.write_checkpoint."""
        if self._source is None:
            raise ValueError("this SevenNet came from no file, and only what came from one can be written again")
        write_checkpoint(self._source, self.linear_layers, shifts, path)

    def scripted(self, layers: Sequence[str]) -> Any:
        """See Backbone.scripted."""
        if self._source is None:
            raise ValueError("this SevenNet came from no file, and only what came from one can be built again")
        gates = dict(zip(self.layers, self._scalars.items(), strict=True))
        scalars = dict(gates[layer] for layer in layers)
        columns = map_columns(self.linear_layers)
        return scripted_sevennet(self._source, self.linear_layers, scalars, columns, self._modality)

    def _inputs(self, graph: GraphBatch) -> dict[str, Tensor]:
        data = {"x": self._type_index[graph.species], "batch": graph.structure}
        if self._modality is not None:
            data["modal_type"] = torch.full_like(graph.n_atoms, self._modality)
        return data

    def _floats(self, value: Tensor) -> Tensor:
        """Undo sevenn's fixed float32 for one-hot species, so that float64 models work."""
        return value.to(self.dtype) if value.is_floating_point() else value


@dataclass(frozen=True)
class SevenNetEntry(BackboneEntry):
    """A SevenNet whose checkpoint is inside sevenn, known by its hash.

    Attributes:
        relative: path of the checkpoint below the package's folder.
        sha256: of that file, as shipped with sevenn 0.13.0.
        modality: level of theory, for multi-fidelity models only.
    """

    card: BackboneCard
    relative: str
    sha256: str
    modality: str | None = None
    layers: tuple[str, ...] = _LAYERS
    module: str = "sevenn"
    weights: str = "inside the package sevenn, checked by SHA-256"

    def load(self, path: Path | None, device: torch.device, dtype: torch.dtype, trust_checkpoint: bool) -> SevenNet:
        """See BackboneEntry.load; sevenn's checkpoint is a pickle, unpickled only when its hash is the known one."""
        if path is not None:
            raise BackboneUnavailableError(
                f"{self.card.name} takes no path (received {path}); a checkpoint of your own is sevennet:{path}"
            )
        found = packaged_file(self.module, self.relative, self.sha256, self.card.package)
        model = _build(found).to(device, dtype)
        return SevenNet(self.card, model, self.sha256, self.modality, source=found)


@dataclass(frozen=True)
class SevenNetFileEntry(BackboneEntry):
    """A SevenNet checkpoint of the user's own, `sevennet:path`; a multi-fidelity model uses its first modality."""

    card: BackboneCard
    layers: tuple[str, ...] = ()
    module: str = "sevenn"
    weights: str = "your checkpoint, sevennet:path with --trust-checkpoint"

    def load(self, path: Path | None, device: torch.device, dtype: torch.dtype, trust_checkpoint: bool) -> SevenNet:
        """See BackboneEntry.load."""
        if path is None:
            raise BackboneUnavailableError(
                "sevennet alone names no weights; give sevennet:path, or sevennet-0, sevennet-l3i5 or sevennet-mf-0"
            )
        require_trust(path, trust_checkpoint)
        weights_hash = sha256_of(path)
        try:
            model = _build(path).to(device, dtype)
        except Exception as error:
            raise BackboneUnavailableError(f"{path} is not a checkpoint that sevenn can load: {error}") from error
        return SevenNet(self.card, model, weights_hash, next(iter(model.modal_map or {}), None), str(path), path)


def _build(path: Path) -> Any:
    """SevenNet's model in evaluation mode, weights frozen, without TorchScript (which stops forward mode)."""
    from sevenn.checkpoint import SevenNetCheckpoint

    with eager_e3nn():
        return SevenNetCheckpoint(path).build_model().eval().requires_grad_(False)


def _up_to_atomic_energies(model: Any) -> dict[str, Any]:
    """The modules between the edge embedding and the sum over atoms."""
    modules = dict(model.named_children())
    names = list(modules)
    return {name: modules[name] for name in names[1 : names.index("rescale_atomic_energy") + 1]}


def _modality_index(name: str, modal_map: dict[str, int] | None, modality: str | None) -> int | None:
    if not modal_map:
        return None
    if modality not in modal_map:
        raise BackboneUnavailableError(f"{name} has the modalities {', '.join(modal_map)}; received {modality}")
    return modal_map[modality]


def _card(name: str, citation: str, trained_on: str) -> BackboneCard:
    # The weights come inside the distribution of sevenn and carry no licence of their own.
    return BackboneCard(name, "sevenn", "sevennet", "MIT", citation, trained_on)


SEVENNET_0 = SevenNetEntry(
    _card("sevennet-0", _CITATION, "MPtrj, PBE and PBE+U (weights of 11 July 2024)"),
    "pretrained_potentials/SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth",
    "7052cb42b7b3be42b40b97fa0d21077a48c54b5548948fc4dcf346629f813c36",
)
SEVENNET_L3I5 = SevenNetEntry(
    _card("sevennet-l3i5", _CITATION, "MPtrj, PBE and PBE+U"),
    "pretrained_potentials/SevenNet_l3i5/checkpoint_l3i5.pth",
    "a7ff190d41efe5b8317a03d20a468e4036a1a3e64e0b14fdbab64ac3f4bfc09d",
)
SEVENNET_MF_0 = SevenNetEntry(
    _card(
        "sevennet-mf-0",
        "Kim et al., J. Am. Chem. Soc. 147, 1042 (2025)",
        "MPtrj (PBE and PBE+U) and a smaller r2SCAN set; features and energies of the PBE modality",
    ),
    "pretrained_potentials/SevenNet_MF_0/checkpoint_sevennet_mf_0.pth",
    "81791329b37d445f46b531578c182c41792d98c7814222c9e5dde276402225fd",
    modality="PBE",
)
SEVENNET = SevenNetFileEntry(_card("sevennet", _CITATION, "whatever your checkpoint was trained on"))
