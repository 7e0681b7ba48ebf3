"""Undirected bonds and bond angles of a GraphBatch, for networks that pass messages along angles."""

from dataclasses import dataclass

import torch

from mekrr.graph import GraphBatch
from mekrr.typing import Int, Tensor


@dataclass(frozen=True, eq=False)
class LineGraph:
    """Bonds without direction, and ordered pairs of short edges that leave the same atom.

    Attributes:
        undirected: for each directed edge, the index of its bond.
        representative: for each bond, one of its two directed edges.
        first: for each angle, its first directed edge.
        second: for each angle, its second directed edge.
        triples: for each angle, the atom at its vertex and the bonds of its two edges.
    """

    undirected: Int[Tensor, "edges"]
    representative: Int[Tensor, "bonds"]
    first: Int[Tensor, "angles"]
    second: Int[Tensor, "angles"]
    triples: Int[Tensor, "angles 3"]


def build_line_graph(graph: GraphBatch, cutoff: float) -> LineGraph:
    """Bonds of `graph` and the angles between edges no longer than `cutoff` Angstrom."""
    undirected, representative = _bonds(graph)
    first, second = edge_pairs(graph, cutoff)
    triples = torch.stack([graph.centre[first], undirected[first], undirected[second]], dim=1)
    return LineGraph(undirected, representative, first, second, triples)


def edge_pairs(graph: GraphBatch, cutoff: float) -> tuple[Int[Tensor, "angles"], Int[Tensor, "angles"]]:
    """First and second edge of each angle between edges no longer than `cutoff` Angstrom that leave the same atom.

    Sorted by the first edge. Lengths are taken from the stored geometry: which angles exist is topology, and must not
    depend on a perturbation (a smooth cutoff makes angles at the border weightless).
    """
    lengths = torch.linalg.vector_norm(graph.edge_vectors(), dim=1)
    return _pairs(graph.centre, torch.nonzero(lengths < cutoff).flatten())


def _bonds(graph: GraphBatch) -> tuple[Int[Tensor, "edges"], Int[Tensor, "bonds"]]:
    """Bond of each edge and an edge of each bond: (i, j, S) and (j, i, -S) are one bond."""
    there = torch.cat([graph.centre[:, None], graph.neighbour[:, None], graph.shifts.long()], dim=1)
    back = torch.cat([graph.neighbour[:, None], graph.centre[:, None], -graph.shifts.long()], dim=1)
    canonical = torch.where(_is_less(back, there)[:, None], back, there)
    _, undirected = torch.unique(canonical, dim=0, return_inverse=True)
    n_bonds = int(undirected.max()) + 1 if len(undirected) else 0
    edges = torch.arange(len(undirected), device=undirected.device)
    representative = edges.new_zeros(n_bonds).scatter_(0, undirected.flip(0), edges.flip(0))
    return undirected, representative


def _is_less(a: Int[Tensor, "rows columns"], b: Int[Tensor, "rows columns"]) -> Tensor:
    """Lexicographic a < b, row by row."""
    differs = a != b
    column = differs.int().argmax(dim=1, keepdim=True)
    return (a.gather(1, column) < b.gather(1, column)).squeeze(1)


def _pairs(
    centre: Int[Tensor, "edges"], short: Int[Tensor, "short"]
) -> tuple[Int[Tensor, "angles"], Int[Tensor, "angles"]]:
    """Ordered pairs of different edges in `short` with the same centre; edges are sorted by centre."""
    owners = centre[short]
    _, counts = torch.unique_consecutive(owners, return_counts=True)
    starts = counts.cumsum(0) - counts
    per_edge = counts.repeat_interleave(counts)
    first = torch.repeat_interleave(torch.arange(len(short), device=short.device), per_edge)
    within = torch.arange(len(first), device=short.device) - (per_edge.cumsum(0) - per_edge)[first]
    second = starts.repeat_interleave(counts)[first] + within
    different = first != second
    return short[first[different]], short[second[different]]
