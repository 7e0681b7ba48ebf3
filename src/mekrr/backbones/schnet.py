"""SchNet as the Open Catalyst Project trained it on OC20: our own network, their published checkpoint."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from ase.data import atomic_numbers
from torch import nn

from mekrr.backbones.base import Backbone, BackboneCard, BackboneEntry, BackboneOutput
from mekrr.backbones.checkpoint import OCPCheckpoint, read_ocp_checkpoint
from mekrr.backbones.fetch import fetched_path
from mekrr.backbones.weights import require_file
from mekrr.errors import BackboneUnavailableError
from mekrr.files import sha256_of
from mekrr.graph import GraphBatch
from mekrr.typing import Float, Int, Tensor

_LAYERS = tuple(f"interaction_{depth}" for depth in range(5))
_MAX_NEIGHBOURS = 50
# Chanussot et al., ACS Catal. 11, 6059 (2021): elements of the bulk materials and adsorbates of OC20.
_OC20_ELEMENTS = (
    "Ag Al As Au B Bi C Ca Cd Cl Co Cr Cs Cu Fe Ga Ge H Hf Hg In Ir K Mn Mo N Na Nb Ni O Os P Pb Pd Pt Rb Re Rh Ru S "
    "Sb Sc Se Si Sn Sr Ta Tc Te Ti Tl V W Y Zn Zr"
)


@dataclass(frozen=True)
class SchNetShape:
    """Sizes of a SchNet; the names are those of the published configuration."""

    hidden_channels: int = 1024
    num_filters: int = 256
    num_interactions: int = 5
    num_gaussians: int = 200
    cutoff: float = 6.0


class ShiftedSoftplus(nn.Module):
    """log((1 + exp x) / 2), zero at zero (Schuett et al., J. Chem. Phys. 148, 241722 (2018), eq 7)."""

    def forward(self, x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """The activation, element by element."""
        return nn.functional.softplus(x) - math.log(2.0)


class ContinuousFilter(nn.Module):
    """Linear maps around a continuous-filter convolution; the filters come from outside."""

    def __init__(self, shape: SchNetShape) -> None:
        super().__init__()
        self.lin1 = nn.Linear(shape.hidden_channels, shape.num_filters, bias=False)
        self.lin2 = nn.Linear(shape.num_filters, shape.hidden_channels)


class Interaction(nn.Module):
    """One interaction: what is added to the features of an atom from its neighbours (ibid., fig. 2)."""

    def __init__(self, shape: SchNetShape) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(shape.num_gaussians, shape.num_filters),
            ShiftedSoftplus(),
            nn.Linear(shape.num_filters, shape.num_filters),
        )
        self.conv = ContinuousFilter(shape)
        self.act = ShiftedSoftplus()
        self.lin = nn.Linear(shape.hidden_channels, shape.hidden_channels)

    def forward(
        self,
        features: Float[Tensor, "atoms features"],
        basis: Float[Tensor, "edges gaussians"],
        envelope: Float[Tensor, "edges"],
        centre: Int[Tensor, "edges"],
        neighbour: Int[Tensor, "edges"],
    ) -> Float[Tensor, "atoms features"]:
        """The update; messages run from neighbour to centre."""
        messages = self.conv.lin1(features)[neighbour] * self.mlp(basis) * envelope[:, None]
        gathered = messages.new_zeros(len(features), messages.shape[1]).index_add(0, centre, messages)
        return self.lin(self.act(self.conv.lin2(gathered)))


class SchNetNetwork(nn.Module):
    """The layers of SchNet, named as in the published checkpoint so that its state dict fits."""

    def __init__(self, shape: SchNetShape) -> None:
        super().__init__()
        self.cutoff = shape.cutoff
        self.embedding = nn.Embedding(100, shape.hidden_channels, padding_idx=0)
        self.interactions = nn.ModuleList(Interaction(shape) for _ in range(shape.num_interactions))
        self.lin1 = nn.Linear(shape.hidden_channels, shape.hidden_channels // 2)
        self.act = ShiftedSoftplus()
        self.lin2 = nn.Linear(shape.hidden_channels // 2, 1)
        self.offset: Tensor
        self.register_buffer("offset", torch.linspace(0.0, shape.cutoff, shape.num_gaussians), persistent=False)

    def features(
        self, graph: GraphBatch, edge_vectors: Float[Tensor, "edges 3"], depth: int | None = None
    ) -> list[Tensor]:
        """Features after each of the first `depth` interactions, None for all."""
        lengths = torch.linalg.vector_norm(edge_vectors, dim=1)
        width = self.offset[1] - self.offset[0]
        basis = torch.exp(-0.5 * ((lengths[:, None] - self.offset) / width) ** 2)
        envelope = 0.5 * (torch.cos(lengths * (math.pi / self.cutoff)) + 1.0)
        hidden, tapped = self.embedding(graph.species), []
        for interaction in self.interactions[:depth]:
            hidden = hidden + interaction(hidden, basis, envelope, graph.centre, graph.neighbour)
            tapped.append(hidden)
        return tapped

    def read_out(self, features: Float[Tensor, "atoms features"]) -> Float[Tensor, "atoms"]:
        """Normalised atomic contributions to the adsorption energy."""
        return self.lin2(self.act(self.lin1(features))).squeeze(1)


class SchNet(Backbone):
    """SchNet trained on the adsorption energies and forces of OC20.

    The published model predicts a normalised adsorption energy; atomic energies here are its contributions times the
    standard deviation of the training targets. Their mean, one constant per structure whatever its size, is left out
    so that energies are extensive: they differ from the published ones by `target_mean`. At most 50 neighbours an
    atom are kept, so energies jump by a little when a neighbour enters or leaves that list.

    Args:
        card: licence, citation and origin.
        network: with its weights.
        checkpoint: what came with the weights.
        weights_hash: SHA-256 of the checkpoint.
        path: of the checkpoint.

    Attributes:
        target_mean: eV, of a whole structure.
    """

    has_energy = True
    max_neighbours = _MAX_NEIGHBOURS
    known_species = frozenset(atomic_numbers[symbol] for symbol in _OC20_ELEMENTS.split())

    def __init__(
        self, card: BackboneCard, network: SchNetNetwork, checkpoint: OCPCheckpoint, weights_hash: str, path: str
    ) -> None:
        self.card = card
        self.path = path
        self.weights_hash = weights_hash
        self.cutoff = network.cutoff
        self.layers = tuple(f"interaction_{depth}" for depth in range(len(network.interactions)))
        self.layer_widths = dict.fromkeys(self.layers, network.embedding.embedding_dim)
        self.dtype, self.device = network.lin2.weight.dtype, network.lin2.weight.device
        self.target_mean = checkpoint.target_mean
        self._target_std = checkpoint.target_std
        self._network = network
        maps: dict[str, nn.Module] = {}
        for layer, interaction in zip(self.layers, network.interactions, strict=True):
            for part in ("conv.lin1", "conv.lin2", "lin"):
                maps[f"{layer}/{part}"] = interaction.get_submodule(part)
        self.offer(maps | {"lin1": network.lin1, "lin2": network.lin2})

    def forward(
        self,
        graph: GraphBatch,
        edge_vectors: Float[Tensor, "edges 3"],
        layers: Sequence[str],
        energies: bool = True,
    ) -> BackboneOutput:
        """See Backbone.forward; energies in eV, relative to the clean surface and gas-phase references of OC20."""
        graph, edge_vectors = self.prepare(graph, edge_vectors, layers)
        depth = None if energies else 1 + max(self.layers.index(layer) for layer in layers)
        tapped = self._network.features(graph, edge_vectors, depth)
        features = torch.cat([tapped[self.layers.index(layer)] for layer in layers], dim=1)
        if not energies:
            return BackboneOutput(features, None)
        return BackboneOutput(features, self._network.read_out(tapped[-1]) * self._target_std)


@dataclass(frozen=True)
class SchNetEntry(BackboneEntry):
    """SchNet from a checkpoint in the format of the Open Catalyst Project."""

    card: BackboneCard
    layers: tuple[str, ...] = _LAYERS
    weights: str = "mekrr backbones fetch schnet, or your own copy: schnet:path"

    def load(self, path: Path | None, device: torch.device, dtype: torch.dtype, trust_checkpoint: bool) -> SchNet:
        """See BackboneEntry.load; nothing but tensors and plain values is ever unpickled."""
        found = fetched_path(self.card) if path is None else path
        require_file(found)
        checkpoint = read_ocp_checkpoint(found)
        network = build_network(checkpoint, found).to(device, dtype)
        return SchNet(self.card, network, checkpoint, sha256_of(found), "" if path is None else str(path))


def build_network(checkpoint: OCPCheckpoint, path: Path) -> SchNetNetwork:
    """The network with the checkpoint's weights, frozen.

    Raises:
        BackboneUnavailableError: if tensors are missing, unexpected or of the wrong shape.
    """
    shape = SchNetShape(**{name: checkpoint.model[name] for name in vars(SchNetShape()) if name in checkpoint.model})
    network = SchNetNetwork(shape)
    state = dict(checkpoint.state)
    # Both are computed from the configuration, or tables that only other tasks of the same class read.
    for ignored in ("distance_expansion.offset", "atomic_mass", "initial_atomref"):
        state.pop(ignored, None)
    # The filter network is stored twice, under the name of the block and of its convolution.
    state = {key: value for key, value in state.items() if ".conv.nn." not in key}
    wanted = network.state_dict()
    missing, unexpected = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    misshapen = sorted(key for key in wanted.keys() & state.keys() if wanted[key].shape != state[key].shape)
    if missing or unexpected or misshapen:
        raise BackboneUnavailableError(
            f"{path} is not a SchNet checkpoint of the Open Catalyst Project with {shape}: missing {missing[:4]}, "
            f"unexpected {unexpected[:4]}, wrong shape {misshapen[:4]}; the published one is {SCHNET.card.url}"
        )
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


SCHNET = SchNetEntry(
    BackboneCard(
        name="schnet",
        package="",
        extra="",
        licence="MIT (model and code of the Open Catalyst Project); OC20 data CC-BY-4.0",
        citation="Schuett et al., J. Chem. Phys. 148, 241722 (2018); Chanussot et al., ACS Catal. 11, 6059 (2021)",
        trained_on="OC20 S2EF All, 134 million structures, RPBE: adsorption energies and forces",
        url="https://dl.fbaipublicfiles.com/opencatalystproject/models/2020_11/s2ef/schnet_all_large.pt",
    )
)
