import dataclasses
import time

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.verlet import VelocityVerlet

from mekrr.data import Structure, from_ase, raise_on_errors, read_structures, validate
from mekrr.errors import DataError


def codes(structures, level=None, **kwargs):
    return [i.code for i in validate(structures, **kwargs) if level in (None, i.level)]


@pytest.fixture(scope="module")
def trajectory() -> list[Structure]:
    """Forty steps of molecular dynamics of a hot copper cluster."""
    atoms = bulk("Cu", cubic=True).repeat(2)
    atoms.rattle(0.1, seed=3)
    atoms.calc = EMT()
    frames = []
    dynamics = VelocityVerlet(atoms, 3 * units.fs)

    def keep():
        frame = atoms.copy()
        frame.calc = SinglePointCalculator(frame, energy=atoms.get_potential_energy(), forces=atoms.get_forces())
        frames.append(from_ase(frame, source="md.traj", index=len(frames)))

    dynamics.attach(keep)
    dynamics.run(39)
    return frames


def test_sound_data_has_no_issues(frames, trajectory):
    assert validate([from_ase(atoms, index=i) for i, atoms in enumerate(frames)]) == []
    assert validate(trajectory) == []


def test_empty():
    (issue,) = validate([])
    assert (issue.level, issue.code) == ("error", "empty")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["energy", "forces", "positions"])
def test_not_finite(slab, name, value):
    structure = from_ase(slab, source="a.xyz", index=4)
    if name == "positions":
        structure.atoms.positions[2, 1] = value
    elif name == "forces":
        structure.forces[0, 0] = value
    else:
        structure = dataclasses.replace(structure, energy=value)
    (issue,) = validate([structure])
    assert issue.code == "not-finite"
    assert issue.message.startswith(f"a.xyz, index 4 (Cu12): NaN or infinite {name}; remove")
    with pytest.raises(DataError, match=r"a\.xyz, index 4"):
        raise_on_errors([issue])


def test_other_errors(slab):
    sound = from_ase(slab)
    flat = slab.copy()
    flat.cell[2] = 0
    assert codes([dataclasses.replace(sound, forces=np.zeros((3, 3)))]) == ["shape"]
    assert codes([dataclasses.replace(sound, weight=0.0)]) == ["weight"]
    assert codes([Structure(Atoms(), 0.0)]) == ["no-atoms"]
    assert codes([Structure(Atoms("X"), 0.0)]) == ["no-element"]
    assert codes([Structure(flat, -1.0)]) == ["cell"]
    assert codes([Structure(Atoms("HH", [[0, 0, 0], [0, 0, 1e8]]), 0.0)]) == ["extent"]
    assert codes([Structure(Atoms([1, 300], [[0, 0, 0], [0, 0, 1]]), 0.0)]) == ["no-element"]
    assert codes([Structure(slab)]) == ["no-energy"]
    assert codes([Structure(slab)], require_energy=False) == []


def test_unknown_element_names_it(slab):
    (issue,) = validate([from_ase(slab)], known_species={1, 8})
    assert issue.code == "unknown-element"
    assert "the backbone does not know Cu; choose a backbone that does" in issue.message
    assert codes([from_ase(slab)], known_species={29}) == []


def test_duplicates(slab):
    one = from_ase(slab, source="a.xyz", index=0)
    two = dataclasses.replace(one, index=5)
    (issue,) = validate([one, two])
    assert (issue.level, issue.code, issue.indices) == ("warning", "duplicates", (1,))
    assert "index 5 (Cu12): it equals a.xyz, index 0, labels included" in issue.message
    (issue,) = validate([one, dataclasses.replace(two, energy=one.energy + 0.01)])
    assert (issue.level, issue.code) == ("error", "duplicates-conflict")
    raise_on_errors(validate([one, two]))


def test_short_distance_is_the_one_that_is_short():
    water = molecule("H2O")
    water.positions[1] = water.positions[0] + [0, 0, 0.4]
    (issue,) = validate([Structure(molecule("H2"), -1.0), Structure(water, -1.0)])
    assert issue.code == "short-distance"
    assert "atom 0 (O) and atom 1 (H) are 0.40 Angstrom apart" in issue.message
    image = Atoms("Cu", cell=[1.0, 10, 10], pbc=[True, False, False])
    assert codes([Structure(image, -1.0)]) == ["short-distance"]


def test_net_force_hints_at_constraints(slab):
    structure = from_ase(slab)
    drifting = dataclasses.replace(structure, forces=structure.forces + 0.05)
    (issue,) = validate([drifting])
    assert issue.code == "net-force"
    assert "0.050 eV/Angstrom per atom" in issue.message
    structure.forces[:4] = 0
    assert "suggest that constraints were applied" in validate([structure])[0].message


def test_violent_forces(slab):
    structure = from_ase(slab)
    structure.forces[0, 0] += 50
    structure.forces[1, 0] -= 50
    assert codes([structure]) == ["violent-forces"]


