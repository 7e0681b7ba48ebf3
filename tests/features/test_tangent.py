"""Coordinates of gradients in the weights, on a real network."""

import numpy as np
import pytest
import torch

from mekrr.data import as_structures
from mekrr.features import TangentSpace, tangent_space
from mekrr.features.probes import probe
from mekrr.graph import build_batch
from support import alloy

LAYERS = ("interaction_1",)


@pytest.fixture(scope="module")
def space(alloys, sevennet):
    return tangent_space(as_structures(alloys[:4]), sevennet)


@pytest.fixture(scope="module")
def graph(alloys, sevennet):
    return build_batch(alloys[4:6], sevennet.cutoff, sevennet.max_neighbours)


def test_weights_of_coordinates_are_a_change_of_the_network(space, graph, sevennet):
    elements = len(space.species) + 1
    weights = torch.randn(elements, space.width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    T = space.of(sevennet, graph)
    tangent = space.change(weights).tangent(sevennet, graph, graph.edge_vectors().float(), LAYERS)[1]
    expected = (T * weights).sum((1, 2))
    torch.testing.assert_close(graph.sum_atoms(tangent), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_atoms_add_up_to_structures(space, graph, sevennet):
    atoms = torch.cat(list(space.of_atoms(sevennet, graph)))
    T = space.of(sevennet, graph)
    summed = torch.zeros_like(T).index_add_(0, graph.structure, atoms)
    torch.testing.assert_close(summed, T, rtol=0, atol=1e-9 * float(T.abs().max()))


def test_an_element_without_data_goes_to_the_last_row(space, sevennet):
    stranger = alloy(0)
    stranger.numbers[0] = 14
    assert 14 not in space.species
    T = space.of(sevennet, build_batch([stranger], sevennet.cutoff))
    assert bool((T[0, -1] != 0).any())
    assert bool((space.of(sevennet, build_batch([alloy(0)], sevennet.cutoff))[0, -1] == 0).all())


def test_derivatives_are_those_of_the_coordinates(space, alloys, sevennet):
    """By differences of moved structures, in single precision."""
    atoms = alloys[5].copy()
    d = torch.randn(2, len(atoms), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    graph = build_batch([atoms], sevennet.cutoff)
    _, moved, _ = next(space.along(sevennet, graph, d, None, LAYERS, 2))
    for k in range(2):
        ends = []
        for sign in (1, -1):
            there = atoms.copy()
            there.positions += sign * 0.01 * d[k].numpy()
            ends.append(space.of(sevennet, build_batch([there], sevennet.cutoff)))
        expected = (ends[0] - ends[1])[0] / 0.02
        error = (moved[k, 0] - expected).norm() / expected.norm()
        assert float(error) < 0.02


def test_every_map_counts_the_same(space, alloys, sevennet):
    """Along random moves of the sample, elements together, each map's coordinates have one mean square."""
    squares = []
    for t, s in enumerate(alloys[:4]):
        d = torch.randn(8, len(s), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(t))
        graph = build_batch([s], sevennet.cutoff)
        moved = next(space.along(sevennet, graph, d, None, LAYERS, 8))[1][:, 0].sum(1)
        parts = moved.split([scale.numel() for scale in space.scale], dim=1)
        squares.append(torch.stack([part.square().sum(1).mean() for part in parts]))
    mean = torch.stack(squares).mean(0)
    assert float(mean.max() / mean.min()) < 6


def test_a_space_comes_back_from_its_tensors(space):
    again = TangentSpace.from_tensors(space.as_tensors())
    assert again.digest == space.digest
    assert again.names == tuple(sorted(again.names))


def test_the_store_holds_coordinates_beside_derivatives(space, alloys, sevennet):
    structures = as_structures(alloys[:3])
    plain, described = probe(structures, sevennet, LAYERS, 3), probe(structures, sevennet, LAYERS, 3, tangent=space)
    for t, s in enumerate(structures):
        a, b = plain(t), described(t)
        assert a.tangent is None
        assert b.tangent.shape == (1 + len(b.dft), len(space.species), space.width)
        torch.testing.assert_close(b.features, a.features, rtol=1e-4, atol=1e-5 * float(a.features.abs().max()))
        T = space.of(sevennet, build_batch([s.atoms], sevennet.cutoff))[0, :-1].float()
        torch.testing.assert_close(b.tangent[0], T, rtol=1e-4, atol=1e-5 * float(T.abs().max()))


def test_derivatives_along_strains_are_those_of_strained_cells(space, alloys, sevennet):
    atoms = alloys[5].copy()
    graph = build_batch([atoms], sevennet.cutoff)
    still, strain = torch.zeros(1, len(atoms), 3, dtype=torch.float64), torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    strain[0, 0, 0, 0], strain[0, 0, 0, 1], strain[0, 0, 1, 0] = 1.0, 0.3, 0.3
    _, moved, _ = next(space.along(sevennet, graph, still, strain, LAYERS, 1))
    ends = []
    for sign in (1, -1):
        there = atoms.copy()
        there.set_cell(atoms.cell.array @ (np.eye(3) + sign * 0.003 * strain[0, 0].numpy()), scale_atoms=True)
        ends.append(space.of(sevennet, build_batch([there], sevennet.cutoff)))
    expected = (ends[0] - ends[1])[0] / 0.006
    assert float((moved[0, 0] - expected).norm() / expected.norm()) < 0.02
