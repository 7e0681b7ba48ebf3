import dataclasses
import warnings

import numpy as np
import pytest
from ase.units import GPa

from mekrr import Calculator, KernelPotential
from mekrr.backbones import load_backbone
from mekrr.backbones.derivatives import energy_forces_stress
from mekrr.data import Structure
from mekrr.engines import Evaluator
from mekrr.errors import MekrrWarning
from mekrr.features import probe
from mekrr.graph import build_batch
from mekrr.potential.advice import label_remarks, unread_electrons
from mekrr.potential.data_record import DataRecord

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
    own = np.array([s.energy for s in structures])
    return label_remarks(changed, own, probe(changed, backbone, ["interaction_0"], 1))


def test_sound_labels_bring_no_remark(labelled):
    assert remarks(labelled) == []


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ({"forces": -1.0}, "forces labels have the opposite sign"),
        ({"stress": -1.0}, "stress labels have the opposite sign"),
        ({"stress": 1 / GPa}, "stress labels are 160 times"),
        ({"forces": 27.2 / 0.529}, "forces labels are 56.6 times"),
        ({"forces": 0.529}, "0.529 is what forces per Bohr are when read as the other"),
        ({"forces": 1 / 0.529}, "1.89 is what forces per Angstrom are when read as the other"),
    ],
)
def test_signs_and_units_that_contradict_the_backbone_are_named(labelled, factors, words):
    (found,) = remarks(labelled, **factors)
    assert words in found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("factor", "said"), [(1.0, 0), (2.0, 1)])
def test_a_fit_compares_energies_and_forces_with_the_backbone(alloys, factor, said):
    backbone, structures = load_backbone("sevennet-0", device="cpu"), []
    for atoms in alloys[:14]:
        own = energy_forces_stress(backbone, build_batch([atoms], backbone.cutoff, backbone.max_neighbours))
        structures.append(Structure(atoms.copy(), factor * float(own.energies[0]), own.forces.numpy()))
    fixed = {"layers": "interaction_1", "length_scale": 12.0, "species_weight": 0.5, "prior": "backbone"}
    fixed |= {"force_weight": 1e-2, "tangent_share": 0.0, "probes": 2, "inducing": 20, "exact_forces": False}
    found = KernelPotential("sevennet-0", **fixed).fit(structures).fitted_.record.warnings
    assert sum("not in units that belong together" in words for words in found) == said


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
    assert any(words.startswith("charge 'none': no number, and taken") for words in found) == ("none" in charges)
    assert not any("values of spin" in words for words in found)


@pytest.mark.parametrize(
    ("fitted_to", "reads", "said"), [((0.0,), (), True), ((0.0,), ("charge",), False), ((), (), False)]
)
def test_another_charge_than_the_fitted_ones_is_remarked_upon(potential, alloys, monkeypatch, fitted_to, reads, said):
    """Where the network reads it, it is no extrapolation without a word; an older record knows no charges."""
    ions = [atoms.copy() for atoms in alloys[30:32]]
    ions[1].info["charge"] = -1
    data = dataclasses.replace(potential.fitted_.record.data, charges=fitted_to)
    monkeypatch.setattr(potential.backbone, "reads", reads)
    found = unread_electrons(data, potential.backbone, ions)
    assert [words.startswith("charge -1: training structures have 0 (one that says") for words in found] == [
        True
    ] * said


def test_what_is_no_number_is_not_passed_over(potential, alloys, monkeypatch):
    """A network that reads it refuses it itself."""
    frames = [atoms.copy() for atoms in alloys[30:35]]
    for atoms, value in zip(frames, ["plus", True, None, [1], 0], strict=True):
        atoms.info["charge"] = value
    (words,) = unread_electrons(potential.fitted_.record.data, potential.backbone, frames)
    assert words.startswith(
        "charge 'plus', None, True and others: no number, and taken for nothing; give info['charge']"
    )
    monkeypatch.setattr(potential.backbone, "reads", ("charge",))
    assert unread_electrons(potential.fitted_.record.data, potential.backbone, frames) == []


@pytest.mark.parametrize("who", ["predict", "Calculator", "Evaluator"])
def test_predictions_and_engines_say_so(potential, alloys, who):
    assert potential.fitted_.record.data.charges == (0.0,)
    atoms = alloys[30].copy()
    if who == "predict":
        ask = potential.predict
    elif who == "Evaluator":
        ask = Evaluator(potential)
    else:
        calculator = Calculator(potential)

        def ask(frames):
            return [calculator.get_property("energy", atoms) for atoms in frames]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask([atoms])
    atoms.info["charge"] = 2
    with pytest.warns(MekrrWarning, match="charge 2: training structures have 0"):
        ask([atoms])


def test_charges_and_spins_of_updates_are_joined(alloys):
    def record(charge):
        atoms = alloys[0].copy()
        atoms.info["charge"] = charge
        return DataRecord.of([Structure(atoms, 0.0)])

    assert (record(1) + record(0)).charges == (0.0, 1.0)
    assert record("none").charges == ()
    assert record(0).spins == (1.0,)
