"""OpenMM itself: our force and OpenMM-ML's own way through ASE agree with the calculator."""

import pickle
import subprocess
import sys

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk

from mekrr import Calculator, DataError
from mekrr.engines import WatchOptions
from mekrr.engines.openmm import Interaction, import_openmm
from mekrr.errors import EngineError
from support import copper_molecule

pytest.importorskip("sevenn")
openmm = pytest.importorskip("openmm", reason='OpenMM is not installed: pip install ".[openmm]"')

NO_WATCH = WatchOptions(threshold="none")
KJ_MOL = units.kJ / units.mol
pytestmark = pytest.mark.filterwarnings("ignore::mekrr.errors.MekrrWarning")


def reduced(atoms):
    """In the frame that OpenMM wants: a along x, b in the xy plane."""
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell.standard_form()[0], scale_atoms=True)
    return atoms


def structures(alloys):
    periodic = bulk("Cu", cubic=True, a=3.8)
    periodic.rattle(0.05, seed=3)
    return {"periodic": periodic, "triclinic": reduced(alloys[31]), "molecule": copper_molecule()}


def context(atoms, force, platform="Reference", system=None, timestep=0.001):
    """A context at the positions of the atoms."""
    if system is None:
        system = openmm.System()
        for mass in atoms.get_masses():
            system.addParticle(mass)
        system.addForce(force)
    if atoms.pbc.any():
        system.setDefaultPeriodicBoxVectors(*[openmm.Vec3(*v) for v in atoms.cell.array / 10])
    made = openmm.Context(
        system, openmm.VerletIntegrator(timestep), openmm.Platform.getPlatformByName(platform)
    )  # fmt: skip
    made.setPositions(atoms.positions / 10)
    return made


def found(made):
    """Energy in eV and forces in eV/Angstrom."""
    state = made.getState(energy=True, forces=True)
    energy = state.getPotentialEnergy().value_in_unit(openmm.unit.kilojoule_per_mole) * KJ_MOL
    forces = state.getForces(asNumpy=True).value_in_unit(openmm.unit.kilojoule_per_mole / openmm.unit.angstrom)
    return energy, np.asarray(forces) * KJ_MOL


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
@pytest.mark.parametrize("kind", ["periodic", "triclinic", "molecule"])
def test_energy_and_forces(forces_potential, alloys, kind, platform):
    atoms = structures(alloys)[kind]
    energy, forces = found(context(atoms, Interaction(forces_potential, atoms, NO_WATCH).force(), platform))
    atoms.calc = Calculator(forces_potential)
    assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-4)


def test_openmm_ml_takes_the_calculator(exact_potential, alloys):
    """The way of the page, for the whole and for a part of a system."""
    ml = pytest.importorskip("openmmml", reason='OpenMM-ML is not installed: pip install ".[openmm]"')
    atoms = structures(alloys)["triclinic"]
    topology = openmm.app.Topology()
    residue = topology.addResidue("X", topology.addChain())
    for symbol in atoms.symbols:
        topology.addAtom(symbol, openmm.app.Element.getBySymbol(symbol), residue)
    topology.setPeriodicBoxVectors([openmm.Vec3(*v) for v in atoms.cell.array / 10])
    system = ml.MLPotential("ase").createSystem(topology, calculator=Calculator(exact_potential))
    energy, forces = found(context(atoms, None, system=system))
    atoms.calc = Calculator(exact_potential)
    assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-4)


def test_some_particles_only(forces_potential, alloys):
    atoms = structures(alloys)["periodic"]
    interaction = Interaction(forces_potential, atoms, NO_WATCH)
    more = Atoms("He2", [(0, 0, 1), (1, 1, 0)]) + atoms
    more.set_cell(atoms.cell)
    more.pbc = True
    _, forces = found(context(more, interaction.force(range(2, len(more)))))
    atoms.calc = Calculator(forces_potential)
    np.testing.assert_allclose(forces, np.concatenate([np.zeros((2, 3)), atoms.get_forces()]), atol=1e-4)


def test_a_slab_in_a_box(forces_potential):
    slab = bulk("Cu", cubic=True, a=3.8)
    slab.rattle(0.05, seed=2)
    slab.pbc = (True, True, False)
    boxed = slab.copy()
    boxed.set_cell([3.8, 3.8, 16.0])
    boxed.positions[:, 2] -= 1.0
    boxed.wrap()
    _, forces = found(context(boxed, Interaction(forces_potential, slab, NO_WATCH).force()))
    slab.calc = Calculator(forces_potential)
    np.testing.assert_allclose(forces, slab.get_forces(), atol=1e-4)
    with pytest.raises(openmm.OpenMMException, match="not periodic along c, but the box of OpenMM"):
        found(context(slab, Interaction(forces_potential, slab, NO_WATCH).force()))


