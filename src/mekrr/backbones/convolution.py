"""Equivariant convolutions with filters that depend on distance: what they are made of; `convolve` applies them."""

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from mekrr.graph import GraphBatch
from mekrr.typing import Bool, Float, Int, Tensor

# Edges a block: its intermediate results stay in a core's cache, yet the products are large enough to be efficient.
_EDGES_PER_BLOCK = {"cpu": 512, "cuda": 1 << 16}


@dataclass(frozen=True, eq=False)
class Block:
    """Atoms with about equally many neighbours, padded to the largest number.

    Attributes:
        atoms: that receive messages.
        neighbour: atom at the end of each edge; padding repeats an arbitrary edge.
        edge: index of each edge.
        real: false where padded.
    """

    atoms: Int[Tensor, "block"]
    neighbour: Int[Tensor, "block slots"]
    edge: Int[Tensor, "block slots"]
    real: Bool[Tensor, "block slots"]


@dataclass(frozen=True, eq=False)
class Edges:
    """Edges of a graph, sorted by centre.

    Attributes:
        centre: atoms that receive messages.
        neighbour: atoms that send them.
        n_atoms: of the graph.
        kept: what a pass makes of these edges once: the other factor and the product, by name and a factor's identity.
    """

    centre: Int[Tensor, "edges"]
    neighbour: Int[Tensor, "edges"]
    n_atoms: int
    kept: dict[tuple[str, int], tuple[Tensor, Tensor]] = field(default_factory=dict)

    @staticmethod
    def of(graph: GraphBatch) -> "Edges":
        """Those of a graph."""
        return Edges(graph.centre, graph.neighbour, len(graph.species))

    @cached_property
    def blocks(self) -> list[Block]:
        """All atoms that have neighbours, sorted by how many, in blocks."""
        degree = torch.bincount(self.centre, minlength=self.n_atoms)
        start = degree.cumsum(0) - degree
        order = degree.argsort(descending=True, stable=True)
        parts = _split_by_degree(order, degree[order].tolist(), _EDGES_PER_BLOCK[self.centre.device.type])
        return [_block(self.neighbour, atoms, degree, start) for atoms in parts]


