"""`mekrr.learn`: a run from START to its goal, as events."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mekrr._version import __version__
from mekrr.data import Structure
from mekrr.errors import DataError
from mekrr.learning import events
from mekrr.learning.events import Event
from mekrr.learning.journal import Journal
from mekrr.learning.labeller import Labeller
from mekrr.learning.learner import Learner
from mekrr.learning.md import md
from mekrr.learning.neb import neb
from mekrr.learning.options import LabelOptions, MdOptions, NebOptions, RelaxOptions
from mekrr.learning.outside import told, write_asks
from mekrr.learning.page import write_page
from mekrr.learning.relax import relax
from mekrr.learning.session import EndedError, LabelsWantedError, Outcome, Session
from mekrr.potential.options import FitOptions

TASKS: dict[str, type] = {"relax": RelaxOptions, "neb": NebOptions, "md": MdOptions}
SAME = 1e-6  # Angstrom: START of a run that goes on
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
        calculator: "FILE.py:function"; None when labels come from outside.
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
        _begin_or_go_on(journal, job, resume or bool(tell))
        labeller = (
            None if calculator is None else Labeller(calculator, journal.folder / "calculator", job.labels.timeout)
        )
        session = Session(journal, learner, labeller, job.labels.labels, _needs_stress(job))
        learner.take_up(journal.path_of_model, journal.lines)
        given = told(session, tell)
    except BaseException:
        journal.close()
        raise
    return _events(session, job, given)


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
    return Job(task, start, end, own, labels, fit, calculator, device, trust_checkpoint)


def _require_same_atoms(start: Atoms, end: Atoms) -> None:
    """Refuse an END with other atoms, another order of them or another cell.

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


def _needs_stress(job: Job) -> bool:
    return getattr(job.options, "ensemble", "") == "npt"


def _begin_or_go_on(journal: Journal, job: Job, resume: bool) -> None:
    """Write what the run is to do, or compare it with what the run in the folder was to do.

    Raises:
        FileExistsError: when there is a run, and none was to be continued.
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
    }
    old = journal.settings()
    if old is not None and not resume:
        raise FileExistsError(f"{journal.folder} holds a run: go on with it by --resume, or choose another folder")
    if old is not None:
        _require_same_run(old, settings, journal.folder)
    journal.recover()
    journal.save_settings(settings)


def _require_same_run(old: dict[str, Any], new: dict[str, Any], folder: Path) -> None:
    if old["task"] != new["task"]:
        raise DataError(f"{folder} holds a run of {old['task']}, not of {new['task']}; choose another folder")
    for name in ("start", "end"):
        was, now = old[name], new[name]
        if was is not None and (
            not np.array_equal(was.numbers, now.numbers) or not np.allclose(was.positions, now.positions, atol=SAME)
        ):
            raise DataError(
                f"{folder} holds a run with another {name.upper()}; give that one, or choose another folder"
            )
    changed = [k for k, v in new["fit"].items() if _listed(v) != _listed(old["fit"].get(k))]
    if changed:
        flags = ", ".join("--" + name.replace("_", "-") for name in changed)
        raise DataError(f"{folder} holds a run with other options of the fit ({flags}): leave them as they were")


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _the_end(job: Job) -> Atoms:
    assert job.end is not None
    return job.end


DRIVERS: dict[str, Callable[[Session, Job], Driver]] = {
    "relax": lambda session, job: relax(session, job.start, job.options),
    "neb": lambda session, job: neb(session, job.start, _the_end(job), job.options),
    "md": lambda session, job: md(session, job.start, job.options, job.fit.seed),
}


def _events(session: Session, job: Job, given: Sequence[Event]) -> Iterator[Event]:
    """All of a run, and how it ended."""
    journal = session.journal
    try:
        how = "goes on" if journal.labels else "begins"
        yield session.say(events.BEGUN, f"{job.task} {how} in {journal.folder}", n_labels=len(journal.labels))
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
