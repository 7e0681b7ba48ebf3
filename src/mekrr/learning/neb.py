"""A reaction path of DFT: a nudged elastic band with a climbing image on what is known, labelled where it matters.

Labelled are both ends, then the image whose energy is least certain, and the climbing image once all are certain.
Around its last label the climbing image moves on a surface that has the energy and forces of DFT there. The run is done
when the DFT forces on the climbing image are small and the energies along the path are certain.
"""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.geometry import find_mic
from ase.mep import NEB
from ase.optimize import BFGS
from ase.vibrations import Vibrations

from mekrr.learning import events
from mekrr.learning.events import Event
from mekrr.learning.labels import Ask, Label
from mekrr.learning.options import NebOptions
from mekrr.learning.relax import last_failure, still
from mekrr.learning.session import MOST_FAILURES, EndedError, Outcome, Session, labelled_atoms
from mekrr.learning.surface import ExactAt, free_forces, largest

SPRING = 0.5  # eV/Angstrom^2
ROUGH_STEPS, CLIMBING_STEPS = 40, 60
ROUGH = 0.2  # eV/Angstrom: how far a band of the network alone is minimised
UNCERTAIN_SHARE, CERTAIN_SHARE = 2.0, 0.5  # of fmax: how far one of the potential is, while uncertain and then
WIDTH = 0.3  # Angstrom, over all atoms: reach of the correction at the climbing image's last label
NEAR = 0.1  # Angstrom, over all atoms: an image so near a label teaches nothing new

State = dict[str, Any]
BEGIN: State = {"number": 0, "asks": [], "path": None, "saddle": None, "certain": False, "failures": 0}


def neb(session: Session, start: Atoms, end: Atoms, options: NebOptions) -> Generator[Event, None, Outcome]:
    """Events of the search, and in the end the path.

    Raises:
        EndedError: when it cannot go on.
    """
    state = session.journal.state() or dict(BEGIN)
    yield from _ends(session, state, start, end, options)
    while True:
        if not state["asks"]:
            event = _propose(session, state, start, end, options)
            yield event
            if event.numbers["done"]:
                return _outcome(session, state, start, options)
            session.journal.save_state(state)
        yield from session.ask([Ask(**ask) for ask in state["asks"]])
        ask = Ask(**state["asks"][0])
        label = session.label_of(ask.number)
        state |= {"number": state["number"] + 1, "asks": []}
        if label is None:
            state["failures"] += 1
            if state["failures"] >= MOST_FAILURES:
                raise EndedError(
                    f"{state['failures']} structures in a row could not be labelled; the last: {last_failure(session)}"
                )
        else:
            state["failures"] = 0
            if ask.why == SADDLE:
                state["saddle"] = label.number
        yield from session.learn()
        session.journal.save_state(state)


SADDLE = "the climbing image"


def _ends(
    session: Session, state: State, start: Atoms, end: Atoms, options: NebOptions
) -> Generator[Event, None, None]:
    """Label both ends.

    Raises:
        EndedError: when one cannot be labelled.
    """
    if state["path"] is not None:
        return
    if not state["asks"]:
        asks = [Ask(i, _bare(atoms), name) for i, (atoms, name) in enumerate(((start, "START"), (end, "END")))]
        state |= {"asks": [ask.as_dict() for ask in asks], "number": 2}
        session.journal.save_state(state)
    yield from session.ask([Ask(**ask) for ask in state["asks"]])
    for number, (atoms, name) in enumerate(((start, "START"), (end, "END"))):
        label = session.label_of(number)
        if label is None:
            raise EndedError(f"{name} could not be labelled: {last_failure(session)}")
        fmax = largest(free_forces(atoms, label.frame.positions, label.forces))
        told = any(line["kind"] == events.REMARK and name in line["text"] for line in session.journal.lines)
        if fmax > 2 * options.fmax and not told:
            yield session.say(
                events.REMARK,
                f"{name} is no minimum of DFT: its largest force is {fmax:.2f} eV/Å; relax it first (learn relax)",
                fmax=fmax,
            )
    state |= {"asks": [], "path": _interpolated(start, end, options.images)}
    yield from session.learn()
    session.journal.save_state(state)


