import numpy as np
import pytest
from ase import units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.filters import FrechetCellFilter
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from mekrr import Calculator

pytest.importorskip("sevenn")


def test_results_equal_predictions(potential, alloys, tmp_path):
    potential.save(tmp_path / "m.safetensors")
    atoms = alloys[32].copy()
    atoms.calc = Calculator(tmp_path / "m.safetensors", uncertainty=True)
    (expected,) = potential.predict([atoms], uncertainty=True)
    assert atoms.get_potential_energy() == pytest.approx(expected.energy, abs=1e-6)
    np.testing.assert_allclose(atoms.get_forces(), expected.forces, atol=1e-5)
    np.testing.assert_allclose(atoms.get_stress(voigt=False), expected.stress, atol=1e-7)
    np.testing.assert_allclose(atoms.get_potential_energies(), expected.atomic_energies, atol=1e-5)
    assert atoms.calc.results["energy_std"] == pytest.approx(expected.energy_std, rel=1e-4)


def test_relaxation_lowers_energy_and_stress(potential, alloys):
    atoms = alloys[34].copy()
    atoms.calc = Calculator(potential)
    start = atoms.get_potential_energy()
    optimiser = BFGS(FrechetCellFilter(atoms), logfile=None)
    optimiser.run(fmax=0.05, steps=40)
    assert atoms.get_potential_energy() < start
    assert np.abs(atoms.get_forces()).max() < 0.2


def test_constant_energy_dynamics_conserve_energy(potential, alloys):
    atoms = alloys[35].copy()
    atoms.calc = Calculator(potential)
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.default_rng(0))
    dynamics = VelocityVerlet(atoms, 1.0 * units.fs)
    energies = []
    for _ in range(30):
        dynamics.run(1)
        energies.append(atoms.get_total_energy() / len(atoms))
    assert np.ptp(energies) < 0.1 * np.ptp([0.0, atoms.get_kinetic_energy() / len(atoms)])
    assert np.ptp(energies) < 2e-3


def test_the_neighbour_list_is_kept_between_small_steps(potential, alloys):
    atoms = alloys[30].copy()
    atoms.calc = Calculator(potential, skin=0.5)
    for _ in range(4):
        atoms.positions[0, 0] += 0.02
        atoms.get_forces()
    assert atoms.calc._graph.n_searches == 1


def test_stress_of_a_molecule_is_refused(potential, alloys):
    atoms = alloys[30].copy()
    atoms.pbc = False
    atoms.cell = None
    atoms.calc = Calculator(potential)
    assert np.isfinite(atoms.get_potential_energy())
    with pytest.raises(PropertyNotImplementedError, match="three lattice vectors"):
        atoms.get_stress()
