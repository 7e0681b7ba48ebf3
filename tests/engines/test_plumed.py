"""PLUMED itself, where PLUMED_KERNEL names its library."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import units
from ase.stress import full_3x3_to_voigt_6_stress

from mekrr import Calculator
from mekrr.dynamics import Settings, Watch, WatchOptions, draw_velocities, run
from mekrr.engines.plumed import Plumed
from mekrr.errors import EngineError

pytest.importorskip("sevenn")
SPRING, REST = 10.0, 3.0  # eV/Angstrom^2, Angstrom
LINES = (
    "UNITS LENGTH=A TIME=fs ENERGY=eV",
    "d: DISTANCE ATOMS=1,2 NOPBC",
    f"RESTRAINT ARG=d AT={REST} KAPPA={SPRING}",
    "PRINT ARG=d FILE=colvar STRIDE=1",
    "FLUSH STRIDE=1",
)
pytestmark = pytest.mark.filterwarnings("ignore::mekrr.errors.MekrrWarning")


@pytest.fixture
def biased(forces_potential, alloys, tmp_path, monkeypatch):
    """Atoms with the restraint, and their bare calculator."""
    pytest.importorskip("plumed", reason="PLUMED's Python part is not installed: pip install plumed")
    if not os.environ.get("PLUMED_KERNEL"):
        pytest.skip("no PLUMED here: set PLUMED_KERNEL to its libplumedKernel.so")
    monkeypatch.chdir(tmp_path)
    atoms = alloys[30].copy()
    bare = Calculator(forces_potential, uncertainty=True)
    atoms.calc = Plumed(bare, LINES, 1.0 * units.fs, atoms)
    yield atoms, bare
    atoms.calc.plumed.finalize()


def test_a_restraint_adds_its_energy_force_and_stress(biased):
    atoms, bare = biased
    vector = atoms.positions[1] - atoms.positions[0]
    length = np.linalg.norm(vector)
    pull = SPRING * (length - REST)
    assert abs(pull) > 0.1
    free = atoms.copy()
    free.calc = bare
    assert atoms.get_potential_energy() - free.get_potential_energy() == pytest.approx(
        pull * (length - REST) / 2, abs=1e-5
    )
    expected = np.zeros((len(atoms), 3))
    expected[0], expected[1] = pull * vector / length, -pull * vector / length
    np.testing.assert_allclose(atoms.get_forces() - free.get_forces(), expected, atol=1e-4)
    stress = pull * np.outer(vector, vector) / length / atoms.get_volume()
    np.testing.assert_allclose(
        atoms.get_stress() - free.get_stress(), full_3x3_to_voigt_6_stress(stress), atol=1e-5
    )  # fmt: skip
    assert free.calc.results["energy_std"] > 0
    assert atoms.calc.results["energy_std"] == pytest.approx(free.calc.results["energy_std"], rel=1e-6)


def test_dynamics_watch_a_biased_run(biased):
    atoms, _ = biased
    draw_velocities(atoms, 300, seed=0)
    watch = Watch(WatchOptions(threshold=1e-6))
    run(atoms, Settings(steps=20, timestep=1.0), watch=watch)
    assert watch.figures.past == 21
    assert len(Path("colvar").read_text().splitlines()) == 1 + 21
    ended = Watch(WatchOptions(threshold=1e-6, on_threshold="stop"))
    assert run(atoms, Settings(steps=20, timestep=1.0), watch=ended).last_step == 0
    assert ended.stopped


def test_wrong_input_and_a_missing_kernel(biased, monkeypatch):
    atoms, bare = biased
    with pytest.raises(EngineError, match=r'PLUMED does not accept its input: .*"DISTANS" is not known'):
        Plumed(bare, ["d: DISTANS ATOMS=1,2"], 1.0, atoms)
    monkeypatch.setitem(sys.modules, "plumed", None)
    with pytest.raises(EngineError, match="Python part is not installed here"):
        Plumed(bare, LINES, 1.0, atoms)


def test_without_a_library_it_is_said(forces_potential, alloys, monkeypatch):
    pytest.importorskip("plumed", reason="PLUMED's Python part is not installed: pip install plumed")
    monkeypatch.setenv("PLUMED_KERNEL", "/nowhere/libplumedKernel.so")
    with pytest.raises(EngineError, match=r"library is not found here .* PLUMED_KERNEL must name it"):
        Plumed(Calculator(forces_potential), LINES, 1.0, alloys[30].copy())
