"""Coordinates of the gradient of a network's energy in its weights: the features of the tangent kernel.

At every linear map the gradient is a sum over atoms of a_i (x) g_i (see backbones.weight_gradients). Activations and
signals are projected on their leading principal directions, and their products scaled so that every map counts the
same (unscaled, the scalar maps drown the equivariant ones), damped within a map towards equal spread. That makes one
vector T_z for each element z of a structure, linear in the gradient, so that a linear function of T is a change of the
weights.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from mekrr.backbones import (
    Backbone,
    WeightChange,
    WeightGradients,
    element_rows,
    weight_gradients,
    weight_gradients_along,
)
from mekrr.graph import GraphBatch
from mekrr.typing import Float, Int, Tensor

RANK = 16  # directions of activations and of signals: 12 cost a tenth in forces, 24 gain a fiftieth
DAMPING = 0.4  # columns of a map are divided by their spread to this power
ATOMS_AT_ONCE = 256  # of T by atom


@dataclass(frozen=True, eq=False)
class TangentSpace:
    """Where gradients in the weights are described.

    Attributes:
        names: of the maps, sorted.
        species: atomic numbers of the elements that have a T of their own, ascending.
        left: principal directions of the activations by map, (n_in, rank).
        right: of the signals by map, (n_out, rank).
        scale: of the products by map, (left rank, right rank), float64.
    """

    names: tuple[str, ...]
    species: tuple[int, ...]
    left: tuple[Float[Tensor, "_n_in _left"], ...]
    right: tuple[Float[Tensor, "_n_out _right"], ...]
    scale: tuple[Float[Tensor, "_left _right"], ...]

    @property
    def width(self) -> int:
        """Coordinates of one element."""
        return sum(scale.numel() for scale in self.scale)

    @cached_property
    def digest(self) -> str:
        """Equal exactly when coordinates are comparable."""
        found = hashlib.sha256(repr((self.names, self.species)).encode())
        for tensor in (*self.left, *self.right, *self.scale):
            found.update(tensor.cpu().contiguous().numpy().tobytes())
        return found.hexdigest()

    @staticmethod
    def fit(
        graphs: Sequence[GraphBatch], backbone: Backbone, directions: Sequence[Float[Tensor, "moves _atoms 3"]]
    ) -> "TangentSpace":
        """Principal directions and scales from some structures.

        Args:
            graphs: one structure each, with every element of the data.
            backbone: with an energy and linear maps.
            directions: of each structure's atoms; what the products do along them is the measure of everything.
        """
        species = tuple(torch.cat([graph.species for graph in graphs]).unique().tolist())
        left, right = _projections(graphs, backbone)
        names = tuple(m.name for m in backbone.linear_maps)
        one = tuple(torch.ones(p.shape[1], q.shape[1], dtype=torch.float64) for p, q in zip(left, right, strict=True))
        whole = TangentSpace(names, species, left, right, one)
        seen = [whole._moved(backbone, graph, d) for graph, d in zip(graphs, directions, strict=True)]
        rows = torch.cat([rows.sum(2).flatten(0, 1) for rows in seen])
        scales = [_scale(part) for part in rows.split([scale.numel() for scale in one], dim=1)]
        kept = sorted((i for i, scale in enumerate(scales) if scale is not None), key=names.__getitem__)
        return TangentSpace(
            tuple(names[i] for i in kept),
            species,
            tuple(left[i] for i in kept),
            tuple(right[i] for i in kept),
            tuple(scales[i].reshape_as(one[i]) for i in kept),  # type: ignore[union-attr]
        )

    def as_tensors(self) -> dict[str, Tensor]:
        """For a file."""
        found = {"species": torch.tensor(self.species)}
        for kind in ("left", "right", "scale"):
            for name, tensor in zip(self.names, getattr(self, kind), strict=True):
                found[f"{kind} {name}"] = tensor
        return found

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> "TangentSpace":
        """From a file.

        Raises:
            KeyError: when something is missing.
        """
        names = sorted(key.removeprefix("left ") for key in tensors if key.startswith("left "))
        return TangentSpace(
            tuple(names),
            tuple(tensors["species"].tolist()),
            *(tuple(tensors[f"{kind} {name}"] for name in names) for kind in ("left", "right", "scale")),
        )

    def of(self, backbone: Backbone, graph: GraphBatch) -> Float[Tensor, "structures elements width"]:
        """T of each structure, its elements in the order of `species`, and of all other elements together."""
        graph = graph.to(backbone.device)
        with torch.no_grad():
            found = weight_gradients(backbone, graph, graph.edge_vectors().to(backbone.dtype), backbone.layers[-1:])
            return self._summed(found, graph.species, graph.structure, graph.n_structures, backbone)

    def of_atoms(self, backbone: Backbone, graph: GraphBatch) -> Iterator[Float[Tensor, "some elements width"]]:
        """T of each atom as a structure of its own, which add up to those of structures, some atoms at a time."""
        graph = graph.to(backbone.device)
        with torch.no_grad():
            found = weight_gradients(backbone, graph, graph.edge_vectors().to(backbone.dtype), backbone.layers[-1:])
        for atoms in torch.arange(len(graph.species), device=graph.species.device).split(ATOMS_AT_ONCE):
            some = WeightGradients(
                found.features[atoms],
                tuple(a[atoms] for a in found.activations),
                tuple(g[atoms] for g in found.signals),
            )
            yield self._summed(
                some, graph.species[atoms], torch.arange(len(atoms), device=atoms.device), len(atoms), backbone
            )

    def along(
        self,
        backbone: Backbone,
        graph: GraphBatch,
        directions: Float[Tensor, "probes atoms 3"],
        strains: Float[Tensor, "probes structures 3 3"] | None,
        layers: Sequence[str],
        chunk: int,
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Some directions at a time: T, its derivatives (probes, structures, elements, width), those of the features.

        Args:
            backbone: with an energy and linear maps.
            graph: on its device.
            directions: of all atoms.
            strains: that go with them.
            layers: of the features.
            chunk: directions at once.
        """
        for values, tangents in weight_gradients_along(backbone, graph, directions, strains, layers, chunk):
            with torch.no_grad():
                owners = graph.species, graph.structure, graph.n_structures, backbone
                yield self._summed(values, *owners), self._summed(values, *owners, tangents), tangents.features

    def change(self, *weights: Float[Tensor, "elements width"]) -> WeightChange:
        """The change of the network's weights that the function T -> sum_z weights_z . T_z is.

        Args:
            weights: of each element, and in the last row of all other elements; several for as many copies of atoms.
        """
        core = {}
        parts = torch.cat(weights).split([scale.numel() for scale in self.scale], dim=1)
        for name, part, scale in zip(self.names, parts, self.scale, strict=True):
            core[name] = part.reshape(-1, *scale.shape) * scale.to(part)
        left, right = (dict(zip(self.names, side, strict=True)) for side in (self.left, self.right))
        return WeightChange(left, right, core, self.species, len(weights))

    def _moved(self, backbone: Backbone, graph: GraphBatch, d: Tensor) -> Float[Tensor, "moves 1 elements products"]:
        graph = graph.to(backbone.device)
        return torch.cat([moved for _, moved, _ in self.along(backbone, graph, d, None, backbone.layers[-1:], len(d))])

    def _projected(self, backbone: Backbone, found: WeightGradients) -> tuple[list[Tensor], list[Tensor]]:
        """Activations and signals of the maps kept, (..., atoms, rank, components)."""
        place = {m.name: i for i, m in enumerate(backbone.linear_maps)}
        a = [torch.einsum("...uc,ur->...rc", found.activations[place[n]], p.to(found.features))
             for n, p in zip(self.names, self.left, strict=True)]  # fmt: skip
        g = [torch.einsum("...vc,vr->...rc", found.signals[place[n]], q.to(found.features))
             for n, q in zip(self.names, self.right, strict=True)]  # fmt: skip
        return a, g

    def _summed(
        self,
        values: WeightGradients,
        species: Int[Tensor, "atoms"],
        owner: Int[Tensor, "atoms"],
        count: int,
        backbone: Backbone,
        tangents: WeightGradients | None = None,
    ) -> Float[Tensor, "*probes owners elements width"]:
        """T of every element of every owner, float64, or its derivatives by the product rule."""
        groups = len(self.species) + 1
        row = owner * groups + element_rows(species, self.species)
        a, g = self._projected(backbone, values)
        da, dg = self._projected(backbone, tangents) if tangents is not None else (a, g)
        parts = []
        for i, scale in enumerate(self.scale):
            each = _products(a[i], g[i]) if tangents is None else _products(da[i], g[i]) + _products(a[i], dg[i])
            each = each.double()
            summed = each.new_zeros(each.shape[0], count * groups, *scale.shape).index_add_(1, row, each)
            parts.append((summed * scale.to(summed)).flatten(2))
        found = torch.cat(parts, dim=-1).unflatten(1, (count, groups))
        return found[0] if tangents is None else found


