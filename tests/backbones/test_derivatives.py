"""Forces, stress and directional derivatives against automatic and finite differences through positions."""

import dataclasses

import pytest
import torch
from ase.build import bulk, molecule

from mekrr.backbones.derivatives import (
    directional_derivatives,
    edge_directions,
    energy_forces_stress,
    linearise,
    pull_back,
)
from mekrr.graph import build_batch


@pytest.fixture
def graph(small_schnet):
    copper = bulk("Cu", cubic=True)
    copper.rattle(0.1, seed=1)
    return build_batch([copper, molecule("H2O")], small_schnet.cutoff, small_schnet.max_neighbours)


def symmetric(*shape):
    strains = torch.randn(*shape, 3, 3, dtype=torch.float64)
    return (strains + strains.mT) / 2


def test_pull_back_equals_autograd_through_positions_and_strain(graph):
    torch.manual_seed(0)
    positions = graph.positions.clone().requires_grad_(True)
    strain = torch.zeros_like(graph.cells).requires_grad_(True)
    vectors = graph.edge_vectors(positions, (strain + strain.mT) / 2)
    weights = torch.randn_like(vectors)
    ((vectors**3) * weights).sum().backward()
    pulled = pull_back(graph, 3 * graph.edge_vectors() ** 2 * weights)
    torch.testing.assert_close(pulled.forces, -positions.grad)
    torch.testing.assert_close(pulled.strain_gradient, strain.grad)


def test_edge_directions_equal_autograd(graph):
    torch.manual_seed(0)
    directions, strains = torch.randn(2, 7, 3, dtype=torch.float64), symmetric(2, 2)
    for direction, strain, moves in zip(directions, strains, edge_directions(graph, directions, strains), strict=True):
        _, expected = torch.func.jvp(
            graph.edge_vectors, (graph.positions, torch.zeros_like(graph.cells)), (direction, strain)
        )
        torch.testing.assert_close(moves, expected)


def test_stress_is_the_derivative_of_the_energy(small_schnet, graph):
    predicted = energy_forces_stress(small_schnet, graph)
    torch.manual_seed(1)
    strain = symmetric(2)
    step = 1e-5

    def energies(scale):
        vectors = graph.edge_vectors(strain=scale * strain)
        return graph.sum_atoms(small_schnet.forward(graph, vectors, small_schnet.layers).atomic_energies)

    slope = (energies(step) - energies(-step)) / (2 * step)
    torch.testing.assert_close(
        graph.volumes[0] * (predicted.stress[0] * strain[0]).sum(), slope[0], rtol=1e-6, atol=1e-9
    )
    assert predicted.stress[1].isnan().all()
    boxed = molecule("H2O", cell=[9.0, 9.0, 9.0])
    assert energy_forces_stress(small_schnet, build_batch([boxed], small_schnet.cutoff)).stress.isnan().all()
    torch.testing.assert_close(predicted.energies, graph.sum_atoms(predicted.atomic_energies))


@pytest.mark.parametrize("forward_mode", [True, False])
@pytest.mark.parametrize("chunk", [None, 1, 2])
def test_directional_derivatives_equal_finite_differences(small_schnet, graph, forward_mode, chunk):
    small_schnet.forward_mode = forward_mode
    torch.manual_seed(2)
    directions, strains = torch.randn(3, 7, 3, dtype=torch.float64), symmetric(3, 2)
    layers = ["interaction_2", "interaction_0"]
    lined = linearise(small_schnet, graph, directions, strains, layers, chunk)
    whole = small_schnet.forward(graph, graph.edge_vectors(), layers)
    torch.testing.assert_close(lined.features, whole.features)
    torch.testing.assert_close(lined.atomic_energies, whole.atomic_energies)
    step = 1e-5
    for probe in range(3):
        ends = []
        for sign in (1, -1):
            moves = edge_directions(graph, directions, strains)[probe]
            ends.append(small_schnet.forward(graph, graph.edge_vectors() + sign * step * moves, layers))
        slope = (ends[0].features - ends[1].features) / (2 * step)
        torch.testing.assert_close(lined.feature_derivatives[probe], slope, rtol=1e-5, atol=1e-7)
        slope = (ends[0].atomic_energies - ends[1].atomic_energies) / (2 * step)
        torch.testing.assert_close(lined.energy_derivatives[probe], slope, rtol=1e-5, atol=1e-7)


def test_directional_derivatives_alone(small_schnet, graph):
    directions = torch.ones(1, 7, 3, dtype=torch.float64)
    moved = directional_derivatives(small_schnet, graph, directions)
    torch.testing.assert_close(moved, torch.zeros_like(moved))


def test_energy_derivative_is_minus_force_along_the_direction(small_schnet, graph):
    torch.manual_seed(3)
    directions = torch.randn(2, 7, 3, dtype=torch.float64)
    derivative = linearise(small_schnet, graph, directions).energy_derivatives.sum(dim=1)
    forces = energy_forces_stress(small_schnet, graph).forces
    torch.testing.assert_close(derivative, -(forces * directions).sum(dim=(1, 2)), rtol=1e-6, atol=1e-9)


def test_backbone_without_energy_is_refused(small_schnet, graph, monkeypatch):
    whole = small_schnet.forward

    def features_only(*arguments):
        return dataclasses.replace(whole(*arguments), atomic_energies=None)

    monkeypatch.setattr(small_schnet, "forward", features_only)
    with pytest.raises(ValueError, match="predicts no energy"):
        energy_forces_stress(small_schnet, graph)
    assert linearise(small_schnet, graph, torch.zeros(1, 7, 3, dtype=torch.float64)).energy_derivatives is None
