"""One pass over the network: its derivatives against finite differences and against each other."""

import pytest
import torch
from ase.build import bulk, molecule

from mekrr.features import look, observe
from mekrr.graph import build_batch

LAYERS = {"schnet": ("interaction_2", "interaction_0"), "sevennet": ("interaction_1", "interaction_0")}
# SchNet in float64; SevenNet in float32 with the step that loses least to rounding
STEP = {"schnet": 1e-5, "sevennet": 3e-3}
CLOSE = {"schnet": 1e-6, "sevennet": 2e-2}
ADJOINT = {"schnet": 1e-9, "sevennet": 1e-4}


@pytest.fixture(params=["schnet", "sevennet"])
def case(request):
    name = request.param
    backbone = request.getfixturevalue({"schnet": "small_schnet"}.get(name, name))
    copper = bulk("Cu", cubic=True)
    copper.rattle(0.1, seed=1)
    return name, backbone, build_batch([copper, molecule("H2O")], backbone.cutoff, backbone.max_neighbours)


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def strains(*shape, seed=0):
    found = random(*shape, 3, 3, seed=seed)
    return (found + found.mT) / 2


def test_a_pass_is_what_forward_gives(case):
    name, backbone, graph = case
    seen = look(graph, backbone, LAYERS[name])
    expected = backbone.forward(graph, graph.edge_vectors(), LAYERS[name])
    assert torch.equal(seen.environments.features, expected.features)
    assert torch.equal(seen.environments.species, graph.species)
    assert torch.equal(seen.atomic_energies, expected.atomic_energies.double())
    assert not seen.output.features.requires_grad
    assert look(graph, backbone, LAYERS[name], energies=False).atomic_energies is None


@pytest.mark.parametrize("factor", [0.0, 0.7])
@pytest.mark.parametrize("features", [True, False])
def test_the_edge_gradient_is_that_of_finite_differences(case, factor, features):
    name, backbone, graph = case
    seen = look(graph, backbone, LAYERS[name], gradients=True)
    slopes = random(*seen.environments.features.shape)
    gradient = seen.edge_gradient(slopes if features else None, factor).double()
    move = random(*graph.edge_vectors().shape, seed=1)

    def value(size):
        found = backbone.forward(graph, graph.edge_vectors() + size * move, LAYERS[name])
        total = factor * found.atomic_energies.double().sum()
        return float(total + (found.features.double() * slopes).sum() if features else total)

    step = STEP[name]
    expected = (value(step) - value(-step)) / (2 * step)
    scale = float(gradient.norm() * move.norm()) / len(move) ** 0.5
    assert float((gradient * move).sum()) == pytest.approx(expected, rel=CLOSE[name], abs=CLOSE[name] * scale)


def test_derivatives_along_moves_and_strains_are_finite_differences(case):
    name, backbone, graph = case
    seen = look(graph, backbone, LAYERS[name])
    moves, cells = random(2, 7, 3), strains(2, 2)
    found = seen.along(moves, cells).double()
    step = STEP[name]
    for k in range(2):
        ends = [
            backbone.forward(
                graph,
                graph.edge_vectors(graph.positions + sign * step * moves[k])
                + sign
                * step
                * torch.einsum("ej,ejk->ek", graph.edge_vectors(), cells[k][graph.structure[graph.centre]]),
                LAYERS[name],
            ).features.double()
            for sign in (1, -1)
        ]
        expected = (ends[0] - ends[1]) / (2 * step)
        assert float((found[k] - expected).norm() / expected.norm()) < CLOSE[name]


def test_forward_and_reverse_products_agree(case):
    """U' (J v) and (u' J) v, for moves of the atoms and strains of both cells."""
    name, backbone, graph = case
    seen = look(graph, backbone, LAYERS[name], gradients=True)
    slopes = random(*seen.environments.features.shape)
    moves, cells = random(3, 7, 3), strains(3, 2)
    pulled = seen.pull_back(seen.edge_gradient(slopes))
    forward = (seen.along(moves, cells, chunk=2).double() * slopes).sum((1, 2))
    reverse = -(moves * pulled.forces).sum((1, 2)) + (cells * pulled.strain_gradient).sum((1, 2, 3))
    torch.testing.assert_close(forward, reverse, rtol=0, atol=ADJOINT[name] * float(forward.abs().max()))


def test_gradients_of_one_pass_add_up(case):
    name, backbone, graph = case
    seen = look(graph, backbone, LAYERS[name], gradients=True)
    slopes = random(*seen.environments.features.shape)
    assert not seen.edge_gradient().any()
    parts = seen.edge_gradient(slopes, keep=True) + seen.edge_gradient(factor=0.7, keep=True)
    whole = seen.edge_gradient(slopes, 0.7)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5 * float(whole.abs().max()))


def test_batches_are_the_structures_in_their_order(small_schnet, molecules):
    structures = molecules[:7]
    passes = list(observe(structures, small_schnet, LAYERS["schnet"], batch_atoms=9))
    assert [t for chosen, _ in passes for t in chosen] == list(range(7))
    assert all(len(chosen) == 1 or int(seen.graph.n_atoms.sum()) <= 9 for chosen, seen in passes)
    (_, together), *others = observe(structures, small_schnet, LAYERS["schnet"])
    assert not others
    features = torch.cat([seen.environments.features for _, seen in passes])
    torch.testing.assert_close(features, together.environments.features)