def _products(a: Tensor, g: Tensor) -> Float[Tensor, "probes atoms left right"]:
    """Activation times signal of each atom, summed over components; either may have directions in front."""
    a, g = (part if part.dim() == 4 else part[None] for part in (a, g))
    return torch.einsum("knuc,mnvc->knuv" if len(a) >= len(g) else "mnuc,knvc->knuv", a, g)


def _projections(graphs: Sequence[GraphBatch], backbone: Backbone) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Leading eigenvectors of the second moments of activations and signals, elements counted alike."""
    sums: dict[int, list[list[Tensor]]] = {}
    for graph in graphs:
        graph = graph.to(backbone.device)
        with torch.no_grad():
            found = weight_gradients(backbone, graph, graph.edge_vectors().to(backbone.dtype), backbone.layers[-1:])
        for z in graph.species.unique().tolist():
            atoms = graph.species == z
            new = [[_moment(part[atoms]) for part in side] for side in (found.activations, found.signals)]
            old = sums.setdefault(z, [[torch.zeros_like(moment) for moment in part] for part in new])
            for total, more in zip(old, new, strict=True):
                for moment, one in zip(total, more, strict=True):
                    moment += one
    counts = {z: sum(int((graph.species == z).sum()) for graph in graphs) for z in sums}
    sides = []
    for side in (0, 1):
        moments = [sum(sums[z][side][i] / counts[z] for z in sorted(sums)) for i in range(len(backbone.linear_maps))]
        sides.append(tuple(_leading(moment, RANK).float() for moment in moments))  # type: ignore[arg-type]
    return sides[0], sides[1]


def _moment(part: Float[Tensor, "atoms channels components"]) -> Float[Tensor, "channels channels"]:
    part = part.double()
    return torch.einsum("iuc,ivc->uv", part, part)


def _leading(moment: Float[Tensor, "n n"], count: int) -> Float[Tensor, "n count"]:
    return torch.linalg.eigh(moment)[1].flip(1)[:, :count].cpu().contiguous()


def _scale(rows: Float[Tensor, "rows products"]) -> Float[Tensor, "products"] | None:
    """Factors of one map's products, from what they do along moves; None where they do nothing."""
    spread = rows.square().mean(0).sqrt()
    if not float(spread.max()) > 0.0:
        return None
    damped = (spread / spread.max()).clamp_min(1e-6) ** -DAMPING
    return damped / (rows * damped).square().sum(1).mean().sqrt()
