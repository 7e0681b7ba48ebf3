"""CHGNet: crystal Hamiltonian graph network by B. Deng and others, weights inside the PyPI package chgnet."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mekrr.backbones.base import Backbone, BackboneCard, BackboneEntry, BackboneOutput
from mekrr.backbones.line_graph import LineGraph, build_line_graph
from mekrr.backbones.weights import packaged_file
from mekrr.errors import BackboneUnavailableError
from mekrr.graph import GraphBatch
from mekrr.typing import Float, Tensor

# MPtrj holds 89 of the 94 elements that CHGNet has rows for (Deng et al. 2023): not Po, At, Rn, Fr, Ra.
_ABSENT_FROM_MPTRJ = frozenset(range(84, 89))
_LAYERS = tuple(f"convolution_{depth}" for depth in range(4))


class CHGNet(Backbone):
    """CHGNet's own layers on atom and bond graphs built from a GraphBatch.

    A layer's features are the atom features after an atom convolution. Atomic energies include the composition
    model. Unlike the package, isolated atoms are accepted: they keep their embedding.

    Args:
        card: licence, citation and origin.
        model: chgnet's CHGNet.
        weights_hash: SHA-256 of the checkpoint.
    """

    has_energy = True

    def __init__(self, card: BackboneCard, model: Any, weights_hash: str) -> None:
        self.card = card
        self.weights_hash = weights_hash
        self.cutoff = float(model.graph_converter.atom_graph_cutoff)
        self.layers = tuple(f"convolution_{depth}" for depth in range(model.n_conv))
        self.layer_widths = dict.fromkeys(self.layers, int(model.atom_fea_dim))
        parameter = next(model.parameters())
        self.dtype, self.device = parameter.dtype, parameter.device
        self._model = model
        self._bond_cutoff = float(model.graph_converter.bond_graph_cutoff)
        self._composition = model.composition_model.fc.weight.squeeze(0)
        # Of the many linear layers those that act on atoms; the others act on bonds and angles.
        maps = {
            f"{layer}/out": conv.mlp_out.layers[-1]
            for layer, conv in zip(self.layers, model.atom_conv_layers, strict=True)
        }
        maps |= {f"readout/{i}": m for i, m in enumerate(model.mlp.layers) if isinstance(m, torch.nn.Linear)}
        self.offer(maps)
        # Elements absent from the data of a composition fit have weight zero.
        fitted = (self._composition.abs() > 1e-6).nonzero().flatten() + 1
        self.known_species = frozenset(fitted.tolist()) - _ABSENT_FROM_MPTRJ

    def forward(
        self,
        graph: GraphBatch,
        edge_vectors: Float[Tensor, "edges 3"],
        layers: Sequence[str],
        energies: bool = True,
    ) -> BackboneOutput:
        """See Backbone.forward; energies in eV, of the MPtrj (or r2SCAN) reference including the composition model."""
        graph, edge_vectors = self.prepare(graph, edge_vectors, layers)
        depth = len(self.layers) if energies else 1 + max(self.layers.index(layer) for layer in layers)
        tapped = self._convolutions(graph, edge_vectors, depth)
        features = torch.cat([tapped[self.layers.index(layer)] for layer in layers], dim=1)
        if not energies:
            return BackboneOutput(features, None)
        readout = self._model.mlp(self._model.readout_norm(tapped[-1])).squeeze(1)
        return BackboneOutput(features, readout + self._composition[graph.species - 1])

    def _convolutions(
        self, graph: GraphBatch, edge_vectors: Float[Tensor, "edges 3"], depth: int
    ) -> list[Float[Tensor, "atoms features"]]:
        """Atom features after each of the first `depth` atom convolutions."""
        model = self._model
        lengths = torch.linalg.vector_norm(edge_vectors, dim=1)
        line = build_line_graph(graph, self._bond_cutoff)
        bonds = _Bonds(model, lengths[line.representative])
        directions = edge_vectors / lengths[:, None]
        angles = _embed_angles(model, directions, line)
        edges = torch.stack([graph.centre, graph.neighbour], dim=1)
        atoms = model.atom_embedding(graph.species - 1)
        tapped = []
        for level, convolution in enumerate(model.atom_conv_layers[:depth]):
            atoms = convolution(atoms, bonds.features, bonds.atom_weights, edges, line.undirected)
            tapped.append(atoms)
            if angles is not None and level < len(model.bond_conv_layers):
                triples = line.triples
                bonds.features = model.bond_conv_layers[level](
                    atoms, bonds.features, bonds.bond_weights, angles, triples
                )
                angles = model.angle_layers[level](atoms, bonds.features, angles, triples)
        return tapped


class _Bonds:
    """Features and smooth weights of undirected bonds."""

    def __init__(self, model: Any, lengths: Float[Tensor, "bonds"]) -> None:
        expansion = model.bond_basis_expansion
        basis = expansion.rbf_expansion_ag(lengths)
        self.features = model.bond_embedding(basis)
        self.atom_weights = model.bond_weights_ag(basis)
        self.bond_weights = model.bond_weights_bg(expansion.rbf_expansion_bg(lengths))


def _embed_angles(
    model: Any, directions: Float[Tensor, "edges 3"], line: LineGraph
) -> Float[Tensor, "angles features"] | None:
    """Embedded angles, None where no atom has two short bonds."""
    if len(line.first) == 0:
        return None
    return model.angle_embedding(model.angle_basis_expansion(directions[line.first], directions[line.second]))


@dataclass(frozen=True)
class CHGNetEntry(BackboneEntry):
    """A CHGNet whose checkpoint is inside the package, known by its hash.

    Attributes:
        relative: path of the checkpoint below the package's folder.
        sha256: of that file, as shipped with chgnet 0.4.2.
    """

    card: BackboneCard
    relative: str
    sha256: str
    layers: tuple[str, ...] = _LAYERS
    module: str = "chgnet"
    weights: str = "inside the package chgnet, checked by SHA-256"

    def load(self, path: Path | None, device: torch.device, dtype: torch.dtype, trust_checkpoint: bool) -> CHGNet:
        """See BackboneEntry.load; the checkpoint is a pickle, unpickled only when its hash is the known one."""
        if path is not None:
            raise BackboneUnavailableError(f"{self.card.name} takes no path (received {path}); leave out the colon")
        found = packaged_file(self.module, self.relative, self.sha256, self.card.package)
        return CHGNet(self.card, _build(found).to(device, dtype), self.sha256)


def _build(path: Path) -> Any:
    """CHGNet's model in evaluation mode, weights frozen; what it prints while it is made is kept off stdout."""
    from chgnet.model import CHGNet as Model

    with contextlib.redirect_stdout(io.StringIO()):
        return Model.from_file(str(path), mlp_out_bias=False).eval().requires_grad_(False)


CHGNET_0_3_0 = CHGNetEntry(
    BackboneCard(
        "chgnet-0.3.0",
        "chgnet",
        "chgnet",
        "BSD-3-Clause",
        "Deng et al., Nat. Mach. Intell. 5, 1031 (2023)",
        "MPtrj, PBE and PBE+U with Materials Project corrections",
    ),
    "pretrained/0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar",
    "d14ab7c0f093efe64b60a7bcd540bca10e74fb7f46c86108a079af60524659d1",
)
CHGNET_R2SCAN = CHGNetEntry(
    BackboneCard(
        "chgnet-r2scan",
        "chgnet",
        "chgnet",
        "BSD-3-Clause",
        "Huang, Deng, Zhong, Kaplan, Persson, Ceder, npj Comput. Mater. (2025), Cross-functional transferability in "
        "foundation machine learning interatomic potentials",
        "MP-r2SCAN, transferred from chgnet-0.3.0",
    ),
    "pretrained/r2scan/chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar",
    "8eba3db0f35a2788bb3ae22885ad340591e27996f213c6643af522a633b50dad",
)