def _split_by_degree(order: Int[Tensor, "atoms"], degrees: list[int], size: int) -> Iterator[Int[Tensor, "block"]]:
    first = 0
    while first < len(degrees) and degrees[first] > 0:
        last = first + max(size // degrees[first], 1)
        yield order[first:last][: sum(degree > 0 for degree in degrees[first:last])]
        first = last


def _block(
    neighbour: Int[Tensor, "edges"],
    atoms: Int[Tensor, "block"],
    degree: Int[Tensor, "atoms"],
    start: Int[Tensor, "atoms"],
) -> Block:
    slots = torch.arange(int(degree[atoms[0]]), device=atoms.device)
    real = slots < degree[atoms, None]
    edge = torch.where(real, start[atoms, None] + slots, start[atoms, None])
    return Block(atoms, neighbour[edge], edge, real)


@dataclass(frozen=True, eq=False)
class Path:
    """One way from an input to an output irrep.

    Attributes:
        coupling: C_p, harmonics by (m3, m1).
        n_out: 2 l3 + 1.
        weights: columns of w.
        out: columns of the output, channels by m3.
    """

    coupling: Float[Tensor, "harmonics out_in"]
    n_out: int
    weights: slice
    out: slice


@dataclass(frozen=True, eq=False)
class Group:
    """The paths that start from one input irrep.

    Attributes:
        columns: of the input, channels by m1.
        n_in: 2 l1 + 1.
        channels: multiplicity.
        paths: that start here.
    """

    columns: slice
    n_in: int
    channels: int
    paths: tuple[Path, ...]

    def turned(self, path: Path, parity: Float[Tensor, "harmonics"]) -> "Group":
        """A path from its output to this input, for edges turned round."""
        coupling = path.coupling.unflatten(1, (path.n_out, self.n_in)).transpose(1, 2).flatten(1) * parity[:, None]
        return Group(path.out, path.n_out, self.channels, (Path(coupling, self.n_in, path.weights, self.columns),))

    def channels_last(self, features: Float[Tensor, "*n atoms columns"]) -> Float[Tensor, "*n atoms n_in channels"]:
        """This irrep's part of the features with contiguous channels."""
        part = features[..., self.columns]
        return part.reshape(*part.shape[:-1], self.channels, self.n_in).transpose(-1, -2).contiguous()


@dataclass(frozen=True)
class Columns:
    """Columns of features rearranged: irrep after irrep, m by channels, so that channels are contiguous.

    Attributes:
        irreps: columns in e3nn's layout, channels by m, and the number of m.
        starts: of each irrep here, by its first column in e3nn's layout.
        width: number of columns here.
    """

    irreps: tuple[tuple[slice, int], ...]
    starts: dict[int, int]
    width: int

    @staticmethod
    def of(irreps: Iterable[tuple[slice, int]]) -> "Columns":
        """Of irreps, one named twice once: their columns, channels by m in e3nn's layout, and the number of m."""
        distinct = {columns.start: (columns, n) for columns, n in irreps}
        *starts, width = itertools.accumulate((c.stop - c.start for c, _ in distinct.values()), initial=0)
        return Columns(tuple(distinct.values()), dict(zip(distinct, starts, strict=True)), width)

    def gather(self, features: Float[Tensor, "*n columns"]) -> Float[Tensor, "*n width"]:
        """From e3nn's layout."""
        return torch.cat([_turned(features[..., c], (c.stop - c.start) // n) for c, n in self.irreps], dim=-1)

    def scatter(self, found: Float[Tensor, "*n width"], n_columns: int) -> Float[Tensor, "*n n_columns"]:
        """To e3nn's layout, zero where there is nothing here."""
        make = found.new_empty if self.width == n_columns else found.new_zeros
        out = make(*found.shape[:-1], n_columns)
        for c, n in self.irreps:
            start = self.starts[c.start]
            out[..., c] = _turned(found[..., start : start + c.stop - c.start], n)
        return out


def _turned(columns: Float[Tensor, "*n columns"], rows: int) -> Float[Tensor, "*n columns"]:
    """A matrix of so many rows, transposed."""
    return columns.unflatten(-1, (rows, -1)).transpose(-1, -2).flatten(-2)


@dataclass(frozen=True, eq=False)
class Layout:
    """All paths as one table, for loops over edges.

    Attributes:
        into: columns of the input.
        out: columns of the output.
        paths: a row a path: first column in `into`, n_in, first column in `out`, n_out, first filter, first coupling,
            channels.
        couplings: of all paths, side by side.
    """

    into: Columns
    out: Columns
    paths: np.ndarray
    couplings: Float[Tensor, "harmonics couplings"]

    @staticmethod
    def of(groups: Sequence[Group]) -> "Layout":
        """Of the paths of a convolution."""
        paths = [(group, path) for group in groups for path in group.paths]
        couplings = [path.coupling for _, path in paths]
        into = Columns.of((group.columns, group.n_in) for group, _ in paths)
        out = Columns.of((path.out, path.n_out) for _, path in paths)
        first = itertools.accumulate([0, *(coupling.shape[1] for coupling in couplings)])
        rows = [
            (into.starts[g.columns.start], g.n_in, out.starts[p.out.start], p.n_out, p.weights.start, at, g.channels)
            for (g, p), at in zip(paths, first, strict=False)
        ]
        return Layout(into, out, np.array(rows, dtype=np.int64), torch.cat(couplings, dim=1))


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution: its couplings, its filters, and the widths it maps between.

    Attributes:
        groups: paths by input irrep.
        hidden: what the filters are made of, as a function of distance: edges to (edges, hidden).
        mixing: w = hidden @ mixing.
        parity: of each harmonic, (-1)^l: its sign when the edge is turned round.
        n_out: columns of the output.
    """

    groups: tuple[Group, ...]
    hidden: Callable[[Tensor], Tensor]
    mixing: Float[Tensor, "hidden weights"]
    parity: Float[Tensor, "harmonics"]
    n_out: int

    @cached_property
    def layout(self) -> Layout:
        """Its paths as a table."""
        return Layout.of(self.groups)

    @cached_property
    def transposed(self) -> "Convolution":
        """The gradient in the features as a convolution of the gradient in the output.

        What atom i gets from j is what j is owed by i, and the edge from j to i is that from i to j turned round; each
        path is a group of its own, whose output adds to the columns it came from. For graphs whose edges come in pairs.
        """
        return Convolution(
            tuple(group.turned(path, self.parity) for group in self.groups for path in group.paths),
            self.hidden,
            self.mixing,
            self.parity,
            max(group.columns.stop for group in self.groups),
        )

    @staticmethod
    def from_e3nn(
        tensor_product: Any, hidden: Callable[[Tensor], Tensor], mixing: Float[Tensor, "hidden weights"]
    ) -> "Convolution":
        """The convolution that sums an e3nn TensorProduct ("uvu", one output slot a path) over neighbours.

        Couplings are read off the tensor product by applying it to unit vectors, so that e3nn's conventions of sign
        and normalisation hold by construction.

        Args:
            tensor_product: of features and harmonics, on any device.
            hidden: what the filters are made of, as a function of distance.
            mixing: makes the filters from it; its device and dtype are those of the convolution.

        Raises:
            ValueError: if the tensor product has another structure.
        """
        modes = {instruction.connection_mode for instruction in tensor_product.instructions}
        slots = [instruction.i_out for instruction in tensor_product.instructions]
        copies = {copies for copies, _ in tensor_product.irreps_in2}
        if modes != {"uvu"} or copies != {1} or len(set(slots)) != len(slots):
            raise ValueError(
                "the convolution must be a uvu tensor product with an output slot for every path and one copy of each "
                f"harmonic; received {tensor_product} with modes {sorted(modes)}"
            )
        couplings = _read_couplings(copy.deepcopy(tensor_product).cpu().double(), mixing)
        first = [int(i.i_in1) for i in tensor_product.instructions]
        groups = []
        for index, ((channels, irrep), columns) in enumerate(
            zip(tensor_product.irreps_in1, tensor_product.irreps_in1.slices(), strict=True)
        ):
            paths = tuple(path for path, start in zip(couplings, first, strict=True) if start == index)
            groups.append(Group(columns, irrep.dim, channels, paths))
        parity = torch.tensor([(-1.0) ** ir.l for _, ir in tensor_product.irreps_in2 for _ in range(ir.dim)])
        found = Convolution(tuple(groups), hidden, mixing, parity.to(mixing), tensor_product.irreps_out.dim)
        # made now: first asked for inside a transform, they would keep tensors of that transform
        _ = found.layout, found.transposed.layout
        return found


def _read_couplings(product: Any, like: Tensor) -> list[Path]:
    """The path of every instruction, in order."""
    in_slices, out_slices = product.irreps_in1.slices(), product.irreps_out.slices()
    paths, start = [], 0
    for instruction in product.instructions:
        channels, irrep = product.irreps_in1[instruction.i_in1]
        n_out, out = product.irreps_out[instruction.i_out].ir.dim, out_slices[instruction.i_out]
        response = _response(product, in_slices[instruction.i_in1].start, irrep.dim)
        coupling = response[:, :, out.start : out.start + n_out].transpose(1, 2).flatten(1)
        paths.append(Path(coupling.to(like, copy=True), n_out, slice(start, start + channels), out))
        start += channels
    return paths


def _response(product: Any, first: int, n_in: int) -> Float[Tensor, "harmonics n_in out"]:
    """Output for every unit harmonic and every unit vector in the first channel of an input irrep, unit weights."""
    harmonics = product.irreps_in2.dim
    units = torch.zeros(n_in, product.irreps_in1.dim, dtype=torch.float64)
    units[:, first : first + n_in] = torch.eye(n_in)
    weights = torch.ones(harmonics * n_in, product.weight_numel, dtype=torch.float64)
    repeated = torch.eye(harmonics, dtype=torch.float64).repeat_interleave(n_in, dim=0)
    return product(units.repeat(harmonics, 1), repeated, weights).reshape(harmonics, n_in, -1)
