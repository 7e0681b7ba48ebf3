"""Equivariant convolutions with filters that depend on distance: what they are made of; `convolve` applies them."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

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


def blocks_of(graph: GraphBatch) -> list[Block]:
    """All atoms that have neighbours, sorted by how many, in blocks; edges must be sorted by centre."""
    degree = torch.bincount(graph.centre, minlength=len(graph.species))
    start = degree.cumsum(0) - degree
    order = degree.argsort(descending=True, stable=True)
    size = _EDGES_PER_BLOCK[graph.centre.device.type]
    return [_block(graph, atoms, degree, start) for atoms in _split_by_degree(order, degree[order].tolist(), size)]


def _split_by_degree(order: Int[Tensor, "atoms"], degrees: list[int], size: int) -> Iterator[Int[Tensor, "block"]]:
    first = 0
    while first < len(degrees) and degrees[first] > 0:
        last = first + max(size // degrees[first], 1)
        yield order[first:last][: sum(degree > 0 for degree in degrees[first:last])]
        first = last


def _block(
    graph: GraphBatch, atoms: Int[Tensor, "block"], degree: Int[Tensor, "atoms"], start: Int[Tensor, "atoms"]
) -> Block:
    slots = torch.arange(int(degree[atoms[0]]), device=atoms.device)
    real = slots < degree[atoms, None]
    edge = torch.where(real, start[atoms, None] + slots, start[atoms, None])
    return Block(atoms, graph.neighbour[edge], edge, real)


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
        _ = found.transposed  # made now: first asked for inside a transform, it would keep tensors of that transform
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
