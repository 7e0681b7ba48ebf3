"""Bonds and angles against loops over all edges."""

import pytest
from ase import Atoms
from ase.build import bulk, molecule

from mekrr.backbones.line_graph import build_line_graph
from mekrr.graph import build_batch


def rattled(atoms):
    atoms.rattle(0.1, seed=2)
    return atoms


@pytest.mark.parametrize(
    "structures", [[rattled(bulk("Cu"))], [rattled(bulk("NaCl", "rocksalt", a=5.0)), Atoms("H"), molecule("CH4")]]
)
def test_against_loops(structures):
    graph = build_batch(structures, 5.0)
    line = build_line_graph(graph, 3.0)
    edges = list(zip(graph.centre.tolist(), graph.neighbour.tolist(), graph.shifts.long().tolist(), strict=True))
    lengths = graph.edge_vectors().norm(dim=1)
    for index, (i, j, shift) in enumerate(edges):
        back = edges.index((j, i, [-s for s in shift]))
        assert line.undirected[index] == line.undirected[back]
        assert line.representative[line.undirected[index]] == min(index, back)
    assert len(line.representative) == len(edges) // 2
    wanted = {
        (a, b)
        for a in range(len(edges))
        for b in range(len(edges))
        if a != b and edges[a][0] == edges[b][0] and lengths[a] < 3 and lengths[b] < 3
    }
    pairs = list(zip(line.first.tolist(), line.second.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    assert set(pairs) == wanted
    for (a, b), triple in zip(pairs, line.triples.tolist(), strict=True):
        assert triple == [edges[a][0], line.undirected[a], line.undirected[b]]


def test_no_edges():
    line = build_line_graph(build_batch([Atoms("H")], 5.0), 3.0)
    assert len(line.representative) == len(line.first) == 0
