"""Graphs that an engine has made."""

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from mekrr.graph import GraphBatch, build_batch

PARTS = [bulk("Cu", cubic=True), molecule("H2O"), Atoms("H")]


@pytest.fixture
def built():
    return build_batch(PARTS, 4.0)


def tensors(graph, order=None):
    """What an engine would give, its edges in an order of its own."""
    order = torch.arange(len(graph.centre)) if order is None else order
    return {
        "species": graph.species,
        "centre": graph.centre[order],
        "neighbour": graph.neighbour[order],
        "vectors": graph.edge_vectors()[order],
        "n_atoms": graph.n_atoms,
        "cells": graph.cells,
    }


def test_a_graph_from_shuffled_edges_is_that_of_the_structures(built):
    order = torch.randperm(len(built.centre), generator=torch.Generator().manual_seed(0))
    given = tensors(built, order)
    graph = GraphBatch.from_tensors(**given)
    assert bool((graph.centre.diff() >= 0).all())
    assert torch.equal(graph.structure, built.structure)
    torch.testing.assert_close(graph.volumes, built.volumes)
    for name, values in (("centre", graph.centre), ("neighbour", graph.neighbour), ("vectors", graph.edge_vectors())):
        assert torch.equal(graph.in_given_order(values), given[name]), name


def test_vectors_follow_a_strain_and_have_no_positions(built):
    graph = GraphBatch.from_tensors(**tensors(built))
    strain = torch.randn(3, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(graph.edge_vectors(strain=strain), built.edge_vectors(strain=strain))
    with pytest.raises(ValueError, match="no positions to replace"):
        graph.edge_vectors(torch.zeros(8, 3, dtype=torch.float64))


def test_one_structure_without_a_cell_is_the_default():
    built = build_batch(PARTS[1:2], 4.0)
    given = {name: value for name, value in tensors(built).items() if name not in ("n_atoms", "cells")}
    graph = GraphBatch.from_tensors(**given | {"vectors": given["vectors"].float()})
    assert graph.n_atoms.tolist() == [3]
    assert graph.volumes.tolist() == [0.0]
    assert graph.edge_vectors().dtype == torch.float64


def test_copies_are_those_of_so_many_structures(built):
    atoms = [bulk("Cu", cubic=True), molecule("H2O")]
    copies, expected = build_batch(atoms, 4.0).repeated(3), build_batch(atoms * 3, 4.0)
    for name, values in vars(expected).items():
        found = getattr(copies, name)
        assert (found is None) == (values is None), name
        assert found is None or torch.equal(found, values), name
    given = GraphBatch.from_tensors(built.species, built.centre, built.neighbour, built.edge_vectors(), built.n_atoms)
    assert torch.equal(given.repeated(2).edge_vectors(), built.repeated(2).edge_vectors())
    assert built.repeated(1) is built


def test_an_atom_alone_has_no_edges():
    none = torch.zeros(0, dtype=torch.int64)
    graph = GraphBatch.from_tensors(torch.tensor([29]), none, none, torch.zeros(0, 3))
    assert graph.edge_vectors().shape == (0, 3)


def test_edges_found_here_are_in_their_given_order(built):
    values = torch.rand(len(built.centre))
    assert built.in_given_order(values) is values


def test_only_what_repeats_in_all_directions_has_a_volume():
    copper = bulk("Cu", cubic=True)
    parts = [copper.copy() for _ in range(3)]
    parts[1].pbc, parts[2].pbc = (True, True, False), False
    assert build_batch(parts, 4.0).volumes.tolist() == pytest.approx([copper.get_volume(), 0.0, 0.0])


def test_moving_to_a_device_keeps_everything(built):
    graph = GraphBatch.from_tensors(**tensors(built))
    for one in (built, graph):
        moved = one.to("cpu")
        assert all(
            a is None if b is None else torch.equal(a, b) for a, b in zip(*map(tuple_of, (moved, one)), strict=True)
        )
    assert graph.nbytes == sum(value.nbytes for value in vars(graph).values())
    assert built.nbytes == sum(value.nbytes for value in vars(built).values() if value is not None)


def tuple_of(graph):
    return tuple(vars(graph).values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: {"n_atoms": g["n_atoms"][:2]}, "n_atoms adds up to 7, but there are 8 species"),
        (lambda g: {"neighbour": g["neighbour"][1:]}, r"\d+ centres, \d+ neighbours and \d+ vectors do not match"),
        (lambda g: {"vectors": g["vectors"][:-1]}, "vectors do not match"),
        (lambda g: {"vectors": g["vectors"][:, :2]}, r"edge vectors have shape \(edges, 3\); received \(\d+, 2\)"),
        (lambda g: {"cells": g["cells"][0]}, r"cells have shape \(3, 3, 3\), one a structure; received \(3, 3\)"),
        (lambda g: {"neighbour": g["neighbour"] + 8}, r"an edge ends at atom \d+; atoms are numbered from 0 to 7"),
        (lambda g: {"centre": g["centre"] - 1}, "an edge ends at atom -1; atoms are numbered from 0 to 7"),
        (lambda g: {"neighbour": g["neighbour"].roll(1)}, "an edge joins two structures"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(built, change, message):
    given = tensors(built)
    with pytest.raises(ValueError, match=message):
        GraphBatch.from_tensors(**given | change(given))


def test_edges_without_the_one_turned_round_are_noticed(built):
    given = tensors(built)
    GraphBatch.from_tensors(**given).check_paired()
    built.check_paired()
    lacking = {key: value[1:] if key in ("centre", "neighbour", "vectors") else value for key, value in given.items()}
    with pytest.raises(ValueError, match="edges in pairs, one in each direction"):
        GraphBatch.from_tensors(**lacking).check_paired()
