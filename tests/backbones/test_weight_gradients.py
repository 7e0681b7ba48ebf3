"""Gradients in the weights against differences of networks whose weights were changed, and of structures moved."""

import threading

import ase.build
import numpy as np
import pytest
import torch

from mekrr.backbones import WeightChange, load_backbone, tapped, weight_gradients, weight_gradients_along
from mekrr.graph import build_batch
from support import alloy

STEP = 1e-5


@pytest.fixture(scope="module", params=["sevennet-0", "chgnet-0.3.0"])
def backbone(request):
    pytest.importorskip("sevenn" if "seven" in request.param else "chgnet")
    return load_backbone(request.param, device="cpu", dtype=torch.float64)


@pytest.fixture(scope="module")
def graph(backbone):
    molecule = ase.build.molecule("CH3OH")
    return build_batch([alloy(0), molecule], backbone.cutoff, backbone.max_neighbours)


@pytest.fixture(scope="module")
def change(backbone):
    """Random, of rank two, for copper and all other elements."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return 0.1 * torch.randn(*shape, dtype=torch.float64, generator=generator)

    maps = backbone.linear_maps
    left = {m.name: normal(m.n_in, 2) for m in maps}
    right = {m.name: normal(m.n_out, min(2, m.n_out)) for m in maps}
    core = {m.name: normal(2, 2, min(2, m.n_out)) for m in maps}
    return WeightChange(left, right, core, (29,))


def changed_energies(backbone, graph, change, step, vectors=None):
    """Atomic energies of the network with the changed weights, written out."""
    rows = (graph.species != 29).long()

    def tap(name, a, y):
        W = torch.stack([change.left[name] @ C @ change.right[name].T for C in change.core[name]])[rows]
        return y + step * torch.einsum("nuc,nuv->nvc", a, W)

    with tapped(tap):
        return backbone.forward(
            graph, graph.edge_vectors() if vectors is None else vectors, backbone.layers
        ).atomic_energies


def test_the_tangent_is_the_difference_of_changed_networks(backbone, graph, change):
    output, tangent = change.tangent(backbone, graph, graph.edge_vectors(), backbone.layers)
    ahead, behind = (changed_energies(backbone, graph, change, sign * STEP) for sign in (1, -1))
    expected = (ahead - behind) / (2 * STEP)
    if backbone.double_reverse:  # its parts are those of the atoms where the weights act
        tangent, expected = graph.sum_atoms(tangent), graph.sum_atoms(expected)
    torch.testing.assert_close(tangent, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
    plain = backbone.forward(graph, graph.edge_vectors(), backbone.layers)
    torch.testing.assert_close(output.features, plain.features)
    torch.testing.assert_close(output.atomic_energies, plain.atomic_energies)


def test_its_gradient_in_the_geometry_is_right(backbone, graph, change):
    """Along a move of all atoms; networks may share what belongs to both directions of an edge."""
    vectors = graph.edge_vectors().requires_grad_(True)
    (gradient,) = torch.autograd.grad(change.tangent(backbone, graph, vectors, backbone.layers)[1].sum(), vectors)
    move = move_of_atoms(graph)
    found = [
        float(change.tangent(backbone, graph, (vectors + sign * STEP * move).detach(), backbone.layers)[1].sum())
        for sign in (1, -1)
    ]
    assert float((gradient * move).sum()) == pytest.approx((found[0] - found[1]) / (2 * STEP), rel=1e-5)


def move_of_atoms(graph, seed=2):
    d = torch.randn(len(graph.species), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return d[graph.neighbour] - d[graph.centre]


def test_activations_times_signals_are_the_gradient_in_the_weights(backbone, graph, change):
    found = weight_gradients(backbone, graph, graph.edge_vectors(), backbone.layers)
    rows = (graph.species != 29).long()
    total = 0.0
    for m, a, g in zip(backbone.linear_maps, found.activations, found.signals, strict=True):
        W = torch.stack([change.left[m.name] @ C @ change.right[m.name].T for C in change.core[m.name]])[rows]
        total += float(torch.einsum("nuc,nuv,nvc->", a, W, g))
    tangent = change.tangent(backbone, graph, graph.edge_vectors(), backbone.layers)[1]
    assert total == pytest.approx(float(tangent.sum()), rel=1e-8)


def test_derivatives_along_directions_are_differences(backbone, graph):
    d = torch.randn(3, len(graph.species), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    parts = list(weight_gradients_along(backbone, graph, d, None, backbone.layers, 2))
    assert [len(tangents.features) for _, tangents in parts] == [2, 1]
    point, k = graph.edge_vectors(), 2
    move = d[k][graph.neighbour] - d[k][graph.centre]
    ahead, behind = (weight_gradients(backbone, graph, point + s * STEP * move, backbone.layers) for s in (1, -1))
    for name in ("features", "activations", "signals"):
        pairs = [getattr(one, name) for one in (ahead, behind, parts[1][1])]
        pairs = [(pairs[0],), (pairs[1],), (pairs[2],)] if name == "features" else pairs
        for high, low, derived in zip(*pairs, strict=True):
            expected = (high - low) / (2 * STEP)
            torch.testing.assert_close(derived[0], expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()) + 1e-12)


def test_both_ways_of_differentiating_agree(backbone, graph, change, monkeypatch):
    d = torch.randn(1, len(graph.species), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    _, exact = next(weight_gradients_along(backbone, graph, d, None, backbone.layers, 1))
    _, one_way = change.tangent(backbone, graph, graph.edge_vectors(), backbone.layers)
    monkeypatch.setattr(backbone, "forward_mode", False)
    _, differences = next(weight_gradients_along(backbone, graph, d, None, backbone.layers, 1))
    for a, b in zip(exact.signals, differences.signals, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(a.abs().max()))
    monkeypatch.setattr(backbone, "double_reverse", not backbone.double_reverse)
    _, other_way = change.tangent(backbone, graph, graph.edge_vectors(), backbone.layers)
    assert float(other_way.sum()) == pytest.approx(float(one_way.sum()), rel=1e-8)


def test_a_tap_is_seen_by_its_own_thread_only(backbone, graph):
    met, elsewhere = [], []

    def tap(name, a, y):
        met.append(name)
        return y

    def other():
        elsewhere.append(backbone.forward(graph, graph.edge_vectors(), backbone.layers).atomic_energies)

    with tapped(tap):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert met == []
        backbone.forward(graph, graph.edge_vectors(), backbone.layers)
    assert sorted(met) == sorted(m.name for m in backbone.linear_maps)
    assert np.isfinite(elsewhere[0].detach().numpy()).all()
