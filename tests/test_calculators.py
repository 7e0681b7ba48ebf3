import copy
import multiprocessing
import warnings

import numpy as np
import pytest
from ase import units
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.filters import FrechetCellFilter
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from mekrr import Calculator
from mekrr.engines import Evaluator
from mekrr.errors import MekrrWarning
from support import energy_and_forces

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


@pytest.mark.parametrize("make", [Calculator, Evaluator])
def test_who_runs_dynamics_says_where_the_energy_jumps(potential, monkeypatch, make):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(potential)
    monkeypatch.setattr(type(potential.backbone), "jumps", "has messages that stop at the cutoff")
    with pytest.warns(MekrrWarning, match=r"sevennet-0 has messages that stop at the cutoff: .* conserve energy"):
        make(potential)
    monkeypatch.undo()
    monkeypatch.setattr(potential.backbone, "max_neighbours", 40)
    with pytest.warns(MekrrWarning, match="sevennet-0 keeps the 40 nearest neighbours of an atom"):
        make(potential)


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
    atoms.calc.calculate(atoms, ["energy", "forces", "stress"])
    assert np.isfinite(atoms.calc.results["forces"]).all()
    with pytest.raises(PropertyNotImplementedError, match="repeats in all three directions"):
        atoms.get_stress()
    assert atoms.calc.get_property("stress", atoms, allow_calculation=False) is None
    assert np.isfinite(atoms.get_forces()).all()


def test_what_was_found_for_one_charge_is_not_given_for_another(potential, alloys, monkeypatch):
    """ASE does not look at it; here a network that reads charges."""
    seen = []
    monkeypatch.setattr(potential.backbone, "reads", ("charge",))
    atoms = alloys[30].copy()
    atoms.calc = Calculator(potential)
    forward = type(potential.backbone).forward

    def watched(self, graph, *rest, **named):
        seen.append(graph.charge.tolist())
        return forward(self, graph, *rest, **named)

    monkeypatch.setattr(type(potential.backbone), "forward", watched)
    atoms.get_potential_energy()
    atoms.get_forces()
    atoms.info["charge"] = 1
    atoms.get_forces()
    assert seen == [[0.0], [1.0]]


def test_what_was_found_before_an_update_is_not_given_after(potential, alloys):
    learning, atoms = copy.deepcopy(potential), alloys[30].copy()
    atoms.calc = Calculator(learning)
    before = atoms.get_potential_energy()
    learning.update(alloys[30:32])
    sent = copy.deepcopy(atoms.calc)
    updated = Calculator(learning).get_potential_energy(atoms)
    assert updated != before
    assert atoms.get_potential_energy() == sent.get_potential_energy(atoms) == updated
    assert atoms.calc.check_state(atoms) == []


def test_it_goes_to_other_processes_with_the_atoms(potential, alloys):
    frames = [atoms.copy() for atoms in alloys[30:33]]
    calculator = Calculator(potential, uncertainty=True)
    for atoms in frames:
        atoms.calc = calculator
    expected = [energy_and_forces(atoms) for atoms in frames]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.map(energy_and_forces, frames)
    for (energy, forces), (energy_there, forces_there) in zip(expected, found, strict=True):
        # the network counts in single precision, and its last bits depend on where memory lies
        assert energy_there == pytest.approx(energy, abs=1e-5)
        np.testing.assert_allclose(forces_there, forces, rtol=0, atol=1e-5)


def test_a_copy_has_its_own_state(potential, alloys):
    atoms = alloys[30].copy()
    atoms.calc = Calculator(potential, uncertainty=True)
    energy = atoms.get_potential_energy()
    moved = copy.deepcopy(atoms)
    moved.positions[0] += 0.3
    moved.calc = copy.deepcopy(atoms.calc)
    assert moved.get_potential_energy() != energy
    assert atoms.get_potential_energy() == energy
    assert moved.calc.results["energy_std"] != atoms.calc.results["energy_std"]


def test_a_single_point_calculator_takes_the_results(potential, alloys):
    atoms = alloys[30].copy()
    atoms.calc = Calculator(potential, uncertainty=True)
    energy, stress = atoms.get_potential_energy(), atoms.get_stress()
    results = atoms.calc.results
    kept = atoms.copy()
    kept.calc = SinglePointCalculator(kept, **results)
    assert kept.get_potential_energy() == energy
    np.testing.assert_array_equal(kept.get_stress(), stress)
    assert results["energy_std"] == results.get("energy_std") == atoms.calc.get_property("energy_std", atoms) > 0
    assert "energy_std" in results
    assert results.get("dipole") is None


def test_dynamics_of_a_molecule_write_frames_without_stress(potential, tmp_path):
    """ASE's writers ask for everything that is there."""
    from ase.io import read
    from ase.io.trajectory import Trajectory

    atoms = molecule("H2O")
    atoms.numbers[:] = 29
    atoms.positions *= 2.5
    atoms.calc = Calculator(potential)
    dynamics = VelocityVerlet(atoms, 1.0 * units.fs)
    dynamics.attach(Trajectory(tmp_path / "run.traj", "w", atoms).write)
    dynamics.run(2)
    found = [set(a.calc.results) for a in read(tmp_path / "run.traj", ":")]
    assert len(found) == 3
    assert all({"energy", "forces"} <= names and "stress" not in names for names in found)
