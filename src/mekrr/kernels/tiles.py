"""Gram matrices of the embedding kernel in one pass over tiles of atom pairs.

A component of a structure kernel is K = a A + b B, with A over all pairs of atoms and B over pairs of one species. One
pass gives both for all amplitudes, and by repeated squaring for a geometric ladder of length scales: the Gaussian at
l / sqrt(2) is exp(-d^2 / l^2) = (exp(-d^2 / (2 l^2)))^2. No matrix of all atom pairs is ever formed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from mekrr.features.environments import Environments, SpeciesGroups
from mekrr.kernels.embedding import EMBEDDINGS, Pooling, Split
from mekrr.kernels.pointwise import PointwiseKernel
from mekrr.typing import Float, Int, Tensor

TILE = 1024  # atoms; one float32 tile is 4 MiB, about the second-level cache
PROBED_STRUCTURES = 8  # on which rounding is measured
FLOAT64_PAIRS = 4e9  # below so many atom pairs float64 tiles cost seconds only

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class GramPair:
    """The two Gram matrices, one slice a rung of the ladder.

    Attributes:
        all_pairs: A.
        same_species: B.
        length_scales: of the rungs, longest first.
    """

    all_pairs: Float[Tensor, "rungs rows columns"]
    same_species: Float[Tensor, "rungs rows columns"]
    length_scales: tuple[float, ...]

    def split(self, rung: int) -> Split:
        """A and B of one length scale."""
        return Split(self.all_pairs[rung], self.same_species[rung])


@dataclass(frozen=True, eq=False)
class _Block:
    """One tile's worth of atoms."""

    atoms: slice
    structures: slice
    group: Int[Tensor, "atoms"]
    species: Int[Tensor, "groups"]
    pool_all: Float[Tensor, "structures groups"]
    pool_same: Float[Tensor, "structures groups"]