def test_a_system_is_serialised_with_it(forces_potential, alloys, served_files):
    """A potential travels with it; a path stays one, and the text is short."""
    atoms = structures(alloys)["periodic"]
    lengths = []
    for potential in (forces_potential, served_files["forces"]):
        made = context(atoms, Interaction(potential, atoms, NO_WATCH).force())
        text = openmm.XmlSerializer.serialize(made.getSystem())
        again = context(atoms, None, system=openmm.XmlSerializer.deserialize(text))
        np.testing.assert_allclose(found(again)[1], found(made)[1], atol=1e-4)
        lengths.append(len(text))
    assert lengths[1] < 10_000 < lengths[0]


@pytest.mark.slow
def test_a_serialised_system_is_taken_up_elsewhere(alloys, served_files, tmp_path):
    atoms = structures(alloys)["periodic"]
    made = context(atoms, Interaction(served_files["forces"], atoms, NO_WATCH).force())
    (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(made.getSystem()))
    np.save(tmp_path / "x.npy", atoms.positions / 10)
    code = (
        "import openmm, numpy; system = openmm.XmlSerializer.deserialize(open('system.xml').read());"
        "c = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName('Reference'));"
        "c.setPositions(numpy.load('x.npy')); print(c.getState(energy=True).getPotentialEnergy()._value)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert float(done.stdout) * KJ_MOL == pytest.approx(found(made)[0], abs=1e-4)


@pytest.mark.slow
def test_two_hundred_femtoseconds_at_constant_energy(exact_potential):
    atoms = bulk("Cu", cubic=True, a=3.7)
    made = context(atoms, Interaction(exact_potential, atoms, NO_WATCH).force())
    made.setVelocitiesToTemperature(600, 1)
    potential, total = [], []
    for _ in range(40):
        made.getIntegrator().step(5)
        state = made.getState(energy=True)
        potential.append(state.getPotentialEnergy()._value)
        total.append(potential[-1] + state.getKineticEnergy()._value)
    assert np.ptp(total) < 0.02 * np.ptp(potential)


def test_the_watch(forces_potential, alloys, tmp_path):
    atoms = structures(alloys)["triclinic"]
    label = tmp_path / "label.extxyz"
    warned = Interaction(forces_potential, atoms, WatchOptions(threshold=1e-6, label_to=str(label)))
    made = context(atoms, warned.force())
    made.getIntegrator().step(3)
    assert warned.n_evaluations == warned.watch.figures.past > 2
    assert [a.info["step"] for a in ase.io.read(label, ":")] == [1]
    again = pickle.loads(pickle.dumps(warned))
    assert again.n_evaluations == 0
    continued = context(atoms, again.force())
    continued.getIntegrator().step(1)
    assert [a.info["step"] for a in ase.io.read(label, ":")] == [1, 1]
    stopped = Interaction(forces_potential, atoms, WatchOptions(threshold=1e-6, on_threshold="stop"))
    with pytest.raises(openmm.OpenMMException, match=r"evaluation 1: the deviation .* passed the threshold"):
        found(context(atoms, stopped.force()))
    assert stopped.watch.stopped


def test_what_cannot_be_used_is_refused(forces_potential, alloys, served_files):
    atoms = structures(alloys)["periodic"]
    with pytest.raises(ValueError, match="mean embedding"):
        Interaction(served_files["mean"], atoms)
    with pytest.raises(DataError, match="No"):
        Interaction(forces_potential, bulk("No", "fcc", a=4.0))
    with pytest.raises(ValueError, match="threads"):
        Interaction(forces_potential, atoms, threads=1000)
    with pytest.raises(openmm.OpenMMException, match="OpenMM sent 8 atoms, the template has 4"):
        found(context(atoms.repeat((1, 1, 2)), Interaction(forces_potential, atoms, NO_WATCH).force()))


def test_openmm_missing_or_too_old(monkeypatch):
    monkeypatch.delattr(openmm, "PythonForce")
    with pytest.raises(EngineError, match=r"has no PythonForce, which is there from 8\.4 on: pip install"):
        import_openmm()
    monkeypatch.setitem(sys.modules, "openmm", None)
    with pytest.raises(EngineError, match="OpenMM is not installed here"):
        import_openmm()
