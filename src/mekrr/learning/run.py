"""`mekrr.learn`: a run from START to its goal, as events."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixBondLengths, FixInternals, FixLinearTriatomic
from ase.geometry import find_mic

from mekrr._version import __version__
from mekrr.data import Structure
from mekrr.data.reading.electrons import charge_and_spin
from mekrr.errors import DataError
from mekrr.files import sha256_of
from mekrr.learning import events
from mekrr.learning.events import Event
from mekrr.learning.factory import split_name
from mekrr.learning.journal import JOURNAL, LABELS, MODEL, RESULT, STATE, Journal
from mekrr.learning.labeller import Labeller
from mekrr.learning.learner import Learner
from mekrr.learning.md import md
from mekrr.learning.neb import neb
from mekrr.learning.options import LabelOptions, MdOptions, NebOptions, RelaxOptions
from mekrr.learning.outside import ASK, told, write_asks
from mekrr.learning.page import REPORT, write_page
from mekrr.learning.relax import relax
from mekrr.learning.same_run import require_same_run, rewritten
from mekrr.learning.session import EndedError, LabelsWantedError, Outcome, Session
from mekrr.potential.options import FitOptions

TASKS: dict[str, type] = {"relax": RelaxOptions, "neb": NebOptions, "md": MdOptions}
SAME_PLACE = 0.01  # Angstrom: a fixed atom at both ends of a path, as relaxations and few digits leave it
RIGID = (FixBondLengths, FixInternals, FixLinearTriatomic)
"""Constraints that a Langevin integrator, which moves positions without asking them, lets drift."""

WRITTEN = (LABELS, RESULT, JOURNAL, MODEL, STATE, ASK, REPORT, "walker-*.extxyz")
"""Files of a run."""

Driver = Generator[Event, None, Outcome]


@dataclass(frozen=True)
class Job:
    """What a run is to do, checked.

    Attributes:
        task: one of TASKS.
        start: the structure to begin from, with its constraints.
        end: of a path; None for other tasks.
        options: of the task.
        labels: how they are made.
        fit: options of fits.
        calculator: "FILE.py:function", the file's path absolute; None when labels come from outside.
        device: where the backbone computes.
        trust_checkpoint: see KernelPotential.
    """

    task: str
    start: Atoms
    end: Atoms | None
    options: Any
    labels: LabelOptions
    fit: FitOptions
    calculator: str | None
    device: str = "auto"
    trust_checkpoint: bool = False


def learn(
    task: str,
    start: Atoms,
    end: Atoms | None = None,
    *,
    folder: str | Path,
    calculator: str | None = None,
    resume: bool = False,
    tell: Sequence[Structure | Atoms] = (),
    device: str = "auto",
    trust_checkpoint: bool = False,
    **options: Any,
) -> Iterator[Event]:
    """Events of a run that labels what it needs to know as it goes; the last is one of `mekrr.learning.events.ENDS`.

    What is wrong with the arguments is raised here, before the first event. Everything is kept in the folder, from
    which the same call with `resume=True` goes on, whatever ended it.

    Args:
        task: "relax", "neb" or "md".
        start: with constraints, which hold throughout.
        end: the other end of a path: the same atoms in the same order.
        folder: for labels, journal, model and result; made when it is not there.
        calculator: "FILE.py:function", a function that returns an ASE calculator; it runs in a process of its own, in
            the subfolder `calculator`. None: labels come from outside; a run that needs some ends with the event
            "to-label", whose structures are to be labelled and given to the next call as `tell`.
        resume: go on with the run in the folder.
        tell: labelled structures that a run has asked for; implies `resume`.
        device: where the backbone computes.
        trust_checkpoint: see KernelPotential.
        **options: of LabelOptions, of the task (RelaxOptions, NebOptions, MdOptions) and of FitOptions.

    Raises:
        ValueError: for an unknown task or option, or a value that makes no sense.
        DataError: for structures that do not go together, or a folder that holds another run.
        LabelError: when there is no such calculator.
        OSError: when the folder cannot be written, or holds a run and `resume` is not asked for.
    """
    job = _job(task, start, end, calculator, device, trust_checkpoint, options)
    if job.fit.refine != 0:
        raise ValueError("refine: a run learns by updates of a kernel, and a refined network has none; leave it out")
    learner = Learner(job.fit, Path(folder) / "cache", device, trust_checkpoint)
    learner.backbone.check_species(np.unique(start.numbers).tolist())
    if not learner.backbone.has_energy:
        raise ValueError(
            f"{job.fit.backbone} has no energy of its own, and a run begins with it: take a backbone that has one"
        )
    journal = Journal(Path(folder))
    try:
        remarks = _begin_or_go_on(journal, job, resume or bool(tell))
        labeller = (
            None
            if job.calculator is None
            else Labeller(job.calculator, journal.folder / "calculator", job.labels.timeout)
        )
        session = Session(journal, learner, labeller, job.labels.labels, _needs_stress(job))
        learner.take_up(journal.path_of_model, journal.lines)
        given = told(session, tell)
    except BaseException:
        journal.close()
        raise
    return _events(session, job, remarks, given)


def _job(
    task: str,
    start: Atoms,
    end: Atoms | None,
    calculator: str | None,
    device: str,
    trust_checkpoint: bool,
    options: dict[str, Any],
) -> Job:
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; choose one of {', '.join(TASKS)}")
    if (end is None) == (task == "neb"):
        raise ValueError("a path needs an end" if end is None else f"{task} has no end; leave it out")
    if end is not None:
        _require_same_atoms(start, end)
    kinds = (LabelOptions, TASKS[task], FitOptions)
    parts: list[dict[str, Any]] = [{}, {}, {}]
    for name, value in options.items():
        places = [i for i, kind in enumerate(kinds) if name in {f.name for f in fields(kind)}]
        if not places:
            raise ValueError(f"{task} has no option {name!r}")
        for i in places:
            parts[i][name] = value
    labels, own, fit = (kind(**part) for kind, part in zip(kinds, parts, strict=True))
    if getattr(own, "ensemble", "") == "npt" and (start.constraints or not start.pbc.all()):
        raise ValueError("--ensemble npt scales a cell that repeats along all axes, without fixed atoms; take nvt")
    if task == "md":
        _require_kept(start, own)
    if calculator is not None:
        calculator = "{}:{}".format(*split_name(calculator))
    return Job(task, start, end, own, labels, fit, calculator, device, trust_checkpoint)


def _require_kept(start: Atoms, options: MdOptions) -> None:
    """Refuse dynamics that would not keep START's constraints.

    Raises:
        ValueError: naming them.
    """
    rigid = sorted({type(one).__name__ for one in start.constraints if isinstance(one, RIGID)})
    if rigid and options.ensemble != "nve":
        raise ValueError(
            f"--ensemble {options.ensemble} does not keep the lengths that START fixes ({', '.join(rigid)}): take "
            "--ensemble nve, or a START without them and a shorter --timestep"
        )


def _require_same_atoms(start: Atoms, end: Atoms) -> None:
    """Refuse an END with other atoms, another order of them, another cell or charge, or fixed atoms elsewhere.

    Raises:
        DataError: saying what differs.
    """
    if sorted(start.numbers) != sorted(end.numbers):
        raise DataError(
            f"END has other atoms than START: {end.get_chemical_formula()} and {start.get_chemical_formula()}; a path "
            "needs the same atoms at both ends"
        )
    if not np.array_equal(start.numbers, end.numbers):
        raise DataError("END has the atoms of START in another order; a path needs the same order at both ends")
    if not np.allclose(start.cell.array, end.cell.array, atol=1e-5) or (start.pbc != end.pbc).any():
        raise DataError("END has another cell or periodicity than START; a path needs the same at both ends")
    if repr(charge_and_spin(start)) != repr(charge_and_spin(end)):
        raise DataError(
            f"END has another charge or spin than START: {charge_and_spin(end)} and {charge_and_spin(start)}; a path "
            "needs the same at both ends"
        )
    moves, _ = find_mic(end.positions - start.positions, start.cell, start.pbc)
    fixed = {int(i) for constraint in start.constraints if isinstance(constraint, FixAtoms) for i in constraint.index}
    moved = [i for i in sorted(fixed) if np.linalg.norm(moves[i]) > SAME_PLACE]
    if moved:
        raise DataError(
            f"atom {moved[0]} is fixed in START and lies {np.linalg.norm(moves[moved[0]]):.2f} Angstrom away in END; "
            "relax both ends with it in one place, or do not fix it"
        )


def _needs_stress(job: Job) -> bool:
    return getattr(job.options, "ensemble", "") == "npt"


def _begin_or_go_on(journal: Journal, job: Job, resume: bool) -> list[str]:
    """Write what the run is to do, or compare it with what the run in the folder was to do; remarks on that.

    Raises:
        FileExistsError: when there is a run, and none was to be continued, or there are files that a run would write
            over.
        DataError: when that is another run.
    """
    settings = {
        "mekrr": __version__,
        "task": job.task,
        "start": job.start,
        "end": job.end,
        "options": vars(job.options),
        "fit": job.fit.as_dict(),
        "calculator": job.calculator,
        "calculator_sha256": None if job.calculator is None else sha256_of(split_name(job.calculator)[0]),
    }
    old = journal.settings()
    if old is None:
        _require_unused(journal.folder)
    if old is not None and not resume:
        raise FileExistsError(f"{journal.folder} holds a run: go on with it by --resume, or choose another folder")
    if old is not None:
        require_same_run(old, settings, journal.folder)
    journal.recover()
    journal.save_settings(settings)
    return [] if old is None else rewritten(old, settings)


def _require_unused(folder: Path) -> None:
    """Refuse a folder with files of a run's names that are no run's.

    Raises:
        FileExistsError: naming one.
    """
    for name in WRITTEN:
        for path in sorted(folder.glob(name)):
            raise FileExistsError(
                f"{path} is there and belongs to no run: a run would write over it; move it, or choose another folder"
            )


def _the_end(job: Job) -> Atoms:
    assert job.end is not None
    return job.end


DRIVERS: dict[str, Callable[[Session, Job], Driver]] = {
    "relax": lambda session, job: relax(session, job.start, job.options),
    "neb": lambda session, job: neb(session, job.start, _the_end(job), job.options),
    "md": lambda session, job: md(session, job.start, job.options, job.fit.seed),
}


def _events(session: Session, job: Job, remarks: Sequence[str], given: Sequence[Event]) -> Iterator[Event]:
    """All of a run, and how it ended."""
    journal = session.journal
    try:
        how = "goes on" if journal.labels else "begins"
        yield session.say(events.BEGUN, f"{job.task} {how} in {journal.folder}", n_labels=len(journal.labels))
        for remark in remarks:
            yield session.say(events.REMARK, remark)
        yield from given
        yield from session.take_left_behind()
        yield from session.learn()
        try:
            found = yield from DRIVERS[job.task](session, job)
        except LabelsWantedError:
            last = _wanted(session)
        except EndedError as end:
            last = session.say(events.STOPPED, str(end), n_labels=len(journal.labels))
        else:
            journal.save_result(found.structures)
            event = session.say(events.CONVERGED, found.text, n_labels=len(journal.labels), **found.numbers)
            last = Event(event.kind, event.text, event.numbers, found.structures)
        write_page(journal.folder)
        yield last
    finally:
        if session.labeller is not None:
            session.labeller.close()
        journal.close()


def _wanted(session: Session) -> Event:
    path, structures = write_asks(session)
    event = session.say(
        events.TO_LABEL,
        f"{len(structures)} structures are to be labelled: {path}; go on with --tell FILE",
        n_labels=len(session.labels),
        ask=str(path),
    )
    return Event(event.kind, event.text, event.numbers, structures)
