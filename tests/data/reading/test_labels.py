import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import write
from ase.units import Bohr, GPa, Hartree

from mekrr.data import LabelKeys, Structure, as_structures, from_ase, read_structures
from mekrr.data.reading.drawer import FOUND
from mekrr.errors import DataError


@pytest.mark.parametrize("prefix", ["REF_", "dft_", "DFT_"])
def test_labels_under_other_keys(tmp_path, slab, prefix):
    energy, forces = slab.get_potential_energy(), slab.get_forces()
    slab.calc = None
    slab.info[f"{prefix}energy"] = energy
    slab.info[f"{prefix}virial"] = np.diag([1.0, 2.0, 3.0])
    slab.arrays[f"{prefix}forces"] = forces
    write(tmp_path / "a.extxyz", slab)
    (structure,) = read_structures(tmp_path / "a.extxyz")
    assert structure.energy == pytest.approx(energy)
    np.testing.assert_allclose(structure.forces, forces, atol=1e-7)
    np.testing.assert_allclose(structure.stress, -np.diag([1.0, 2.0, 3.0]) / slab.get_volume())
    assert structure.info[FOUND]["energy"] == f"info:{prefix}energy"
    assert f"{prefix}energy" not in structure.info
    assert f"{prefix}forces" not in structure.atoms.arrays


def test_force_consistent_energy_is_preferred_with_forces_only(slab):
    forces = slab.get_forces()
    slab.calc = SinglePointCalculator(slab, energy=-1.0, free_energy=-1.5, forces=forces)
    structure = from_ase(slab)
    assert structure.energy == -1.5
    assert structure.info[FOUND]["other_energies"] == {"calc:energy": -1.0}
    assert from_ase(slab, LabelKeys(energy="energy")).energy == -1.0
    slab.calc = SinglePointCalculator(slab, energy=-1.0, free_energy=-1.5)
    assert from_ase(slab).energy == -1.0
    slab.calc = SinglePointCalculator(slab, free_energy=-1.5)
    assert from_ase(slab).energy == -1.5


def test_units(slab):
    keys = LabelKeys(energy_unit="Ha", length_unit="Bohr", stress_unit="GPa")
    slab.calc = SinglePointCalculator(slab, energy=-1.0, forces=np.ones((12, 3)), stress=np.arange(6.0))
    structure = from_ase(slab, keys)
    assert structure.energy == -Hartree
    np.testing.assert_allclose(structure.forces, Hartree / Bohr)
    np.testing.assert_allclose(structure.atoms.positions, slab.positions * Bohr)
    np.testing.assert_allclose(structure.atoms.cell.array, slab.cell.array * Bohr)
    np.testing.assert_allclose(structure.stress, np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]]) * GPa)


@pytest.mark.parametrize("form", [lambda s: s, lambda s: s.ravel(), lambda s: s.ravel()[[0, 4, 8, 5, 2, 1]]])
def test_forms_of_stress(form):
    stress = np.array([[1.0, 0.1, 0.2], [0.1, 2.0, 0.3], [0.2, 0.3, 3.0]])
    atoms = bulk("Cu")
    atoms.info["REF_stress"] = form(stress)
    np.testing.assert_allclose(from_ase(atoms).stress, stress)


def test_virial_without_a_cell_gives_no_stress():
    atoms = molecule("H2O")
    atoms.info["virial"] = np.zeros((3, 3))
    assert from_ase(atoms).stress is None


@pytest.mark.parametrize(
    "change",
    [
        lambda atoms: atoms.positions.__iadd__(0.1),
        lambda atoms: atoms.set_cell(1.01 * atoms.cell),
        lambda atoms: atoms.set_pbc([True, True, False]),
        lambda atoms: atoms.set_atomic_numbers([28]),
        lambda atoms: atoms.set_initial_magnetic_moments([1.0]),
    ],
)
def test_stored_results_are_of_atoms_as_they_were(change):
    """Whatever was changed since: `SinglePointCalculator` keeps the atoms it was made for."""
    atoms = bulk("Cu")
    atoms.calc = SinglePointCalculator(atoms, energy=-3.0)
    assert from_ase(atoms).energy == -3.0
    change(atoms)
    assert from_ase(atoms).energy is None


def test_stale_results_are_not_labels():
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    assert from_ase(atoms).energy is None
    energy = atoms.get_potential_energy()
    assert from_ase(atoms).energy == pytest.approx(energy)
    other = atoms.copy()
    other.rattle(0.1)
    other.calc = atoms.calc  # one calculator shared by two structures knows the last only
    assert from_ase(other).energy is None
    assert from_ase(atoms).energy == pytest.approx(energy)


def test_constraints_and_calculator_stay_behind(slab):
    forces = slab.get_forces()
    slab.set_constraint(FixAtoms(range(12)))
    structure = from_ase(slab)
    np.testing.assert_allclose(structure.forces, forces)
    assert not structure.atoms.constraints
    assert structure.atoms.calc is None
    assert slab.constraints


def test_weights(slab):
    slab.info["w"] = 2.5
    assert from_ase(slab, LabelKeys(weight="w")).weight == 2.5
    assert from_ase(slab).weight == 1.0
    slab.info["w"] = -1
    with pytest.raises(DataError, match="weight w is -1, expected a positive number"):
        from_ase(slab, LabelKeys(weight="w"))


def test_bad_labels_name_file_and_index(slab):
    slab.arrays["REF_forces"] = np.zeros((12, 2))
    with pytest.raises(DataError, match=r"a.xyz, index 3 \(Cu12\): arrays:REF_forces has shape \(12, 2\)"):
        from_ase(slab, LabelKeys(forces="REF_forces"), "a.xyz", 3)
    slab.info["REF_energy"] = "n/a"
    with pytest.raises(DataError, match="info:REF_energy is not numeric, it holds 'n/a'"):
        from_ase(slab, LabelKeys(energy="REF_energy"))


def test_as_structures(slab):
    structures = as_structures([slab, Structure(slab)])
    assert [s.index for s in structures] == [0, 0]
    assert structures[0].energy is not None
    assert len(as_structures(slab)) == 1
    with pytest.raises(DataError, match="item 1 is a str"):
        as_structures([slab, "a.xyz"])


def test_info_is_json_able_where_the_file_held_numbers():
    atoms = Atoms("H", info={"count": np.int64(3), "name": "x"})
    assert type(from_ase(atoms).info["count"]) is int


def test_a_column_of_weights_is_refused(slab):
    slab.arrays["w"] = np.full(len(slab), 3.0)
    with pytest.raises(DataError, match=r"weight w is array.*expected a positive number, one a structure"):
        from_ase(slab, LabelKeys(weight="w"))
