"""Keys x labels: what is read where several origins are at hand, and what is said of it."""

import numpy as np
import pytest
from ase.build import fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from hypothesis import given, settings
from hypothesis import strategies as st

from mekrr.data import OWN_RESULTS, LabelKeys, as_structures, from_ase, read_structures, validate
from mekrr.errors import DataError

N = 12
PREFIX = {"ref": "REF_", "dft": "dft_", "stored": ""}
VALUE = {"ref": 1.0, "dft": 2.0, "stored": 3.0}


def slab(**labels):
    """Copper with `origin=labels`; the energy of each origin is minus its value, its forces are multiples of it."""
    atoms = fcc111("Cu", (2, 2, 3), vacuum=6.0, periodic=True)
    atoms.info.clear()
    for origin, names in labels.items():
        values = {
            "energy": -VALUE[origin],
            "forces": VALUE[origin] * np.tile([[1.0, 0, 0], [-1.0, 0, 0]], (N // 2, 1)),
            "stress": VALUE[origin] * np.eye(3),
        }
        if origin == "stored":
            results = {n: values[n] if n != "stress" else VALUE[origin] * np.array([1.0, 1, 1, 0, 0, 0]) for n in names}
            atoms.calc = SinglePointCalculator(atoms, **results)
            continue
        for name in names:
            (atoms.arrays if name == "forces" else atoms.info)[PREFIX[origin] + name] = values[name]
    return atoms


def codes(structures):
    return {issue.code for issue in validate(structures)}


LABELS = st.sets(st.sampled_from(["energy", "forces", "stress"]))


@settings(max_examples=60, deadline=None)
@given(LABELS, LABELS, LABELS)
def test_all_labels_are_of_one_origin_and_the_rest_is_named(ref, dft, stored):
    there = {"ref": ref, "dft": dft, "stored": stored}
    structure = from_ase(slab(**{origin: sorted(names) for origin, names in there.items() if names}))
    first = next((o for label in ("energy", "forces", "stress") for o in there if label in there[o]), None)
    for label in ("energy", "forces", "stress"):
        value = getattr(structure, label)
        if first is None or label not in there[first]:
            assert value is None
        else:
            assert abs(np.ravel(value)[0]) == VALUE[first]
    if structure.energy is not None:
        for label in ("forces", "stress"):
            others = [o for o in there if o != first and label in there[o]]
            missing = label not in there[first]
            assert (f"{label}-origin" in codes([structure])) == (bool(others) and missing)
            assert (f"{label}-choice" in codes([structure])) == (bool(others) and not missing)


def test_reference_names_win_over_stored_results(tmp_path):
    write(tmp_path / "a.extxyz", slab(ref=["energy", "forces"], stored=["energy", "forces"]))
    (structure,) = read_structures(tmp_path / "a.extxyz")
    assert (structure.energy, structure.forces[0, 0]) == (-1.0, 1.0)
    (issue,) = [i for i in validate([structure]) if i.code == "forces-choice"]
    assert "forces are read from arrays:REF_forces, not from calc:forces" in issue.message
    named = read_structures(tmp_path / "a.extxyz", LabelKeys(energy="energy"))[0]
    assert (named.energy, named.forces[0, 0]) == (-3.0, 3.0)
    mixed = read_structures(tmp_path / "a.extxyz", LabelKeys(forces="forces"))[0]
    assert (mixed.energy, mixed.forces[0, 0]) == (-3.0, 3.0)


def test_own_results_are_no_labels_unless_named(tmp_path):
    atoms = slab(stored=["energy", "forces"])
    atoms.info |= {OWN_RESULTS: "md", "total_energy": -2.5}
    write(tmp_path / "a.extxyz", atoms)
    with pytest.raises(DataError, match="results in this file are those of mekrr md, and no label"):
        read_structures(tmp_path / "a.extxyz")
    named = read_structures(tmp_path / "a.extxyz", LabelKeys(energy="energy", forces="forces"))
    assert (named[0].energy, named[0].forces[0, 0]) == (-3.0, 3.0)
    assert "own-results" in codes(named)
    atoms = slab(dft=["energy", "forces"], stored=["energy", "forces"])
    atoms.info[OWN_RESULTS] = "predict"
    write(tmp_path / "b.extxyz", atoms)
    (structure,) = read_structures(tmp_path / "b.extxyz")
    assert (structure.energy, structure.forces[0, 0]) == (-2.0, 2.0)
    assert OWN_RESULTS not in structure.info


@pytest.mark.parametrize("label", ["energy", "forces", "stress", "virial", "weight"])
@pytest.mark.parametrize("name", ["a.extxyz", "a.traj"])
def test_a_named_key_that_is_nowhere_is_an_error_with_the_keys_there_are(tmp_path, label, name):
    write(tmp_path / name, [slab(stored=["energy", "forces", "stress"])] * 2)
    with pytest.raises(DataError, match=rf"no structure has the {label} key 'typo'.*keys found: energy, forces"):
        read_structures(tmp_path / name, LabelKeys(**{label: "typo"}), require_energy=False)
    with pytest.raises(DataError, match=f"the {label} key 'typo'"):
        as_structures([slab(stored=["energy"])], LabelKeys(**{label: "typo"}))


@pytest.mark.parametrize("label", ["forces", "stress"])
def test_a_unit_of_what_is_not_there_is_an_error(label):
    unit = {"forces": "Ha/Bohr", "stress": "GPa"}[label]
    with pytest.raises(DataError, match=f"a unit of the {label} is given"):
        as_structures([slab(stored=["energy"])], LabelKeys(**{f"{label}_unit": unit}))


def test_stress_and_virial_that_contradict_each_other():
    atoms = slab(ref=["energy", "stress"])
    atoms.info["REF_virial"] = -atoms.get_volume() * np.eye(3)
    assert codes([from_ase(atoms)]) == set()
    atoms.info["REF_virial"] = atoms.get_volume() * np.eye(3)
    (issue,) = validate([from_ase(atoms)])
    assert issue.code == "stress-virial"
    assert "info:REF_stress, which is read, is 1 where info:REF_virial over -volume is -1" in issue.message
    assert from_ase(atoms, LabelKeys(virial="REF_virial")).stress[0, 0] == pytest.approx(-1.0)


@pytest.mark.parametrize("stress", [np.zeros(6), np.ones(6)])
@pytest.mark.parametrize("boxed", [False, True])
def test_stress_of_what_does_not_repeat_is_left_out_with_one_remark(stress, boxed):
    atoms = molecule("H2O", vacuum=5.0 if boxed else None)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.eye(3) - 1 / 3, stress=stress)
    structures = [from_ase(atoms, index=0)]
    assert structures[0].stress is None
    assert [i.code for i in validate(structures)] == ["stress-left-out"]
    assert "stress" not in structures[0].info


@pytest.mark.parametrize("label", ["forces", "stress"])
def test_all_nan_is_missing_and_some_nan_is_refused(tmp_path, label):
    atoms = slab(ref=["energy", "forces", "stress"])
    place = atoms.arrays if label == "forces" else atoms.info
    place[f"REF_{label}"] = place[f"REF_{label}"] * np.nan
    write(tmp_path / "a.extxyz", atoms)
    (structure,) = read_structures(tmp_path / "a.extxyz")
    assert getattr(structure, label) is None
    assert codes([structure]) == set()
    atoms = slab(ref=["energy", "forces", "stress"])
    (atoms.arrays if label == "forces" else atoms.info)[f"REF_{label}"][0, 0] = np.nan
    assert codes([from_ase(atoms)]) == {"not-finite"}


def test_stale_results_are_called_stale():
    atoms = slab(stored=["energy", "forces"])
    atoms.pbc = False
    (issue,) = validate([from_ase(atoms)])
    assert issue.code == "no-energy"
    assert "results are stale" in issue.message


def test_a_unit_of_stress_beside_a_virial_alone_is_an_error():
    atoms = slab(stored=["energy"])
    atoms.info["virial"] = np.eye(3)
    with pytest.raises(
        DataError, match="no stress were found beside the virial info:virial, which has the unit of the"
    ):
        as_structures([atoms], LabelKeys(stress_unit="kbar"))
    both = slab(stored=["energy", "stress"])
    assert len(as_structures([atoms, both], LabelKeys(stress_unit="kbar"))) == 2
    (named,) = as_structures([atoms], LabelKeys(stress="virial", stress_unit="kbar"))
    assert named.stress is not None


def test_structures_without_the_named_key_but_with_others_are_counted():
    frames = [slab(stored=["energy", "forces"]) for _ in range(3)]
    frames[0].arrays["mine"] = frames[0].get_forces()
    structures = as_structures(frames, LabelKeys(forces="mine"))
    assert [s.forces is None for s in structures] == [False, True, True]
    (issue,) = [i for i in validate(structures) if i.code == "forces-unnamed"]
    assert issue.indices == (1, 2)
    assert "no forces under the key that is named, and those under calc:forces are not read (1 more" in issue.message
    others = [slab(ref=["energy", "forces"]), slab(ref=["energy"], dft=["forces"])]
    messages = [i.message for i in validate(as_structures(others, LabelKeys(forces="REF_forces")))]
    assert any("those under arrays:dft_forces are not read" in message for message in messages)
    assert not any("None" in message for message in messages)


@pytest.mark.parametrize(
    ("units", "said"),
    [
        ({"energy_unit": "Ha"}, True),
        ({"energy_unit": "Ry", "length_unit": "nm"}, True),
        ({"energy_unit": "Ha", "forces_unit": "Ha/Angstrom"}, False),
        ({"energy_unit": "Ha", "length_unit": "Bohr"}, False),
        ({"energy_unit": "kcal/mol"}, False),
    ],
)
def test_a_unit_of_forces_that_mixes_atomic_units_with_others_is_said(units, said):
    atoms = slab(stored=["energy", "forces"])
    found = [i for i in validate([from_ase(atoms, LabelKeys(**units))]) if i.code == "forces-unit"]
    assert bool(found) is said
    if said:
        unit = f"{units['energy_unit']}/{units.get('length_unit', 'Angstrom')}"
        assert f"forces are read in {unit}, by the units of energies and lengths" in found[0].message