def _interpolated(start: Atoms, end: Atoms, count: int) -> list[np.ndarray]:
    """Positions of a first path: the image-dependent pair potential, from END unwrapped towards START."""
    images = [_bare(start) for _ in range(count + 2)]
    moves, _ = find_mic(end.positions - start.positions, start.cell, start.pbc)
    images[-1].set_positions(start.positions + moves, apply_constraint=False)
    NEB(images, method="improvedtangent").interpolate("idpp", apply_constraint=False)
    return [image.positions.copy() for image in images]


def _propose(session: Session, state: State, start: Atoms, end: Atoms, options: NebOptions) -> Event:
    """Relax the band and say what to label next; `numbers["done"]` where nothing is left to do."""
    saddle = None if state["saddle"] is None else session.label_of(state["saddle"])
    images, surface = _relaxed(session, state, start, saddle, options)
    state["path"] = [image.positions.copy() for image in images]
    energies = [float(image.get_potential_energy()) for image in images]
    climbing = 1 + int(np.argmax(energies[1:-1]))
    predicted = session.predicted([still(image) for image in images[1:-1]], surface)
    deviations = _deviations(predicted)
    fmax = None if saddle is None else largest(free_forces(start, saddle.frame.positions, saddle.forces))
    certain = bool(deviations) and max(deviations) < options.path_deviation
    state["certain"] = certain
    near = saddle is not None and _distance(images[climbing].positions, saddle) < NEAR
    done = certain and fmax is not None and fmax < options.fmax and near
    if not done:
        chosen = _chosen(images, climbing, deviations, certain, session.labels, state["failures"])
        why = SADDLE if chosen == climbing else f"image {chosen} of the path"
        ask = Ask(state["number"], _bare(images[chosen]), why, predicted[chosen - 1], {"image": chosen})
        state["asks"] = [ask.as_dict()]
    start_energy = session.labels[0].energy
    worst = f"{max(deviations):.3f} eV" if deviations else "not known yet"
    return session.say(
        events.MOVED,
        f"{len(session.labels)} labels: barrier {energies[climbing] - energies[0]:.3f} eV, largest deviation along the "
        f"path {worst}" + ("" if fmax is None else f", largest DFT force at the last saddle {fmax:.3f} eV/Å"),
        n_labels=len(session.labels),
        energies_ev=[energy - start_energy for energy in energies] if session.learner.potential else None,
        deviations_ev=deviations or None,
        climbing_image=climbing,
        barrier_ev=energies[climbing] - energies[0],
        fmax=fmax,
        done=done,
    )


def _deviations(predicted: Sequence[dict[str, Any]]) -> list[float]:
    """Of the energies along the path, eV; nothing before there is a potential."""
    found = [p.get("energy_std") for p in predicted]
    return [float(std) for std in found if std is not None] if all(std is not None for std in found) else []


def _chosen(
    images: Sequence[Atoms],
    climbing: int,
    deviations: Sequence[float],
    certain: bool,
    labels: Sequence[Label],
    failures: int,
) -> int:
    """The image to label: the least certain one, the climbing one where all are certain or none is known to be.

    After a failure it is the next best; one that lies at a label already is not asked for again.
    """
    if certain or not deviations:
        order = [climbing, *sorted(range(1, len(images) - 1), key=lambda i: abs(i - climbing))]
    else:
        order = sorted(range(1, len(images) - 1), key=lambda i: -deviations[i - 1])
    fresh = [i for i in order if min(_distance(images[i].positions, label) for label in labels) > NEAR]
    if certain or not fresh:
        return order[failures % len(order)]
    return fresh[min(failures, len(fresh) - 1)]


def _distance(positions: np.ndarray, label: Label) -> float:
    """Angstrom, over all atoms."""
    frame = label.frame
    moves, _ = find_mic(positions - frame.positions, frame.cell, frame.pbc)
    return float(np.linalg.norm(moves))


