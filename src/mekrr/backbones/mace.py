"""MACE, published or the user's own, by mace-torch (which cannot share an environment with sevenn)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mekrr.backbones.base import Backbone, BackboneCard, BackboneEntry, BackboneOutput
from mekrr.backbones.fetch import fetched_path
from mekrr.backbones.weights import require_trust
from mekrr.errors import BackboneUnavailableError
from mekrr.files import sha256_of
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
        self.offer(_linear_modules(model))

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
class PublishedMACEEntry(BackboneEntry):
    """A published MACE model, fetched once; or the user's copy of it, name:path.

    The file is a pickle and its authors publish no hash, so that the user must vouch for it; what was fetched first is
    what is used from then on, by its recorded hash.
    """

    card: BackboneCard
    layers: tuple[str, ...] = ("interaction_0", "interaction_1")
    module: str = "mace"
    weights: str = "fetched by `mekrr backbones fetch`, loaded with --trust-checkpoint"

    def load(self, path: Path | None, device: torch.device, dtype: torch.dtype, trust_checkpoint: bool) -> MACEBackbone:
        """See BackboneEntry.load."""
        given = "" if path is None else str(path)
        return _load(self.card, path or fetched_path(self.card), given, device, dtype, trust_checkpoint)


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
            raise BackboneUnavailableError(
                "mace alone names no weights; give the path of your model, mace:path, or the name of a published one, "
                "such as mace-mpa-0-medium"
            )
        return _load(self.card, path, str(path), device, dtype, trust_checkpoint)


def _load(
    card: BackboneCard, path: Path, given: str, device: torch.device, dtype: torch.dtype, trust_checkpoint: bool
) -> MACEBackbone:
    """The model in a file, which the user trusts."""
    require_trust(path, trust_checkpoint)
    weights_hash = sha256_of(path)
    try:
        model = torch.load(path, map_location="cpu", weights_only=False)
        model = model.to(device, dtype).eval().requires_grad_(False)
        return MACEBackbone(card, model, weights_hash, given)
    except Exception as error:
        raise BackboneUnavailableError(f"{path} is not a model that mace-torch can load: {error}") from error


def _linear_modules(model: Any) -> dict[str, Any]:
    """The equivariant linear layers that act on atoms, in the order in which a pass meets them."""
    found = {}
    for depth, (interaction, product) in enumerate(zip(model.interactions, model.products, strict=True)):
        found[f"interactions.{depth}.linear_up"] = interaction.linear_up
        found[f"interactions.{depth}.linear"] = interaction.linear
        found[f"products.{depth}.linear"] = product.linear
    return found


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


_CITATION = "Batatia, Kovacs, Simm, Ortner, Csanyi, NeurIPS (2022), arXiv 2206.07697"
_MP = "Batatia et al., J. Chem. Phys. 163, 184110 (2025), arXiv 2401.00096"
_OFF = "Kovacs et al., J. Am. Chem. Soc. 147, 17598 (2025), arXiv 2312.15211"
_MATPES = "Kaplan et al., arXiv 2503.04070 (2025)"
_ASL = "ASL (academic use only)"
_MPTRJ, _OMAT = "MPtrj, PBE and PBE+U", "OMat24, PBE and PBE+U of pseudopotentials of their own"
_RELEASES = "https://github.com/ACEsuit/"


def _published(name: str, address: str, licence: str, citation: str, trained_on: str) -> PublishedMACEEntry:
    return PublishedMACEEntry(
        BackboneCard(name, "mace-torch", "mace", licence, citation, trained_on, _RELEASES + address)
    )


MACE = MACEEntry(
    BackboneCard("mace", "mace-torch", "mace", "that of your model", _CITATION, "whatever your model was trained on")
)
_MP_0 = "mace-mp/releases/download/mace_mp_0/"
MACE_MP_0_SMALL = _published(
    "mace-mp-0-small", f"{_MP_0}2023-12-10-mace-128-L0_energy_epoch-249.model", "MIT", _MP, _MPTRJ
)
MACE_MP_0_MEDIUM = _published("mace-mp-0-medium", f"{_MP_0}2023-12-03-mace-128-L1_epoch-199.model", "MIT", _MP, _MPTRJ)
MACE_MP_0_LARGE = _published("mace-mp-0-large", f"{_MP_0}MACE_MPtrj_2022.9.model", "MIT", _MP, _MPTRJ)
MACE_MP_0B3_MEDIUM = _published(
    "mace-mp-0b3-medium", "mace-mp/releases/download/mace_mp_0b3/mace-mp-0b3-medium.model", "MIT", _MP, _MPTRJ
)
MACE_MPA_0_MEDIUM = _published(
    "mace-mpa-0-medium",
    "mace-mp/releases/download/mace_mpa_0/mace-mpa-0-medium.model",
    "MIT",
    _MP,
    "MPtrj and subsampled Alexandria, PBE and PBE+U",
)
_OMAT_0 = "mace-mp/releases/download/mace_omat_0/"
MACE_OMAT_0_SMALL = _published("mace-omat-0-small", f"{_OMAT_0}mace-omat-0-small.model", _ASL, _MP, _OMAT)
MACE_OMAT_0_MEDIUM = _published("mace-omat-0-medium", f"{_OMAT_0}mace-omat-0-medium.model", _ASL, _MP, _OMAT)
_MATPES_0 = "mace-foundations/releases/download/mace_matpes_0/"
MACE_MATPES_PBE_0 = _published(
    "mace-matpes-pbe-0", f"{_MATPES_0}MACE-matpes-pbe-omat-ft.model", _ASL, _MATPES, "OMat24, then MatPES, PBE"
)
MACE_MATPES_R2SCAN_0 = _published(
    "mace-matpes-r2scan-0",
    f"{_MATPES_0}MACE-matpes-r2scan-omat-ft.model",
    _ASL,
    _MATPES,
    "OMat24, then MatPES, r2SCAN",
)
_OFF23 = "SPICE 1 and QMugs, wB97M-D3(BJ)/def2-TZVPPD: organic molecules of H C N O F P S Cl Br I"
MACE_OFF23_SMALL = _published(
    "mace-off23-small", "mace-off/raw/main/mace_off23/MACE-OFF23_small.model", _ASL, _OFF, _OFF23
)
MACE_OFF23_MEDIUM = _published(
    "mace-off23-medium", "mace-off/raw/main/mace_off23/MACE-OFF23_medium.model", _ASL, _OFF, _OFF23
)
MACE_OFF23_LARGE = _published(
    "mace-off23-large", "mace-off/raw/main/mace_off23/MACE-OFF23_large.model", _ASL, _OFF, _OFF23
)
