"""MACE: models of the user's own, made with mace-torch (which cannot share an environment with sevenn)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mekrr.backbones.base import Backbone, BackboneCard, BackboneEntry, BackboneOutput
from mekrr.backbones.weights import require_trust, sha256_of
from mekrr.errors import BackboneUnavailableError
from mekrr.graph import GraphBatch
from mekrr.typing import Float, Tensor


class MACEBackbone(Backbone):
    """A MACE model called with edge vectors in place of positions.

    A layer's features are the even scalars after an interaction and its product basis. Atomic energies include the
    isolated-atom energies of the model. Of a multi-head model the first head is used.

    Args:
        card: licence, citation and origin.
        model: mace-torch's MACE or ScaleShiftMACE.
        weights_hash: SHA-256 of the file.
        path: of the file.
    """

    has_energy = True
    # The model switches gradients of its positions on, which torch.func does not allow.
    forward_mode = False

    def __init__(self, card: BackboneCard, model: Any, weights_hash: str, path: str) -> None:
        self.card = card
        self.path = path
        self.weights_hash = weights_hash
        self.cutoff = float(model.r_max)
        species = model.atomic_numbers.tolist()
        self.known_species = frozenset(species)
        parameter = next(model.parameters())
        self.dtype, self.device = parameter.dtype, parameter.device
        self._model = model
        self._row = torch.zeros(120, dtype=torch.int64, device=self.device)
        self._row[species] = torch.arange(len(species), device=self.device)
        self._columns = dict(zip(_layer_names(model), _scalar_columns(model), strict=True))
        self.layers = tuple(self._columns)
        self.layer_widths = {layer: len(columns) for layer, columns in self._columns.items()}

    def forward(
        self,
        graph: GraphBatch,
        edge_vectors: Float[Tensor, "edges 3"],
        layers: Sequence[str],
        energies: bool = True,
    ) -> BackboneOutput:
        """See Backbone.forward; energies in eV."""
        graph, edge_vectors = self.prepare(graph, edge_vectors, layers)
        output = self._model(self._inputs(graph, edge_vectors), compute_force=False)
        columns = [column for layer in layers for column in self._columns[layer]]
        return BackboneOutput(output["node_feats"][:, columns], output["node_energy"])

    def _inputs(self, graph: GraphBatch, edge_vectors: Float[Tensor, "edges 3"]) -> dict[str, Tensor]:
        """All atoms at the origin: a MACE edge, from sender to receiver, is then its shift alone."""
        n_species = len(self.known_species)
        return {
            "positions": edge_vectors.new_zeros(len(graph.species), 3),
            "node_attrs": torch.nn.functional.one_hot(self._row[graph.species], n_species).to(self.dtype),
            "edge_index": torch.stack([graph.neighbour, graph.centre]),
            "shifts": -edge_vectors,
            "cell": graph.cells.to(self.dtype).reshape(-1, 3),
            "batch": graph.structure,
            "ptr": torch.cat([graph.n_atoms.new_zeros(1), graph.n_atoms.cumsum(0)]),
            "head": torch.zeros_like(graph.n_atoms),
        }


@dataclass(frozen=True)
class MACEEntry(BackboneEntry):
    """A MACE model file of the user's own, `mace:path`."""

    card: BackboneCard
    layers: tuple[str, ...] = ()
    module: str = "mace"
    weights: str = "your model, mace:path with --trust-checkpoint"

    def load(self, path: Path | None, device: torch.device, dtype: torch.dtype, trust_checkpoint: bool) -> MACEBackbone:
        """See BackboneEntry.load."""
        if path is None:
            raise BackboneUnavailableError("mace alone names no weights; give the path of your model: mace:path")
        require_trust(path, trust_checkpoint)
        weights_hash = sha256_of(path)
        try:
            model = torch.load(path, map_location="cpu", weights_only=False)
            model = model.to(device, dtype).eval().requires_grad_(False)
            return MACEBackbone(self.card, model, weights_hash, str(path))
        except Exception as error:
            raise BackboneUnavailableError(f"{path} is not a model that mace-torch can load: {error}") from error


def _layer_names(model: Any) -> list[str]:
    return [f"interaction_{depth}" for depth in range(len(model.products))]


def _scalar_columns(model: Any) -> list[list[int]]:
    """Columns of the even scalars of each layer within the features that the model concatenates."""
    start, columns = 0, []
    for product in model.products:
        irreps = product.linear.irreps_out
        blocks = zip(irreps, irreps.slices(), strict=True)
        columns.append(
            [start + k for (_, ir), block in blocks if ir.is_scalar() for k in range(block.start, block.stop)]
        )
        start += irreps.dim
    return columns


MACE = MACEEntry(
    BackboneCard(
        name="mace",
        package="mace-torch",
        extra="mace",
        licence="that of your model",
        citation="Batatia, Kovacs, Simm, Ortner, Csanyi, NeurIPS (2022), arXiv 2206.07697",
        trained_on="whatever your model was trained on",
    )
)