@pytest.mark.parametrize(
    ("energy", "forces", "cause"),
    [
        (1 / units.Hartree, 1, "energies look like Ha"),
        (1, units.Bohr / units.Hartree, "forces look like Ha/Bohr"),
        (units.mol / units.kcal, 1, "energies look like kcal/mol"),
        (1, units.mol / units.kcal, "forces look like kcal/mol/Angstrom"),
        (1, -1, "opposite sign"),
        (1 / 32, 1, "energies per atom"),
        (1, 7.7, "no usual unit"),
    ],
)
def test_units_that_contradict_forces(trajectory, energy, forces, cause):
    scaled = [dataclasses.replace(s, energy=s.energy * energy, forces=s.forces * forces) for s in trajectory]
    (issue,) = [i for i in validate(scaled) if i.code == "units"]
    assert issue.level == "warning"
    assert cause in issue.message


def test_shuffled_frames_are_not_checkable(trajectory):
    shuffled = [trajectory[i] for i in np.random.default_rng(0).permutation(len(trajectory))]
    assert codes([dataclasses.replace(s, energy=s.energy / 27.2) for s in shuffled]) == []


def test_mixed_references(trajectory):
    far = [dataclasses.replace(s, energy=s.energy - 2000.0 * (i % 2)) for i, s in enumerate(trajectory)]
    assert "mixed-references" in codes(far, "warning")
    near = [dataclasses.replace(s, energy=s.energy - 1.0 * (i > 20)) for i, s in enumerate(trajectory)]
    assert codes(near) == ["energy-jumps"]


def test_isolated_atoms_are_no_mixed_reference(trajectory):
    atoms = [Structure(Atoms("Cu"), 5.0), Structure(Atoms("Cu", cell=[10, 10, 10], pbc=True), 5.0)]
    assert "mixed-references" not in codes([*trajectory, *atoms])


@pytest.mark.parametrize("name", ["cu_formate", "mlearn_cu", "oc20_relaxations", "oxide_polymorphs"])
def test_real_data_has_no_errors_and_no_mixed_references(real_data, name):
    for path in sorted((real_data / name).iterdir()):
        issues = validate(read_structures(path))
        raise_on_errors(issues)
        assert {i.code for i in issues}.isdisjoint({"mixed-references", "energy-jumps", "units"}), path


def test_equal_frames_of_real_data(real_data):
    issues = validate(read_structures(real_data / "cu_formate" / "systematic.extxyz.gz"))
    (duplicates,) = [i for i in issues if i.code == "duplicates"]
    assert duplicates.indices == (23, 85, 86)


def test_thousands_of_structures_take_seconds():
    slab = fcc111("Cu", (4, 4, 3), vacuum=6.0, periodic=True)
    generator = np.random.default_rng(0)
    structures = []
    for i in range(1000):
        atoms = slab.copy()
        atoms.positions += 0.05 * generator.normal(size=(48, 3))
        forces = generator.normal(size=(48, 3))
        structures.append(Structure(atoms, -100.0, forces - forces.mean(axis=0), index=i))
    start = time.process_time()  # of this process, whatever else the machine does
    assert validate(structures) == []
    assert time.process_time() - start < 5


def test_energies_under_several_keys(frames):
    structures = [from_ase(atoms, index=i) for i, atoms in enumerate(frames)]
    frames[1].info["REF_energy"], frames[1].calc = -9.0, None
    structures[1] = from_ase(frames[1], index=1)
    (issue,) = validate(structures)
    assert issue.code == "energy-keys"
    assert "calc:energy (4), info:REF_energy (1)" in issue.message


def test_isolated_atoms_asked_for_must_be_there(slab):
    structures = [from_ase(slab)]
    assert codes(structures, isolated_atoms=True) == ["no-isolated-atoms"]
    assert codes([*structures, Structure(Atoms("Cu"), -0.2)], isolated_atoms=True) == []


def test_zeros_written_for_missing_labels_are_noticed(trajectory):
    """Of a perfect crystal forces of exactly zero are right; of moved atoms, and any stress of zeros, they are not."""
    crystal = bulk("Cu", cubic=True).repeat(2)
    perfect = Structure(crystal, -100.0, np.zeros((32, 3)), 0.01 * np.eye(3))
    assert "zero-forces" not in codes([perfect])
    alloy = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    assert codes([Structure(alloy, -20.0, np.zeros((8, 3)))]) == []
    zeros = [dataclasses.replace(s, forces=0 * s.forces) for s in trajectory[::4]]
    (issue,) = [i for i in validate([*zeros, *trajectory[1::4]]) if i.code == "zero-forces"]
    assert len(issue.indices) == 10
    assert "forces of exactly zero on all atoms, where no symmetry asks for it" in issue.message
    assert codes([dataclasses.replace(perfect, stress=np.zeros((3, 3)))]) == ["zero-stress"]
