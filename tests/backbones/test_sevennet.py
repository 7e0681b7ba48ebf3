"""SevenNet through mekrr equals SevenNet through its own calculator."""

from pathlib import Path

import e3nn
import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule

from mekrr.backbones import load_backbone, sevennet
from mekrr.backbones.derivatives import energy_forces_stress
from mekrr.errors import BackboneUnavailableError
from mekrr.graph import build_batch

pytest.importorskip("sevenn", reason="mekrr[sevennet] is not installed")
CPU = torch.device("cpu")


def rattled(atoms, seed=0):
    atoms.rattle(0.08, seed=seed)
    return atoms


STRUCTURES = [rattled(bulk("NaCl", "rocksalt", a=5.6)), rattled(fcc111("Cu", (2, 2, 2), vacuum=6.0)), molecule("CH4")]
STRUCTURES[1].pbc = (True, True, True)
STRUCTURES[2].center(vacuum=6.0)
STRUCTURES[2].pbc = True


@pytest.mark.filterwarnings("ignore:No tensor product accelerator", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "theirs", "modality"),
    [
        ("sevennet-0", "7net-0", None),
        pytest.param("sevennet-l3i5", "7net-l3i5", None, marks=pytest.mark.slow),
        pytest.param("sevennet-mf-0", "7net-mf-0", "PBE", marks=pytest.mark.slow),
    ],
)
def test_energy_forces_stress_equal_their_calculator(name, theirs, modality):
    from sevenn.calculator import SevenNetCalculator

    backbone = load_backbone(name)
    ours = energy_forces_stress(backbone, build_batch(STRUCTURES, backbone.cutoff))
    calculator = SevenNetCalculator(theirs, device="cpu", modal=modality)
    first = 0
    for index, atoms in enumerate(STRUCTURES):
        atoms = atoms.copy()
        atoms.calc = calculator
        own = slice(first, first + len(atoms))
        np.testing.assert_allclose(ours.energies[index], atoms.get_potential_energy(), atol=1e-5)
        np.testing.assert_allclose(ours.atomic_energies[own], calculator.results["energies"], atol=1e-5)
        np.testing.assert_allclose(ours.forces[own], atoms.get_forces(), atol=1e-5)
        np.testing.assert_allclose(ours.stress[index], atoms.get_stress(voigt=False), atol=1e-5)
        first += len(atoms)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_features_are_the_even_scalars_after_their_gates():
    from sevenn.util import load_checkpoint

    model = load_checkpoint("7net-0").build_model().eval()
    seen = []
    for name, module in model.named_children():
        if name.endswith("equivariant_gate"):
            module.register_forward_hook(lambda module, inputs, data: seen.append(data["x"][:, :128].detach().clone()))
    backbone = load_backbone("sevennet-0")
    graph = build_batch(STRUCTURES, backbone.cutoff)
    vectors = graph.edge_vectors()
    edges = torch.stack([graph.centre, graph.neighbour])
    data = {"atomic_numbers": graph.species, "edge_vec": vectors.float().requires_grad_(True), "edge_index": edges}
    model(data | {"batch": graph.structure, "num_atoms": graph.n_atoms, "cell_volume": graph.volumes.float()})
    torch.testing.assert_close(
        backbone.forward(graph, vectors, backbone.layers).features, torch.cat(seen, dim=1), atol=1e-5, rtol=1e-5
    )
    assert backbone.layer_widths == dict.fromkeys(backbone.layers, 128)


def test_layers_come_in_the_order_asked_for():
    backbone = load_backbone("sevennet-0")
    graph = build_batch(STRUCTURES[:1], backbone.cutoff)
    both = backbone.forward(graph, graph.edge_vectors(), ["interaction_3", "interaction_1"]).features
    one = backbone.forward(graph, graph.edge_vectors(), ["interaction_1"]).features
    assert torch.equal(both[:, 128:], one)


def test_loading_leaves_e3nn_settings_alone():
    before = e3nn.get_optimization_defaults()
    sevennet.SEVENNET_0.load(None, CPU, torch.float32, False)
    assert e3nn.get_optimization_defaults() == before


def test_unknown_layer_and_species_are_named():
    backbone = load_backbone("sevennet-0")
    graph = build_batch(STRUCTURES[:1], backbone.cutoff)
    with pytest.raises(ValueError, match=r"interaction_0.*received.*interaction_9"):
        backbone.forward(graph, graph.edge_vectors(), ["interaction_9"])
    graph.species[0] = 118
    with pytest.raises(ValueError, match="not trained on Og"):
        backbone.forward(graph, graph.edge_vectors(), ["interaction_0"])


def test_altered_weights_are_refused():
    entry = sevennet.SevenNetEntry(sevennet.SEVENNET_0.card, sevennet.SEVENNET_0.relative, "0" * 64)
    with pytest.raises(BackboneUnavailableError, match="not the ones mekrr knows"):
        entry.load(None, CPU, torch.float32, False)


def own_checkpoint():
    import sevenn

    return f"{sevenn.__path__[0]}/{sevennet.SEVENNET_0.relative}"


def test_own_checkpoint_needs_trust():
    path = Path(own_checkpoint())
    with pytest.raises(BackboneUnavailableError, match="trust"):
        sevennet.SEVENNET.load(path, CPU, torch.float32, False)
    backbone = sevennet.SEVENNET.load(path, CPU, torch.float32, True)
    assert backbone.weights_hash == sevennet.SEVENNET_0.sha256
    assert backbone.spec == f"sevennet:{path}"


def test_own_checkpoint_that_is_none(tmp_path):
    path = tmp_path / "broken.pth"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(BackboneUnavailableError, match="not a checkpoint that sevenn can load"):
        sevennet.SEVENNET.load(path, CPU, torch.float32, True)
