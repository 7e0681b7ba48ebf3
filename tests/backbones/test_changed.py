"""Networks whose weights have been changed for good."""

import pickle

import numpy as np
import pytest
import torch

from mekrr.backbones import WeightChange, changed, load_backbone, tapped
from mekrr.graph import build_batch
from support import alloy


@pytest.fixture(scope="module", params=["sevennet-0", "sevennet-mf-0", "chgnet-0.3.0"])
def backbone(request):
    pytest.importorskip("chgnet" if "chgnet" in request.param else "sevenn")
    return load_backbone(request.param, device="cpu", dtype=torch.float64)


def a_change(backbone, elements=1):
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return 0.1 * torch.randn(*shape, dtype=torch.float64, generator=generator)

    maps = backbone.linear_maps
    core = {m.name: normal(1, 2, min(2, m.n_out)).expand(elements, -1, -1) for m in maps}
    return WeightChange(
        {m.name: normal(m.n_in, 2) for m in maps}, {m.name: normal(m.n_out, min(2, m.n_out)) for m in maps}, core, ()
    )


def test_it_is_the_network_with_what_the_change_adds_at_every_map(backbone):
    graph = build_batch([alloy(0), alloy(3)], backbone.cutoff, backbone.max_neighbours)
    change = a_change(backbone)
    before = backbone.forward(graph, graph.edge_vectors(), backbone.layers)
    found = changed(backbone, change)
    row = torch.zeros_like(graph.species)
    with tapped(lambda name, a, y: y + change.change(name, a, row)):
        expected = backbone.forward(graph, graph.edge_vectors(), backbone.layers)
    output = found.forward(graph, graph.edge_vectors(), found.layers)
    torch.testing.assert_close(output.atomic_energies, expected.atomic_energies, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(output.features, expected.features, rtol=1e-9, atol=1e-9)
    assert float((output.atomic_energies - before.atomic_energies).abs().max()) > 1e-3
    again = backbone.forward(graph, graph.edge_vectors(), backbone.layers)
    torch.testing.assert_close(again.atomic_energies, before.atomic_energies, rtol=0, atol=0)
    for name, layer in backbone.linear_layers.items():  # weights of its own, though traced code is in common
        assert not {w.data_ptr() for w in layer.parameters()} & {
            w.data_ptr() for w in found.linear_layers[name].parameters()
        }
    assert found.identity != backbone.identity
    assert found.identity == changed(backbone, change).identity
    travelled = pickle.loads(pickle.dumps(found))
    assert travelled.identity == found.identity
    torch.testing.assert_close(
        travelled.forward(graph, graph.edge_vectors(), found.layers).features, output.features, rtol=0, atol=0
    )


def test_what_no_network_can_hold_is_refused(backbone):
    change = a_change(backbone, elements=2)
    name = backbone.linear_maps[0].name
    differing = WeightChange(change.left, change.right, change.core | {name: torch.arange(8.0).reshape(2, 2, 2)}, (29,))
    with pytest.raises(ValueError, match="differs between elements"):
        changed(backbone, differing)
    other = WeightChange(change.left, change.right, {"elsewhere": change.core[name]}, ())
    with pytest.raises(ValueError, match="no linear maps elsewhere"):
        changed(backbone, other)


def test_sevenn_reads_what_is_written(tmp_path):
    pytest.importorskip("sevenn")
    from sevenn.calculator import SevenNetCalculator

    from mekrr.backbones.derivatives import energy_forces_stress

    backbone = load_backbone("sevennet-0", device="cpu")
    found = changed(backbone, a_change(backbone))
    shifts = {29: -1.5, 79: 0.25}
    found.write_checkpoint(tmp_path / "changed.pth", shifts)
    for atoms in (alloy(0), alloy(5)):
        expected = energy_forces_stress(found, build_batch([atoms], found.cutoff))
        atoms = atoms.copy()
        atoms.calc = SevenNetCalculator(str(tmp_path / "changed.pth"), device="cpu")
        total = float(expected.energies[0]) + sum(shifts.get(int(z), 0.0) for z in atoms.numbers)
        assert atoms.get_potential_energy() == pytest.approx(total, abs=1e-5 * len(atoms))
        np.testing.assert_allclose(atoms.get_forces(), expected.forces.numpy(), atol=2e-5)
    with pytest.raises(ValueError, match="a checkpoint of its own package; SevenNet can"):
        super(type(found), found).write_checkpoint(tmp_path / "x.pth", shifts)