def _relaxed(
    session: Session, state: State, start: Atoms, saddle: Label | None, options: NebOptions
) -> tuple[list[Atoms], AseCalculator]:
    """The band on what is known, and the surface it lies on."""
    surface = session.surface()
    if saddle is not None and session.learner.potential is not None:
        surface = ExactAt.label(surface, still(saddle.frame), saddle.energy, saddle.forces, WIDTH)
    images = []
    for positions in state["path"]:
        image = _bare(start)
        image.set_positions(positions, apply_constraint=False)
        image.calc = surface
        images.append(image)
    for i in (0, -1):  # ends do not move: their results are kept, so that images can share one calculator
        results = {"energy": images[i].get_potential_energy(), "forces": images[i].get_forces(apply_constraint=False)}
        images[i].calc = SinglePointCalculator(images[i], **results)
    share = CERTAIN_SHARE if state["certain"] else UNCERTAIN_SHARE
    known = session.learner.potential is not None
    _minimise(images, share * options.fmax if known else ROUGH, saddle is None)
    return images, surface


def _minimise(images: list[Atoms], fmax: float, rough: bool) -> None:
    """Relax the band, first without climbing where it is new."""
    for climb, steps in ((False, ROUGH_STEPS), (True, CLIMBING_STEPS)):
        if not climb and not rough:
            continue
        band: Any = NEB(images, k=SPRING, climb=climb, method="improvedtangent", allow_shared_calculator=True)
        BFGS(band, logfile=None, maxstep=0.1).run(fmax if climb else 2 * fmax, steps)


def _outcome(session: Session, state: State, start: Atoms, options: NebOptions) -> Outcome:
    """The path with its energies; at the ends and the saddle those of DFT."""
    saddle = session.label_of(state["saddle"])
    first, last = session.labels[0], session.labels[1]
    assert saddle is not None
    images = _as_stored(session, state, start)
    path = [labelled_atoms(first, start), *images[1:-1], labelled_atoms(last, start)]
    climbing = 1 + int(np.argmax([image.get_potential_energy() for image in images[1:-1]]))
    path[climbing] = labelled_atoms(saddle, start)
    barrier, back = saddle.energy - first.energy, saddle.energy - last.energy
    fmax = largest(free_forces(start, saddle.frame.positions, saddle.forces))
    numbers = {"barrier_ev": barrier, "reverse_barrier_ev": back, "fmax": fmax}
    text = f"converged after {len(session.labels)} labels: barrier {barrier:.3f} eV (back {back:.3f}), "
    text += f"largest DFT force at the saddle {fmax:.3f} eV/Å (limit {options.fmax:g})"
    if options.vibrations:
        count, lowest = _imaginary(session, path[climbing])
        numbers |= {"imaginary_frequencies": count, "largest_imaginary_cm1": lowest}
        text += f"; {count} imaginary frequencies with the potential, the largest {lowest:.0f}i cm-1"
    return Outcome(text, tuple(path), numbers)


def _as_stored(session: Session, state: State, start: Atoms) -> list[Atoms]:
    """The path as it stands, with the potential's results."""
    surface = session.surface()
    images = []
    for positions in state["path"]:
        image = _bare(start)
        image.set_positions(positions, apply_constraint=False)
        results = {
            "energy": float(surface.get_property("energy", still(image))),
            "forces": np.array(surface.get_property("forces", still(image))),
        }
        image.calc = SinglePointCalculator(image, **results)
        images.append(image)
    return images


def _imaginary(session: Session, saddle: Atoms) -> tuple[int, float]:
    """How many imaginary frequencies the saddle has on the potential, and the largest, 1/cm."""
    atoms = saddle.copy()
    atoms.calc = session.surface()
    fixed = {i for constraint in atoms.constraints for i in getattr(constraint, "index", ())}
    folder = Path(session.journal.folder / "vibrations")
    vibrations = Vibrations(atoms, [i for i in range(len(atoms)) if i not in fixed], name=str(folder))
    vibrations.clean()
    vibrations.run()
    found = vibrations.get_frequencies()
    imaginary = found.imag[found.imag > LOWEST]
    return len(imaginary), float(imaginary.max()) if len(imaginary) else 0.0


LOWEST = 20.0  # 1/cm: below, translations and rounding


def _bare(atoms: Atoms) -> Atoms:
    copy = atoms.copy()
    copy.calc = None
    copy.info = {}
    return copy