def gram(
    x: Environments,
    y: Environments | None,
    kernel: PointwiseKernel,
    embedding: str,
    rungs: int = 1,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> GramPair:
    """A and B between the structures of x and y.

    Args:
        x: rows.
        y: columns; None for x itself, at half the cost.
        kernel: with the longest length scale of the ladder.
        embedding: "sum" or "mean".
        rungs: number of length scales, each 1/sqrt(2) of the one before; more than 1 needs a kernel that squares.
        dtype: of the tiles; None for float64 where that is affordable. Sums over tiles are always float64.
        progress: called with tiles done and tiles in all.

    Raises:
        ValueError: for an unknown embedding, or a ladder of a kernel that has none.
    """
    if rungs > 1 and not kernel.squares:
        raise ValueError(f"the {kernel.name} kernel has no ladder of length scales; ask for one at a time")
    if embedding not in EMBEDDINGS:
        raise ValueError(f"unknown embedding {embedding!r}; choose sum or mean")
    symmetric = y is None
    y = x if y is None else y
    dtype = dtype or tile_dtype(x, None if symmetric else y)
    rows = _blocks(x, embedding)
    columns = rows if symmetric else _blocks(y, embedding)
    left, right = kernel.left(x.features, dtype), kernel.right(y.features, dtype)
    A = left.new_zeros(rungs, x.n_structures, y.n_structures, dtype=torch.float64)
    B = torch.zeros_like(A)
    pairs = [(i, j) for i in range(len(rows)) for j in range(i if symmetric else 0, len(columns))]
    buffer = left.new_empty(TILE * TILE)
    for done, (i, j) in enumerate(pairs):
        r, c = rows[i], columns[j]
        shape = (len(r.group), len(c.group))
        tile = buffer[: shape[0] * shape[1]].view(shape)
        kernel.transform_(torch.mm(left[r.atoms], right[c.atoms].T, out=tile))
        for rung, (a, b) in enumerate(_pooled_rungs(tile, r, c, rungs)):
            A[rung, r.structures, c.structures] += a
            B[rung, r.structures, c.structures] += b
            if symmetric and i != j:
                A[rung, c.structures, r.structures] += a.T
                B[rung, c.structures, r.structures] += b.T
        if progress is not None:
            progress(done + 1, len(pairs))
    scales = tuple(kernel.length_scale / 2 ** (rung / 2) for rung in range(rungs))
    return GramPair(A, B, scales)


def tile_dtype(x: Environments, y: Environments | None = None) -> torch.dtype:
    """float64 while the pass stays a matter of seconds, else float32."""
    pairs = len(x.species) ** 2 / 2 if y is None else len(x.species) * len(y.species)
    return torch.float64 if pairs <= FLOAT64_PAIRS else torch.float32


def rounding(
    x: Environments, kernel: PointwiseKernel, embedding: str, rungs: int, dtype: torch.dtype | None = None
) -> tuple[float, ...]:
    """Rounding error of an entry of A relative to the diagonal, for each rung: what no ridge should be below.

    Root mean square difference from float64 tiles on a few structures. It is measured in float32 and scaled by the eps
    of the dtype, since nothing better than float64 is at hand to compare with.

    Args:
        x: structures.
        kernel: with the longest length scale.
        embedding: "sum" or "mean".
        rungs: number of length scales.
        dtype: of the tiles; None for what `gram` takes for x.
    """
    few = min(PROBED_STRUCTURES, x.n_structures)
    sample = x[torch.linspace(0, x.n_structures - 1, few).long().to(x.species.device)]
    exact = _sampled(sample, kernel, embedding, rungs, torch.float64)
    single = _sampled(sample, kernel, embedding, rungs, torch.float32)
    diagonal = exact.diagonal(dim1=1, dim2=2).abs().mean(1)
    error = (single - exact).square().mean((1, 2)).sqrt() / diagonal
    ratio = torch.finfo(dtype or tile_dtype(x)).eps / torch.finfo(torch.float32).eps
    return tuple((error * ratio).tolist())


def _sampled(
    sample: Environments, kernel: PointwiseKernel, embedding: str, rungs: int, dtype: torch.dtype
) -> Float[Tensor, "rungs rows rows"]:
    """A of a few structures."""
    return gram(sample, sample, kernel, embedding, rungs, dtype).all_pairs


def _pooled_rungs(tile: Tensor, r: _Block, c: _Block, rungs: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pooled A and B of a tile, then of its square, and so on; the tile is overwritten."""
    same = (r.species[:, None] == c.species[None, :]).double()
    for rung in range(rungs):
        if rung:
            tile.mul_(tile)
        S = _pool_rows(_pool_rows(tile, r).T.contiguous().double(), c).T
        yield r.pool_all @ S @ c.pool_all.T, r.pool_same @ (S * same) @ c.pool_same.T


def _pool_rows(tile: Float[Tensor, "atoms columns"], block: _Block) -> Float[Tensor, "groups columns"]:
    return tile.new_zeros(len(block.species), tile.shape[1]).index_add_(0, block.group, tile)


def _blocks(x: Environments, embedding: str) -> list[_Block]:
    groups, pooling = x.species_groups(), Pooling.of(x, embedding)
    first = groups.of_atom.new_zeros(len(groups.counts)).scatter_(
        0, groups.of_atom, torch.arange(len(x.species), device=x.species.device)
    )  # any atom of a group: all of them have the same weights
    weights = pooling.p[first], pooling.q[first]
    n = len(x.species)
    return [_block(groups, weights, slice(a, min(a + TILE, n))) for a in range(0, n, TILE)]


def _block(groups: SpeciesGroups, weights: tuple[Tensor, Tensor], atoms: slice) -> _Block:
    chosen, local = torch.unique(groups.of_atom[atoms], return_inverse=True)
    structure = groups.structure[chosen]
    first = int(structure.min())
    members = weights[0].new_zeros(int(structure.max()) - first + 1, len(chosen))
    members[structure - first, torch.arange(len(chosen), device=members.device)] = 1.0
    return _Block(
        atoms,
        slice(first, first + len(members)),
        local,
        groups.species[chosen],
        members * weights[0][chosen],
        members * weights[1][chosen],
    )
