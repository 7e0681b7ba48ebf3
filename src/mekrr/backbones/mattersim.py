"""MatterSim: M3GNet trained by Microsoft Research, weights published beside the PyPI package mattersim."""

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mekrr.backbones.base import Backbone, BackboneCard, BackboneEntry, BackboneOutput
from mekrr.backbones.fetch import fetched_path
from mekrr.backbones.line_graph import edge_pairs
from mekrr.errors import BackboneUnavailableError
from mekrr.files import sha256_of
from mekrr.graph import GraphBatch
from mekrr.typing import Float, Tensor

# The network has rows for 94 elements and was trained on 89 (Yang et al. 2024): not Po, At, Rn, Fr, Ra.
_UNTRAINED = frozenset(range(84, 89))
_ROUNDING = 1e-7  # as mattersim keeps the arc cosine away from its ends


class MatterSim(Backbone):
    """MatterSim's own layers, run with the edge vectors given.

    A layer's features are the atom features after a block. Atomic energies include the model's scale and shift by
    element.

    Args:
        card: licence, citation and origin.
        model: mattersim's M3Gnet.
        weights_hash: SHA-256 of the checkpoint.
        path: of a user's checkpoint.
    """

    has_energy = True
    forward_mode = False  # its sums over edges are compiled by TorchScript

    def __init__(self, card: BackboneCard, model: Any, weights_hash: str, path: str = "") -> None:
        self.card = card
        self.path = path
        self.weights_hash = weights_hash
        arguments = model.model_args
        self.cutoff = float(arguments["cutoff"])
        self.layers = tuple(f"block_{depth}" for depth in range(arguments["num_blocks"]))
        self.layer_widths = dict.fromkeys(self.layers, int(arguments["units"]))
        self.known_species = frozenset(range(1, arguments["max_z"] + 1)) - _UNTRAINED
        parameter = next(model.parameters())
        self.dtype, self.device = parameter.dtype, parameter.device
        self._model = model
        self._angle_cutoff = float(arguments["threebody_cutoff"])
        self._max_z = int(arguments["max_z"])
        self.offer(_atom_layers(model))

    def forward(
        self,
        graph: GraphBatch,
        edge_vectors: Float[Tensor, "edges 3"],
        layers: Sequence[str],
        energies: bool = True,
    ) -> BackboneOutput:
        """See Backbone.forward; energies in eV."""
        graph, edge_vectors = self.prepare(graph, edge_vectors, layers)
        depth = len(self.layers) if energies else 1 + max(self.layers.index(layer) for layer in layers)
        tapped = self._blocks(graph, edge_vectors, depth)
        features = torch.cat([tapped[self.layers.index(layer)] for layer in layers], dim=1)
        if not energies:
            return BackboneOutput(features, None)
        own = self._model.normalizer(self._model.final(tapped[-1]).view(-1), graph.species)
        return BackboneOutput(features, own)

    def _blocks(
        self, graph: GraphBatch, edge_vectors: Float[Tensor, "edges 3"], depth: int
    ) -> list[Float[Tensor, "atoms features"]]:
        """Atom features after each of the first `depth` blocks."""
        model = self._model
        lengths = torch.linalg.vector_norm(edge_vectors, dim=1)
        first, second = edge_pairs(graph, self._angle_cutoff)
        cosines = (edge_vectors[first] * edge_vectors[second]).sum(1) / (lengths[first] * lengths[second])
        angles = torch.acos(cosines.clamp(-1.0 + _ROUNDING, 1.0 - _ROUNDING))
        three_basis = model.sbf(lengths[second], angles)
        radial = model.rbf(lengths)
        edges = model.edge_encoder(radial)
        one_hot = torch.nn.functional.one_hot(graph.species, self._max_z + 1).to(self.dtype)
        atoms = model.atom_embedding(one_hot)
        pairs = torch.stack([graph.centre, graph.neighbour])
        tapped = []
        for block in model.graph_conv[:depth]:
            atoms, edges = block(
                atoms,
                edges,
                radial,
                pairs,
                three_basis,
                torch.stack([first, second], dim=1),
                lengths[:, None],
                graph.n_atoms,  # numbers of bonds are not read: the map from angles to bonds is given
                graph.n_atoms,
                graph.n_atoms,
                total_num_atoms=len(graph.species),
                total_num_bonds=len(lengths),
                three_body_edge_map=first,
            )
            tapped.append(atoms)
        return tapped


@dataclass(frozen=True)
class MatterSimEntry(BackboneEntry):
    """A published MatterSim, fetched once; or a checkpoint of the user's own, name:path."""

    card: BackboneCard
    layers: tuple[str, ...]
    module: str = "mattersim"
    weights: str = "fetched by `mekrr backbones fetch`"

    def load(self, path: Path | None, device: torch.device, dtype: torch.dtype, trust_checkpoint: bool) -> MatterSim:
        """See BackboneEntry.load; nothing in the file is run."""
        found = path or fetched_path(self.card)
        content = _read(found)
        from mattersim.forcefield.m3gnet.m3gnet import M3Gnet

        try:
            model = M3Gnet(device="cpu", **content["model_args"])
            missing, _ = model.load_state_dict(content["model"], strict=False)
        except (TypeError, RuntimeError) as error:
            raise BackboneUnavailableError(
                f"{found} does not fit the M3GNet of the installed mattersim: {error}"
            ) from error
        if missing:
            raise BackboneUnavailableError(f"{found} lacks weights of MatterSim: {', '.join(missing[:5])}")
        model = model.to(device, dtype).eval().requires_grad_(False)
        return MatterSim(self.card, model, sha256_of(found), "" if path is None else str(path))


def _read(path: Path) -> Mapping[str, Any]:
    """A checkpoint, by torch's restricted unpickler: tensors, containers and numbers only."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise BackboneUnavailableError(
            f"{path} is no checkpoint of tensors and plain values; nothing in it was run. Torch says: "
            f"{str(error).splitlines()[0]}"
        ) from error
    if not isinstance(content, Mapping) or not {"model_args", "model"} <= set(content):
        raise BackboneUnavailableError(f"{path} is no checkpoint of MatterSim: it has no model_args and model")
    return content


def _atom_layers(model: Any) -> dict[str, Any]:
    """The linear layers that act on atoms and are met once: of the readout; the others act on bonds and angles."""
    final = model.final
    sides = {"g": final.g, "sigma": final.sigma}
    return {f"final.{side}.{i}": layer.linear for side, layers in sides.items() for i, layer in enumerate(layers)}


def _entry(name: str, file: str, blocks: int) -> MatterSimEntry:
    card = BackboneCard(
        name=name,
        package="mattersim",
        extra="mattersim",
        licence="MIT",
        citation="Yang et al., arXiv 2405.04967 (2024)",
        trained_on="17 million structures of its own, 0 to 5000 K, 0 to 1000 GPa, PBE and PBE+U",
        url=f"https://raw.githubusercontent.com/microsoft/mattersim/main/pretrained_models/{file}",
    )
    return MatterSimEntry(card, tuple(f"block_{depth}" for depth in range(blocks)))


MATTERSIM_1M = _entry("mattersim-1m", "mattersim-v1.0.0-1M.pth", 3)
MATTERSIM_5M = _entry("mattersim-5m", "mattersim-v1.0.0-5M.pth", 4)
