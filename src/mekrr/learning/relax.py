"""A relaxation to a minimum of DFT: minimise on what is known, label, learn, until the DFT forces are small.

The surface that is minimised, the network's or the potential's, is corrected so that its energy and forces at the best
label are those of DFT; then a minimum found where it started is one of DFT, whatever the surface. Steps are held within
a trust radius, which grows and shrinks by what the last label said of the step before.
"""

from collections.abc import Generator
from typing import Any

import numpy as np
from ase import Atoms
from ase.optimize import BFGS

from mekrr.learning import events
from mekrr.learning.events import Event
from mekrr.learning.labels import Ask, Label
from mekrr.learning.options import RelaxOptions
from mekrr.learning.session import MOST_FAILURES, EndedError, Outcome, Session, labelled_atoms
from mekrr.learning.surface import ExactAt, free_forces, largest

TRUST, LARGEST_TRUST, SMALLEST_TRUST = 0.3, 1.0, 0.01
"""Angstrom that an atom may move from the best label: at first, at most, and below which a run is given up."""

TIE = 0.005  # eV: of labels so near in energy the one with smaller forces is the better one

WELL = 0.5  # of the gain foretold, and of the forces at the best label: a step within this was well foretold

START_ITSELF = "START"
VIOLENT = 10.0  # eV/Angstrom: where DFT disagrees so much with the network, START is labelled too

INNER_SHARE = 0.2  # of fmax: how far the surface is minimised, well below what DFT is asked for
INNER_STEPS = 200
NETWORK_STEPS = 500

NOISE_LABELS, NOISE_MOVE = 4, 0.1
"""So many labels in a row within so many Angstrom of the best one, foretold no better than to fmax, are noise."""

State = dict[str, Any]
BEGIN: State = {"number": 0, "asks": [], "best": None, "trust": TRUST, "failures": 0}


def relax(session: Session, start: Atoms, options: RelaxOptions) -> Generator[Event, None, Outcome]:
    """Events of the relaxation, and in the end the minimum.

    Raises:
        EndedError: when it cannot go on.
    """
    state: State = session.journal.state() or dict(BEGIN)
    while True:
        if (found := _converged(session, state, start, options)) is not None:
            return found
        if not state["asks"]:
            event, ask = _propose(session, start, state, options.fmax)
            state["asks"] = [ask.as_dict()]
            session.journal.save_state(state)
            if event is not None:
                yield event
        ask = Ask(**state["asks"][0])
        yield from session.ask([ask])
        label = session.label_of(ask.number)
        if label is None:
            state = _after_failure(state, session)
            session.journal.save_state(state)
            continue
        yield from session.learn()
        state = _after(state, session, label, start)
        session.journal.save_state(state)
        best = session.label_of(state["best"])
        assert best is not None
        fmax = _fmax(best, start)
        yield session.say(
            events.MOVED,
            f"{len(session.labels)} labels: energy {best.energy:.3f} eV, largest DFT force {fmax:.3f} eV/Å",
            number=ask.number,
            n_labels=len(session.labels),
            energy_ev=best.energy,
            fmax=fmax,
            trust=state["trust"],
        )
        if (noise := _noise(session, best, start, options)) is not None and not session.remarked(noise):
            yield session.say(events.REMARK, noise)


def _noise(session: Session, best: Label, start: Atoms, options: RelaxOptions) -> str | None:
    """What to know where labels near the best one contradict each other by more than the limit of the forces."""
    errors = []
    for label in session.labels[-NOISE_LABELS:]:
        before = label.frame.arrays.get("before_forces")
        moved = np.linalg.norm(label.frame.positions - best.frame.positions, axis=1).max()
        if before is None or moved > NOISE_MOVE:
            return None
        errors.append(largest(free_forces(start, label.frame.positions, label.forces - before)))
    if len(errors) < NOISE_LABELS or min(errors) < options.fmax:
        return None
    return (
        f"the last {NOISE_LABELS} labels lie within {NOISE_MOVE} Å of the best one, and their forces differ from those "
        f"foretold by {min(errors):.2g} to {max(errors):.2g} eV/Å, above the limit of {options.fmax:g}: mostly this is "
        "noise of the calculator, from its grid or its convergence, which no potential can follow. Converge it "
        "better, or begin again with a larger --fmax"
    )


def _converged(session: Session, state: State, start: Atoms, options: RelaxOptions) -> Outcome | None:
    """The minimum, once the best label is one."""
    best = None if state["best"] is None else session.label_of(state["best"])
    if best is None or state["asks"] or (fmax := _fmax(best, start)) >= options.fmax:
        return None
    text = f"converged after {len(session.labels)} labels: largest DFT force {fmax:.3f} eV/Å (limit {options.fmax:g})"
    return Outcome(text, (labelled_atoms(best, start),), {"fmax": fmax, "energy_ev": best.energy})


def _fmax(label: Label, start: Atoms) -> float:
    """The largest DFT force on a free atom."""
    return largest(free_forces(start, label.frame.positions, label.forces))


