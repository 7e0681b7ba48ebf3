"""A reaction path of DFT: a nudged elastic band with a climbing image on what is known, labelled where it matters.

Labelled are both ends, then the image whose energy is least certain, and the climbing image once all are certain.
Around its last label the climbing image moves on a surface that has the energy and forces of DFT there. On a potential
the band moves within a trust radius, and from there again only where all of it is certain. The run is done when the DFT
forces on the climbing image are small and the energies along the path are certain.
"""

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.geometry import find_mic
from ase.mep import NEB
from ase.optimize import FIRE
from ase.vibrations import Vibrations, VibrationsData

from mekrr.data.reading.electrons import electrons
from mekrr.learning import events
from mekrr.learning.events import Event
from mekrr.learning.labels import Ask, Label
from mekrr.learning.options import NebOptions
from mekrr.learning.relax import last_failure, still
from mekrr.learning.session import MOST_FAILURES, EndedError, Outcome, Session, labelled_atoms
from mekrr.learning.surface import ExactAt, free_forces, largest

SPRING = 0.5  # eV/Angstrom^2
STEPS, UNCERTAIN_STEPS = 300, 100  # of a band, before it climbs and then; of one that a label will change
LARGEST_STEP = 0.1  # Angstrom
ROUGH = 0.2  # eV/Angstrom: how far a band of the network alone is minimised
TRUST = 0.3  # Angstrom that an atom of an image may move on a potential before the path is looked at again
ROUNDS = 10  # at most, in which a path that is certain moves on without a label
MOVING = 5.0  # of the path deviation: below it a band that does not climb yet moves on too
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
    images, predicted = _settled(session, state, start, saddle, options)
    energies = [float(image.get_potential_energy()) for image in images]
    climbing = 1 + int(np.argmax(energies[1:-1]))
    deviations, certain = _deviations(predicted), state["certain"]
    fmax = None if saddle is None else largest(free_forces(start, saddle.frame.positions, saddle.forces))
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


def _settled(
    session: Session, state: State, start: Atoms, saddle: Label | None, options: NebOptions
) -> tuple[list[Atoms], list[dict[str, Any]]]:
    """The band relaxed on what is known, and what is predicted along it.

    A path that the trust radius has held moves on while all of it is certain; before it climbs, while it is certain to
    some tenths of an electronvolt: far from the minimum energy path that is little, and a step of the trust radius too.
    """
    surface = session.surface()
    if saddle is not None and session.learner.potential is not None:
        surface = ExactAt.label(surface, still(saddle.frame), saddle.energy, saddle.forces, WIDTH)
    for _ in range(ROUNDS):
        images = _band(state, start, surface)
        held, climbed = _relax(session, state, images, options)
        state["path"] = [image.positions.copy() for image in images]
        predicted = session.predicted([still(image) for image in images[1:-1]], surface)
        deviations = _deviations(predicted)
        worst = max(deviations) if deviations else np.inf
        state["certain"] = worst < options.path_deviation
        if not held or worst >= options.path_deviation * (1.0 if climbed else MOVING):
            break
    return images, predicted


def _band(state: State, start: Atoms, surface: AseCalculator) -> list[Atoms]:
    """Images on a surface; the ends do not move, and hold their results, so that images can share one calculator."""
    images = _images(state, start)
    for image in images:
        image.calc = surface
    for end in (images[0], images[-1]):
        results = {"energy": end.get_potential_energy(), "forces": end.get_forces(apply_constraint=False)}
        end.calc = SinglePointCalculator(end, **results)
    return images


def _images(state: State, start: Atoms) -> list[Atoms]:
    """The path as it stands."""
    images = [_bare(start) for _ in state["path"]]
    for image, positions in zip(images, state["path"], strict=True):
        image.set_positions(positions, apply_constraint=False)
    return images


