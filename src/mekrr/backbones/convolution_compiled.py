"""The arithmetic of `convolution_kernels`, compiled for CPUs: one pass over the edges, path after path.

What an edge needs at a time (a row of filters, of couplings, of the features at its end) lies in the nearest cache, and
nothing is written but what is summed. Filters are matrix products, made for some hundred edges at once. The loops leave
Python's lock: threads take pieces of edges, all of an atom's in one. Pieces follow from the graph alone, and so does
where each of them sums: the result does not depend on how many threads there are.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import numba
import numpy as np
import torch

from mekrr.backbones.convolution import Convolution, Edges
from mekrr.backbones.process_state import forward_product
from mekrr.typing import Float, Tensor

Array = np.ndarray
Cuts = list[tuple[int, int, int]]  # the sum that a piece of a part is added to, its first and its last edge
Rows = Callable[[slice, Cuts], Tensor]  # of the edges of a part

_PIECE = 256  # edges, of which filters take half a megabyte
_SMALLEST_PIECE = 64  # edges that are worth a thread
_SUMS = 8  # that pieces are added to in turn; as many threads have something to do
_KEPT_BYTES = 64_000_000  # of one convolution's filters, and as much of their slopes


def _compiled(function: Callable[..., None]) -> Any:
    """With sums over channels in any order, so that they are vectorised; what is not a number stays so."""
    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract", "reassoc", "nsz", "arcp"}}
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:  # neither the package's folder nor the user's can be written: every process compiles anew
        return numba.njit(function, **options)


def convolution_values(
    convolution: Convolution,
    edges: Edges,
    features: Float[Tensor, "atoms columns"],
    lengths: Float[Tensor, "edges"],
    harmonics: Float[Tensor, "edges harmonics"],
) -> Float[Tensor, "atoms out"]:
    """Messages summed over neighbours."""
    layout, factors = convolution.layout, _factors(convolution, edges, lengths, harmonics)
    x = _array(layout.into.gather(features))
    out = features.new_zeros(len(features), layout.out.width)
    for part, sides, cuts in _parts(edges):
        made = factors(part, cuts)
        _each(partial(_values, _array(out), x, *map(_array, made), *sides, layout.paths), cuts)
    return layout.out.scatter(out, convolution.n_out)


def convolution_gradients(
    convolution: Convolution,
    edges: Edges,
    features: Float[Tensor, "atoms columns"],
    lengths: Float[Tensor, "edges"],
    harmonics: Float[Tensor, "edges harmonics"],
    gradient: Float[Tensor, "atoms out"],
) -> tuple[Float[Tensor, "atoms columns"], Float[Tensor, "edges"], Float[Tensor, "edges harmonics"]]:
    """Gradients in features, lengths and harmonics, given the gradient in the output."""
    layout, factors = convolution.layout, _factors(convolution, edges, lengths, harmonics)
    x, given = _array(layout.into.gather(features)), _array(layout.out.gather(gradient))
    by_x = features.new_zeros(min(_SUMS, len(_pieces(edges))), *x.shape)
    by_hidden, by_harmonics = lengths.new_empty(len(lengths), len(convolution.mixing)), torch.empty_like(harmonics)
    for part, sides, cuts in _parts(edges):
        made = factors(part, cuts)
        by_filters, by_matrices = map(torch.zeros_like, made)
        arrays = map(_array, (by_x, by_filters, by_matrices))
        _each(partial(_gradients, *arrays, x, *map(_array, made), given, *sides, layout.paths), cuts)
        by_hidden[part] = _times(by_filters, convolution.mixing.T, cuts)
        by_harmonics[part] = _times(by_matrices, layout.couplings.T, cuts)
    by_lengths = _pulled_back(convolution, lengths, by_hidden)
    return layout.into.scatter(by_x.sum(0), features.shape[1]), by_lengths, by_harmonics


def convolution_tangents(
    convolution: Convolution,
    edges: Edges,
    features: Float[Tensor, "atoms columns"],
    lengths: Float[Tensor, "edges"],
    harmonics: Float[Tensor, "edges harmonics"],
    feature_tangents: Float[Tensor, "n atoms columns"],
    length_tangents: Float[Tensor, "n edges"],
    harmonic_tangents: Float[Tensor, "n edges harmonics"],
) -> Float[Tensor, "n atoms out"]:
    """Derivatives of the output along n directions."""
    layout, n = convolution.layout, len(feature_tangents)
    factors, slopes = _factors(convolution, edges, lengths, harmonics), _slopes(convolution, edges, lengths)
    x = _array(layout.into.gather(features))
    moves = _array(layout.into.gather(feature_tangents).transpose(0, 1).contiguous())
    stretched, turned = length_tangents.T.contiguous(), harmonic_tangents.transpose(0, 1)
    out = features.new_zeros(len(features), n, layout.out.width)
    for part, sides, cuts in _parts(edges):
        filters, matrices = factors(part, cuts)
        along = _times(turned[part], layout.couplings, cuts), stretched[part]
        arrays = map(_array, (out, filters, slopes(part, cuts), matrices, *along))
        _each(partial(_tangents, x, moves, *arrays, *sides, layout.paths), cuts)
    return layout.out.scatter(out.transpose(0, 1), convolution.n_out)


@_compiled
def _values(
    out: Array, x: Array, filters: Array, matrices: Array, centre: Array, neighbour: Array, paths: Array,
    into_sum: int, first: int, last: int,
) -> None:  # fmt: skip
    """out_i[m3] += M[m3, m1] (w x_j[m1]), all channels at once."""
    weighted = np.empty(x.shape[1], x.dtype)
    for e in range(first, last):
        for p in range(len(paths)):
            start, n_in, into, n_out, w0, m0, channels = paths[p]
            w = filters[e, w0 : w0 + channels]
            for m1 in range(n_in):
                source = x[neighbour[e], start + m1 * channels : start + (m1 + 1) * channels]
                for u in range(channels):
                    weighted[u] = w[u] * source[u]
                for m3 in range(n_out):
                    factor = matrices[e, m0 + m3 * n_in + m1]
                    target = out[centre[e], into + m3 * channels : into + (m3 + 1) * channels]
                    for u in range(channels):
                        target[u] += factor * weighted[u]


@_compiled
def _gradients(
    by_x: Array, by_filters: Array, by_matrices: Array, x: Array, filters: Array, matrices: Array, given: Array,
    centre: Array, neighbour: Array, paths: Array, into_sum: int, first: int, last: int,
) -> None:  # fmt: skip
    """With g = dE/dout_i and t[m1] = sum_m3 M g[m3]: w t[m1] for x_j, sum_m1 x_j t for w, sum_u g w x_j for M."""
    t, weighted = np.empty((2, x.shape[1]), x.dtype)
    for e in range(first, last):
        for p in range(len(paths)):
            start, n_in, into, n_out, w0, m0, channels = paths[p]
            w, by_w = filters[e, w0 : w0 + channels], by_filters[e, w0 : w0 + channels]
            for m1 in range(n_in):
                column = start + m1 * channels
                source = x[neighbour[e], column : column + channels]
                by_source = by_x[into_sum, neighbour[e], column : column + channels]
                for u in range(channels):
                    t[u] = 0
                    weighted[u] = w[u] * source[u]
                for m3 in range(n_out):
                    factor = matrices[e, m0 + m3 * n_in + m1]
                    g = given[centre[e], into + m3 * channels : into + (m3 + 1) * channels]
                    total = x.dtype.type(0)
                    for u in range(channels):
                        t[u] += factor * g[u]
                        total += g[u] * weighted[u]
                    by_matrices[e, m0 + m3 * n_in + m1] = total
                for u in range(channels):
                    by_source[u] += t[u] * w[u]
                    by_w[u] += t[u] * source[u]


@_compiled
def _tangents(
    x: Array, moves: Array, out: Array, filters: Array, slopes: Array, matrices: Array, turned: Array,
    stretched: Array, centre: Array, neighbour: Array, paths: Array, into_sum: int, first: int, last: int,
) -> None:  # fmt: skip
    """out'_i[m3] += M (w x'_j + r' w_r x_j)[m1] + M' (w x_j)[m1], direction after direction."""
    weighted, stretch, carried = np.empty((3, x.shape[1]), x.dtype)
    for e in range(first, last):
        for p in range(len(paths)):
            start, n_in, into, n_out, w0, m0, channels = paths[p]
            w, w_r = filters[e, w0 : w0 + channels], slopes[e, w0 : w0 + channels]
            for m1 in range(n_in):
                column = start + m1 * channels
                source = x[neighbour[e], column : column + channels]
                for u in range(channels):
                    weighted[u] = w[u] * source[u]
                    stretch[u] = w_r[u] * source[u]
                for d in range(moves.shape[1]):
                    move, length = moves[neighbour[e], d, column : column + channels], stretched[e, d]
                    for u in range(channels):
                        carried[u] = w[u] * move[u] + length * stretch[u]
                    for m3 in range(n_out):
                        entry = m0 + m3 * n_in + m1
                        factor, turn = matrices[e, entry], turned[e, d, entry]
                        target = out[centre[e], d, into + m3 * channels : into + (m3 + 1) * channels]
                        for u in range(channels):
                            target[u] += factor * carried[u] + turn * weighted[u]


def _factors(
    convolution: Convolution, edges: Edges, lengths: Float[Tensor, "edges"], harmonics: Float[Tensor, "edges harmonics"]
) -> Callable[[slice, Cuts], tuple[Tensor, Tensor]]:
    """Filters and couplings M of some edges."""
    mixing, couplings = convolution.mixing, convolution.layout.couplings
    filters = _product(edges, "filters", mixing, lengths, lambda: convolution.hidden(lengths))
    matrices = _product(edges, "couplings", couplings, harmonics, lambda: harmonics)
    return lambda part, cuts: (filters(part, cuts), matrices(part, cuts))


def _slopes(convolution: Convolution, edges: Edges, lengths: Float[Tensor, "edges"]) -> Rows:
    """Derivatives of the filters in the distance, of some edges."""

    def hidden() -> Tensor:
        return forward_product(convolution.hidden, (lengths,), (torch.ones_like(lengths),))[1]

    return _product(edges, "slopes", convolution.mixing, lengths, hidden)


def _product(edges: Edges, name: str, by: Tensor, of: Tensor, make: Callable[[], Tensor]) -> Rows:
    """Rows of a product by a matrix, of some edges.

    Small ones are kept with the edges: a pass that carries a tangent, and its way back, use them four times.
    """
    if len(of) * by.shape[1] * by.itemsize > _KEPT_BYTES:
        left = make()
        return lambda part, cuts: _times(left[part], by, cuts)
    found = edges.kept.get((name, id(by)))
    if found is None or not torch.equal(found[0], of):
        found = edges.kept[name, id(by)] = (of.detach(), (make() @ by).detach())
    return lambda part, _: found[1][part]


def _times(rows: Tensor, by: Tensor, cuts: Cuts) -> Tensor:
    """A product, piece by piece: its last bits follow from how many rows are multiplied at once, and where they lie."""
    return torch.cat([_aligned(rows[first:last]) @ by for _, first, last in cuts])


def _aligned(rows: Tensor) -> Tensor:
    return rows.clone() if rows.data_ptr() % 64 else rows


def _pulled_back(
    convolution: Convolution, lengths: Float[Tensor, "edges"], by_hidden: Float[Tensor, "edges hidden"]
) -> Float[Tensor, "edges"]:
    """Gradient in the lengths from that in what the filters are made of."""
    with torch.enable_grad():
        at = lengths.detach().requires_grad_(True)
        return torch.autograd.grad(convolution.hidden(at), at, by_hidden)[0]


def _array(tensor: Tensor) -> Array:
    """The same memory; what is given to a differentiable operation may want gradients."""
    return tensor.detach().numpy()


def _pieces(edges: Edges) -> list[tuple[int, int]]:
    """First and last of consecutive edges, all of an atom's in one piece."""
    centre = edges.centre.numpy()
    n = len(centre)
    count = max(1, -(-n // _PIECE), min(_SUMS, n // _SMALLEST_PIECE))
    ends = sorted({0, n, *(int(np.searchsorted(centre, centre[k * n // count])) for k in range(1, count))})
    return list(itertools.pairwise(ends))


def _parts(edges: Edges) -> Iterator[tuple[slice, tuple[Array, Array], Cuts]]:
    """Pieces for which filters are made at once, some for each thread: their edges, both sides, the cuts between them.

    No two pieces of a part are added to the same sum.
    """
    centre, neighbour, pieces = edges.centre.numpy(), edges.neighbour.numpy(), _pieces(edges)
    threads = torch.get_num_threads()
    together = min(_SUMS, max(threads, _PIECE * threads * len(pieces) // max(1, len(centre))))
    for k in range(0, len(pieces), together):
        taken = pieces[k : k + together]
        begin, end = taken[0][0], taken[-1][1]
        cuts = [((k + i) % _SUMS, first - begin, last - begin) for i, (first, last) in enumerate(taken)]
        yield slice(begin, end), (centre[begin:end], neighbour[begin:end]), cuts


def _each(kernel: Callable[[int, int, int], None], cuts: Cuts) -> None:
    """Of every piece's edges."""
    threads = min(torch.get_num_threads(), len(cuts))
    if threads == 1:
        for cut in cuts:
            kernel(*cut)
        return
    for done in [_pool(threads).submit(kernel, *cut) for cut in cuts]:
        done.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="convolution")


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
