import pytest
from ase.units import GPa

from mekrr.backbones import load_backbone
from mekrr.backbones.derivatives import energy_forces_stress
from mekrr.data import Structure
from mekrr.features import probe
from mekrr.graph import build_batch
from mekrr.potential.advice import label_remarks

pytest.importorskip("sevenn")


@pytest.fixture(scope="module")
def labelled(alloys):
    """Forces and stress of the backbone itself, a little off."""
    backbone = load_backbone("sevennet-0", device="cpu")
    found = []
    for atoms in alloys[:3]:
        own = energy_forces_stress(backbone, build_batch([atoms], backbone.cutoff, backbone.max_neighbours))
        found.append(Structure(atoms.copy(), float(own.energies[0]), 1.1 * own.forces.numpy(), own.stress[0].numpy()))
    return backbone, found


def remarks(labelled, forces=1.0, stress=1.0):
    backbone, structures = labelled
    changed = [Structure(s.atoms, s.energy, forces * s.forces, stress * s.stress) for s in structures]
    return label_remarks(probe(changed, backbone, ["interaction_0"], 1))


def test_sound_labels_bring_no_remark(labelled):
    assert remarks(labelled) == []


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ({"forces": -1.0}, "forces labels have the opposite sign"),
        ({"stress": -1.0}, "stress labels have the opposite sign"),
        ({"stress": 1 / GPa}, "stress labels are 160 times"),
        ({"forces": 27.2 / 0.529}, "forces labels are 56.6 times"),
    ],
)
def test_signs_and_units_that_contradict_the_backbone_are_named(labelled, factors, words):
    (found,) = remarks(labelled, **factors)
    assert words in found