def _relax(session: Session, state: State, images: list[Atoms], options: NebOptions) -> tuple[bool, bool]:
    """Relax the band, first without climbing while it is uncertain; whether it was held, and whether it climbed.

    The trust radius holds it. On the network alone nothing climbs: between few images far apart the way up may lead
    anywhere.
    """
    begun = [image.positions.copy() for image in images]
    if session.learner.potential is None:
        return _minimise(images, ROUGH, False, begun, np.inf), False
    if state["certain"]:
        return _minimise(images, CERTAIN_SHARE * options.fmax, True, begun, TRUST), True
    fmax = UNCERTAIN_SHARE * options.fmax
    if _minimise(images, fmax, False, begun, TRUST, UNCERTAIN_STEPS):
        return True, False
    return _minimise(images, fmax, True, begun, TRUST, UNCERTAIN_STEPS), True


def _minimise(
    images: list[Atoms], fmax: float, climb: bool, begun: Sequence[np.ndarray], trust: float, steps: int = STEPS
) -> bool:
    """Move a band to where its forces are small, or until an atom of it has come too far; whether one has."""
    band: Any = NEB(images, k=SPRING, climb=climb, method="improvedtangent", allow_shared_calculator=True)
    return any(_hold(images, begun, trust) for _ in FIRE(band, logfile=None, maxstep=LARGEST_STEP).irun(fmax, steps))


def _hold(images: Sequence[Atoms], begun: Sequence[np.ndarray], trust: float) -> bool:
    """Scale back the move of images an atom of which has come too far; whether there are any."""
    held = False
    for image, origin in zip(images, begun, strict=True):
        move = image.positions - origin
        longest = float(np.linalg.norm(move, axis=1).max())
        if longest > trust:
            image.set_positions(origin + move * trust / longest, apply_constraint=False)
            held = True
    return held


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
        found = _imaginary(session, path[climbing])
        if found is None:
            text += "; no vibrations were looked at: START has no free atom"
        else:
            numbers |= {"imaginary_frequencies": found[0], "largest_imaginary_cm1": found[1]}
            text += f"; {found[0]} imaginary frequencies with the potential, the largest {found[1]:.0f}i cm-1"
    return Outcome(text, tuple(path), numbers)


def _as_stored(session: Session, state: State, start: Atoms) -> list[Atoms]:
    """The path as it stands, with the potential's results."""
    surface = session.surface()
    images = _images(state, start)
    for image in images:
        results = {
            "energy": float(surface.get_property("energy", still(image))),
            "forces": np.array(surface.get_property("forces", still(image))),
        }
        image.calc = SinglePointCalculator(image, **results)
    return images


def _imaginary(session: Session, saddle: Atoms) -> tuple[int, float] | None:
    """How many imaginary frequencies the saddle has on the potential, and the largest, 1/cm; None with no free atom.

    Atoms that may move along some directions only vibrate along these.
    """
    fixed = {i for constraint in saddle.constraints if isinstance(constraint, FixAtoms) for i in constraint.index}
    free = [i for i in range(len(saddle)) if i not in fixed]
    if not free:
        return None
    atoms = still(saddle)
    atoms.calc = session.surface()
    vibrations = Vibrations(atoms, free, name=str(session.journal.folder / "vibrations"))
    vibrations.clean()
    vibrations.run()
    allowed = _allowed(saddle, free)
    hessian = allowed @ vibrations.get_vibrations().get_hessian_2d() @ allowed.T
    found = VibrationsData.from_2d(atoms, hessian, free).get_frequencies()
    imaginary = found.imag[found.imag > LOWEST]
    return len(imaginary), float(imaginary.max()) if len(imaginary) else 0.0


def _allowed(atoms: Atoms, free: Sequence[int]) -> np.ndarray:
    """What the constraints leave of a unit force along each coordinate of the free atoms, as rows."""
    units = np.zeros((3 * len(free), len(atoms), 3))
    units[np.arange(3 * len(free)), np.repeat(free, 3), np.tile(range(3), len(free))] = 1.0
    without = free_forces(atoms, atoms.positions, np.zeros((len(atoms), 3)))
    left = [free_forces(atoms, atoms.positions, unit) - without for unit in units]
    return np.stack(left)[:, free].reshape(len(units), -1)


LOWEST = 20.0  # 1/cm: below, translations and rounding


def _bare(atoms: Atoms) -> Atoms:
    copy = atoms.copy()
    copy.calc = None
    copy.info = electrons(atoms)
    return copy
