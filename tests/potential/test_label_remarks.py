import pytest
from ase.units import GPa

from mekrr import KernelPotential
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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("charges", "said"), [((0, -1), True), ((-1, -1), False), ((0, "none"), False)])
def test_charges_that_the_network_does_not_read_are_remarked_upon(alloys, charges, said):
    """A fit says that it cannot tell them apart; one value, or what is no number, is nothing to tell apart."""
    frames = [atoms.copy() for atoms in alloys[:6]]
    for t, (atoms, labels) in enumerate(zip(frames, alloys, strict=False)):
        atoms.calc = labels.calc
        atoms.info["charge"] = charges[t % 2]
    fixed = {"layers": "interaction_1", "length_scale": 12.0, "species_weight": 0.5, "prior": "backbone"}
    found = KernelPotential("sevennet-0", **fixed, forces=False).fit(frames).fitted_.record.warnings
    assert any("2 different values of charge (-1 to 0)" in words for words in found) == said
    assert not any("values of spin" in words for words in found)
