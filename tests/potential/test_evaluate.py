"""A potential on graphs that an engine has made equals the one on structures."""

import numpy as np
import pytest
import torch

from mekrr.graph import GraphBatch, build_batch
from mekrr.potential import Wanted, evaluate_graph

EVERYTHING = Wanted(energy_std=True, backbone_forces=True, atomic_std=True, forces_std=True)


@pytest.fixture(scope="module")
def built(alloys, sevennet):
    return build_batch(alloys[25:28], sevennet.cutoff, sevennet.max_neighbours)


@pytest.fixture(scope="module")
def order(built):
    return torch.randperm(len(built.centre), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def evaluated(forces_potential, sevennet, built, order):
    """From the structures' graph, and from its edges in another order."""
    given = GraphBatch.from_tensors(
        built.species,
        built.centre[order],
        built.neighbour[order],
        built.edge_vectors()[order],
        built.n_atoms,
        built.cells,
    )
    return [evaluate_graph(forces_potential.fitted_, sevennet, graph, EVERYTHING) for graph in (built, given)]


def test_given_edges_are_the_same_structures(evaluated):
    ours, given = evaluated
    torch.testing.assert_close(given.energies, ours.energies, rtol=0, atol=1e-4)
    for name in ("atomic_energies", "forces", "stress", "energy_std", "atomic_std", "forces_std", "backbone_forces"):
        a, b = getattr(given, name), getattr(ours, name)
        torch.testing.assert_close(a, b, rtol=1e-3, atol=3e-4 * float(b.abs().max()), msg=name)


def test_edge_gradients_are_in_the_given_order(evaluated, order):
    ours, given = evaluated
    expected = ours.edge_gradient[order]
    torch.testing.assert_close(given.edge_gradient, expected, rtol=0, atol=1e-3 * float(expected.abs().max()))
    assert not torch.allclose(given.edge_gradient, ours.edge_gradient, atol=0.1 * float(expected.abs().max()))


def test_forces_follow_from_the_edge_gradients(evaluated, built, order):
    """As an engine would add them up."""
    _, given = evaluated
    forces = torch.zeros(len(built.species), 3, dtype=torch.float64)
    forces.index_add_(0, built.centre[order], given.edge_gradient.double())
    forces.index_add_(0, built.neighbour[order], -given.edge_gradient.double())
    torch.testing.assert_close(forces, given.forces, rtol=0, atol=1e-6)


def test_predictions_are_those_of_the_graph(forces_potential, alloys, evaluated):
    wanted = {"uncertainty": True, "atomic_uncertainty": True, "force_uncertainty": True, "backbone_forces": True}
    predicted, (ours, _) = forces_potential.predict(alloys[25:28], **wanted), evaluated
    assert [p.energy for p in predicted] == pytest.approx(ours.energies.tolist(), abs=1e-9)
    assert [p.energy_std for p in predicted] == pytest.approx(ours.energy_std.tolist(), rel=1e-9)
    for name, expected in (
        ("forces", ours.forces),
        ("forces_std", ours.forces_std),
        ("atomic_energies_std", ours.atomic_std),
        ("backbone_forces", ours.backbone_forces),
    ):
        np.testing.assert_allclose(np.concatenate([getattr(p, name) for p in predicted]), expected, atol=1e-9)


def test_what_is_not_wanted_is_not_there(forces_potential, sevennet, built):
    found = evaluate_graph(forces_potential.fitted_, sevennet, built, Wanted(forces=False))
    missing = ("edge_gradient", "forces", "stress", "energy_std", "atomic_std", "forces_std", "backbone_forces")
    assert [name for name in missing if getattr(found, name) is not None] == []
