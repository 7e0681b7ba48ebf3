import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.constraints import FixAtoms, FixBondLength
from ase.io.trajectory import Trajectory as AseTrajectory

from mekrr.dynamics import draw_velocities, has_velocities, read_start, temperature
from mekrr.dynamics.start import degrees_of_freedom
from mekrr.errors import DataError
from support import labelled


def copper(repeat=3):
    return bulk("Cu", cubic=True).repeat(repeat)


def test_drawn_velocities_have_the_temperature_and_no_total_momentum():
    atoms = copper(5)
    draw_velocities(atoms, 300, seed=0)
    assert temperature(atoms) == pytest.approx(300, rel=4 * np.sqrt(2 / (3 * len(atoms))))
    np.testing.assert_allclose(atoms.get_momenta().sum(0), 0, atol=1e-10)


def test_seeds_draw_equal_and_different_velocities():
    first, again, other = copper(), copper(), copper()
    for atoms, seed in ((first, 1), (again, 1), (other, 2)):
        draw_velocities(atoms, 300, seed)
    np.testing.assert_array_equal(first.get_momenta(), again.get_momenta())
    assert np.abs(first.get_momenta() - other.get_momenta()).max() > 0.1


def test_fixed_atoms_stay_at_rest_and_count_not_for_the_temperature():
    atoms = copper(5)
    atoms.set_constraint(FixAtoms(range(200)))
    draw_velocities(atoms, 300, seed=0)
    assert not atoms.get_momenta()[:200].any()
    assert temperature(atoms) == pytest.approx(300, rel=4 * np.sqrt(2 / 900))


def test_the_temperature_is_of_the_motion_about_the_centre_of_mass():
    atoms = copper()
    draw_velocities(atoms, 300, seed=0)
    before = temperature(atoms)
    atoms.set_velocities(atoms.get_velocities() + np.array([1.0, 0.0, 0.0]))
    assert temperature(atoms) == pytest.approx(before)
    assert degrees_of_freedom(atoms) == 3 * len(atoms) - 3


def test_nothing_that_moves_is_refused():
    atoms = copper()
    atoms.set_constraint(FixAtoms(range(len(atoms))))
    with pytest.raises(DataError, match="nothing can move"):
        degrees_of_freedom(atoms)
    with pytest.raises(DataError, match="nothing can move"):
        degrees_of_freedom(molecule("H"))


def test_read_start_keeps_constraints_momenta_and_masses_and_drops_labels(tmp_path):
    atoms = labelled(copper(2))
    atoms.set_constraint(FixAtoms([0, 3]))
    atoms.arrays["dft_forces"] = np.ones((len(atoms), 3))
    atoms.info["REF_energy"] = 1.0
    draw_velocities(atoms, 300, seed=0)
    ase.io.write(tmp_path / "s.extxyz", [copper(1), atoms])
    start, index = read_start(tmp_path / "s.extxyz")
    assert index == 1
    np.testing.assert_array_equal(start.constraints[0].index, [0, 3])
    np.testing.assert_allclose(start.get_momenta(), atoms.get_momenta(), atol=1e-7)
    assert (start.calc, start.info, set(start.arrays)) == (None, {}, {"numbers", "positions", "momenta"})
    assert not has_velocities(read_start(tmp_path / "s.extxyz", 0)[0])


def test_a_start_whose_electrons_had_not_converged_is_a_start(tmp_path):
    atoms = labelled(copper(2))
    atoms.info["scf_converged"] = False
    ase.io.write(tmp_path / "s.extxyz", atoms)
    start, _ = read_start(tmp_path / "s.extxyz")
    np.testing.assert_allclose(start.positions, atoms.positions, atol=1e-7)


def test_other_formats_and_constraints(tmp_path):
    atoms = copper(2)
    atoms.set_constraint(FixBondLength(0, 1))
    atoms.set_masses([2.0] * len(atoms))
    with AseTrajectory(tmp_path / "s.traj", "w") as file:
        file.write(atoms)
        file.write(atoms[:4])
    start, index = read_start(tmp_path / "s.traj", -2)
    assert (index, len(start)) == (0, 32)
    assert start.constraints[0].todict()["name"] == "FixBondLengths"
    assert start.get_masses()[0] == 2.0


@pytest.mark.parametrize(
    ("text", "index", "message"),
    [
        ("1\n\nCu 0 0 0\n", 3, "no structure at index 3"),
        ("0\nLattice='1 0 0 0 1 0 0 0 1'\n", 0, "no atoms"),
        ("1\n\nX 0 0 0\n", 0, "no element"),
        ("2\n\nCu 0 0 0\n", 0, "truncated"),
    ],
)
def test_unusable_starts_are_named(tmp_path, text, index, message):
    (tmp_path / "s.xyz").write_text(text)
    with pytest.raises(DataError, match=message):
        read_start(tmp_path / "s.xyz", index)
