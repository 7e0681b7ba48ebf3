"""Gram matrices of the embedding kernel in one pass over tiles of atom pairs.

The embedding kernel is K = (1 - w) A + w B, with A over all pairs of atoms and B over pairs of one species
(arXiv 2306.01589, its multi-weight kernel in species_weight w). One pass gives both for every w, and by repeated
squaring for a geometric ladder of length scales. No matrix of all atom pairs is ever formed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from mekrr.features import Environments
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
        noise: rounding error of one entry of A relative to the diagonal, for each rung; 0 between different sets.
    """

    all_pairs: Float[Tensor, "rungs rows columns"]
    same_species: Float[Tensor, "rungs rows columns"]
    length_scales: tuple[float, ...]
    noise: tuple[float, ...]

    def mix(self, rung: int, species_weight: float) -> Float[Tensor, "rows columns"]:
        """K = (1 - w) A + w B."""
        return torch.lerp(self.all_pairs[rung], self.same_species[rung], species_weight)


@dataclass(frozen=True, eq=False)
class _Pooling:
    """How atoms are pooled: into groups (one species of one structure), then into structures."""

    group: Int[Tensor, "atoms"]
    group_structure: Int[Tensor, "groups"]
    group_species: Int[Tensor, "groups"]
    weight_all: Float[Tensor, "groups"]
    weight_same: Float[Tensor, "groups"]


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
    symmetric = y is None
    y = x if y is None else y
    dtype = dtype or tile_dtype(x, None if symmetric else y)
    rows = _blocks(x, embedding)
    columns = rows if symmetric else _blocks(y, embedding)
    left, right = kernel.left(x.features, dtype), kernel.right(y.features, dtype)
    A = torch.zeros(rungs, x.n_structures, y.n_structures, dtype=torch.float64)
    B = torch.zeros_like(A)
    pairs = [(i, j) for i in range(len(rows)) for j in range(i if symmetric else 0, len(columns))]
    buffer = torch.empty(TILE * TILE, dtype=dtype)
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
    noise = _rounding(x, A, kernel, embedding, dtype) if symmetric else (0.0,) * rungs
    return GramPair(A, B, scales, noise)


def gram_diagonal(
    x: Environments, kernel: PointwiseKernel, embedding: str, species_weight: float
) -> Float[Tensor, "structures"]:
    """K(t, t) of each structure, float64."""
    values = []
    for t in range(x.n_structures):
        pair = gram(x[torch.tensor([t])], None, kernel, embedding, dtype=torch.float64)
        values.append(pair.mix(0, species_weight).squeeze())
    return torch.stack(values)


def tile_dtype(x: Environments, y: Environments | None = None) -> torch.dtype:
    """float64 while the pass stays a matter of seconds, else float32."""
    pairs = len(x.species) ** 2 / 2 if y is None else len(x.species) * len(y.species)
    return torch.float64 if pairs <= FLOAT64_PAIRS else torch.float32


def _rounding(
    x: Environments, A: Float[Tensor, "rungs rows rows"], kernel: PointwiseKernel, embedding: str, dtype: torch.dtype
) -> tuple[float, ...]:
    """Root mean square difference from float64 tiles on a few structures; for float64 tiles, scaled by its eps.

    It is measured in float32 either way, since nothing better than float64 is at hand to compare with.
    """
    if x.n_structures > PROBED_STRUCTURES:
        chosen = torch.linspace(0, x.n_structures - 1, PROBED_STRUCTURES).long()
    else:
        chosen = torch.arange(x.n_structures)
    sample = x[chosen]
    rungs = len(A)
    exact = _sampled(sample, kernel, embedding, rungs, torch.float64)
    single = _sampled(sample, kernel, embedding, rungs, torch.float32)
    diagonal = exact.diagonal(dim1=1, dim2=2).abs().mean(1)
    error = (single - exact).square().mean((1, 2)).sqrt() / diagonal
    ratio = torch.finfo(dtype).eps / torch.finfo(torch.float32).eps
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
    pooling = _pooling(x, embedding)
    return [_block(pooling, slice(a, min(a + TILE, len(x.species)))) for a in range(0, len(x.species), TILE)]


def _block(pooling: _Pooling, atoms: slice) -> _Block:
    groups, local = torch.unique(pooling.group[atoms], return_inverse=True)
    structure = pooling.group_structure[groups]
    first = int(structure.min())
    members = torch.zeros(int(structure.max()) - first + 1, len(groups), dtype=torch.float64)
    members[structure - first, torch.arange(len(groups))] = 1.0
    return _Block(
        atoms,
        slice(first, first + len(members)),
        local,
        pooling.group_species[groups],
        members * pooling.weight_all[groups],
        members * pooling.weight_same[groups],
    )


def _pooling(x: Environments, embedding: str) -> _Pooling:
    """Groups in order of structure, then species."""
    if embedding not in ("sum", "mean"):
        raise ValueError(f"unknown embedding {embedding!r}; choose sum or mean")
    groups = x.species_groups()
    ones = torch.ones(len(groups.counts), dtype=torch.float64)
    if embedding == "sum":
        return _Pooling(groups.of_atom, groups.structure, groups.species, ones, ones)
    per_structure, per_group = ones / x.n_atoms[groups.structure], ones / groups.counts
    return _Pooling(groups.of_atom, groups.structure, groups.species, per_structure, per_group)
