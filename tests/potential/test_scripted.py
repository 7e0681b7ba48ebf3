"""A potential as TorchScript modules, without a program that loads them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mekrr.graph import build_batch
from mekrr.potential import Wanted, evaluate_graph
from mekrr.potential.scripted import ScriptedPotential

MEMBERS = 500  # their standard deviation is known to 3%
NAMES = ["energy", "energy_uncertainty", "energy_ensemble"]


@pytest.mark.parametrize("name", ["forces_potential", "tangent_potential", "exact_potential"])
def test_energies_deviations_and_spread_are_the_potential_s(request, alloys, name):
    """In Python, but for the network: quantities of several structures in one batch, and of their atoms."""
    potential = request.getfixturevalue(name)
    fitted, backbone = potential.fitted_, potential.backbone
    if fitted.model.force_amplitude is not None:  # the larger one is the posterior's
        wider = replace(fitted.model, force_amplitude=4 * fitted.model.energy_amplitude)
        fitted = replace(fitted, model=wider)
    graph = build_batch(alloys[14:22], backbone.cutoff)
    wanted = Wanted(energy_std=True, atomic_std=True)
    expected = evaluate_graph(fitted, backbone, graph, wanted)
    vectors = graph.edge_vectors().requires_grad_(True)
    ones = torch.ones(len(graph.species), dtype=torch.float64)
    module = ScriptedPotential(fitted, backbone, MEMBERS)
    given = graph.species, graph.structure, graph.n_atoms, graph.centre, graph.neighbour, vectors, ones, True
    found = module(*given, NAMES, NAMES)
    np.testing.assert_allclose(found["energy"][:, 0].detach(), expected.energies, atol=1e-5)
    np.testing.assert_allclose(found["energy/atom"][:, 0].detach(), expected.atomic_energies, atol=1e-5)
    np.testing.assert_allclose(found["energy_uncertainty"][:, 0].detach(), expected.energy_std, rtol=1e-4)
    np.testing.assert_allclose(found["energy_uncertainty/atom"][:, 0].detach(), expected.atomic_std, rtol=1e-4)
    np.testing.assert_allclose(found["energy_ensemble"].mean(1).detach(), expected.energies, atol=1e-5)
    spread, each = found["energy_ensemble"].std(1).detach(), found["energy_ensemble/atom"].std(1).detach()
    assert float((spread / expected.energy_std).log().abs().mean()) < 0.1
    assert float((each / expected.atomic_std).log().abs().mean()) < 0.2
    (gradient,) = torch.autograd.grad(found["energy"].sum(), vectors)
    np.testing.assert_allclose(gradient, expected.edge_gradient, atol=1e-5)


def test_refused_are_the_mean_embedding_and_networks_that_cannot_be_scripted(potential, alloys, small_schnet):
    from mekrr import KernelPotential

    chosen = {"layers": ("interaction_1",), "length_scale": 12.0, "prior": "composition"}
    mean = KernelPotential(solver="exact", embedding="mean", **chosen).fit(alloys[:6])
    with pytest.raises(ValueError, match=r"mean embedding.*--embedding sum"):
        ScriptedPotential(mean.fitted_, mean.backbone)
    with pytest.raises(ValueError, match=r"cannot be written as TorchScript; SevenNet can"):
        ScriptedPotential(potential.fitted_, small_schnet)