def _propose(session: Session, start: Atoms, state: State, fmax: float) -> tuple[Event | None, Ask]:
    """The next structure to label."""
    atoms = start.copy()
    surface = session.surface()
    best = None if state["best"] is None else session.label_of(state["best"])
    if best is None and state["number"] == 0:
        # the network's own minimum; failing that, START itself
        atoms.calc = surface
        steps = _minimise(atoms, fmax, None, NETWORK_STEPS)
        moved = float(np.linalg.norm(atoms.positions - start.positions, axis=1).max())
        text = f"the network alone moved atoms by up to {moved:.2f} Å in {steps} steps"
        event = session.say(events.MOVED, text, number=None, n_labels=0, steps=steps, moved_angstrom=moved)
        return event, _ask(state, atoms, "the network's own minimum", session.predicted([still(atoms)])[0])
    if best is None or (state["number"] == 1 and _fmax(best, start) > VIOLENT):
        return None, _ask(state, atoms, START_ITSELF, session.predicted([still(atoms)])[0])
    atoms.set_positions(best.frame.positions, apply_constraint=False)
    exact = ExactAt.label(surface, still(atoms), best.energy, best.forces)
    atoms.calc = exact
    _minimise(atoms, INNER_SHARE * fmax, state["trust"], INNER_STEPS)
    return None, _ask(state, atoms, "the minimum expected", session.predicted([still(atoms)], exact)[0])


def _minimise(atoms: Atoms, fmax: float, trust: float | None, steps: int) -> int:
    """Move atoms to a minimum, or as far as they may go; the number of steps."""
    origin = atoms.positions.copy()
    optimiser = BFGS(atoms, logfile=None)
    for _ in optimiser.irun(fmax, steps):
        moves = np.linalg.norm(atoms.positions - origin, axis=1)
        if trust is not None and moves.max() > trust:
            atoms.set_positions(origin + (atoms.positions - origin) * trust / moves.max(), apply_constraint=False)
            break
    return int(optimiser.nsteps)


def _ask(state: State, atoms: Atoms, why: str, before: dict[str, Any]) -> Ask:
    still = atoms.copy()
    still.calc = None
    return Ask(state["number"], still, why, before)


def still(atoms: Atoms) -> Atoms:
    """A copy without constraints: forces of free atoms are predicted."""
    copy = atoms.copy()
    copy.set_constraint()
    return copy


def _after(state: State, session: Session, label: Label, start: Atoms) -> State:
    """Keep the label as the best one if it is better, and set the trust radius by how well the step was foretold."""
    best = None if state["best"] is None else session.label_of(state["best"])
    done = state | {"number": state["number"] + 1, "asks": [], "failures": 0}
    if best is None:
        return done | {"best": label.number}
    step = float(np.linalg.norm(label.frame.positions - best.frame.positions, axis=1).max())
    if label.frame.info["why"] == START_ITSELF:
        return done | ({"best": label.number} if _fmax(label, start) < _fmax(best, start) else {})
    if is_better(label, best, start):
        done |= {"best": label.number}
        if gained_as_foretold(label, best) and step > 0.8 * state["trust"]:
            done |= {"trust": min(2 * state["trust"], LARGEST_TRUST)}
        return done
    trust = max(0.4 * min(step, state["trust"]), SMALLEST_TRUST)
    return done | {"trust": trust}


def is_better(label: Label, best: Label, start: Atoms) -> bool:
    """Whether it lies lower, or as low with smaller forces, or as low as a surface foretold that knows its forces too.

    Near a flat minimum an energy lower by a fraction of a meV says nothing, and forces of a structure that lies higher
    may be small because it is a saddle. But a molecule that slides over a surface gains little at each step while its
    forces grow and fall again: such a step counts where energy and forces came out as foretold.
    """
    gained = best.energy - label.energy
    if gained > TIE or (gained > -TIE and _fmax(label, start) < _fmax(best, start)):
        return True
    before = label.frame.arrays.get("before_forces")
    if before is None or not gained_as_foretold(label, best):
        return False
    error = largest(free_forces(start, label.frame.positions, label.forces - before))
    return error < WELL * _fmax(best, start)


def gained_as_foretold(label: Label, best: Label) -> bool:
    """Whether the energy fell by at least half of what was foretold."""
    foretold = best.energy - float(label.frame.info.get("before_energy", best.energy))
    return foretold > 0 and best.energy - label.energy > WELL * foretold


def _after_failure(state: State, session: Session) -> State:
    """A shorter step from the best label.

    Raises:
        EndedError: after several failures, or when START itself has none.
    """
    failures = state["failures"] + 1
    if failures >= MOST_FAILURES or (state["best"] is None and failures >= 2):
        raise EndedError(f"{failures} structures in a row could not be labelled; the last: {last_failure(session)}")
    return state | {"number": state["number"] + 1, "asks": [], "failures": failures, "trust": 0.5 * state["trust"]}


def last_failure(session: Session) -> str:
    """Why the last label failed."""
    return str(next(line["error"] for line in reversed(session.journal.lines) if line["kind"] == events.FAILED))
