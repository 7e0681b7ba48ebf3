"""Dynamics of DFT: integrate on the potential, and label what it does not know well enough.

Every few steps the deviations of the forces are looked at. Where that of an atom passes the threshold, which follows
from the errors of leave-one-out and from the size of the forces, the structure waits for a label. Of the walkers'
structures that wait, those that say most are labelled as a batch; the others are looked at again with the new
potential. A walker goes on from its labelled structure, or, where the label says that it had gone wrong, from the last
one that was known.
"""

import os
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.verlet import VelocityVerlet

from mekrr.active import select
from mekrr.data import OWN_RESULTS
from mekrr.data.reading.electrons import electrons
from mekrr.dynamics import Trajectory, UnstableError, draw_velocities, has_velocities, temperature
from mekrr.dynamics.settings import FRICTION
from mekrr.dynamics.stability import refuse_leaps, require_finite
from mekrr.errors import MekrrError
from mekrr.learning import events
from mekrr.learning.events import Event
from mekrr.learning.labels import Ask, Label
from mekrr.learning.options import MdOptions
from mekrr.learning.relax import last_failure, still
from mekrr.learning.session import MOST_FAILURES, EndedError, Outcome, Session
from mekrr.potential.potential import FEWEST

MULTIPLE = 3.0
"""The threshold in errors of leave-one-out: beyond, a structure is unlike those known."""

SMALLEST_SHARE, LARGEST_SHARE = 0.1, 0.2
"""The threshold lies between these shares of the root mean square force of the labels: while labels are few, a multiple
of large leave-one-out errors would let everything pass, and one of very small errors ask for what nobody needs."""

WRONG = 3.0  # times the threshold: a labelled structure with a larger error had gone wrong before
FIRST_GAP = 20  # steps between the first labels, which the network alone leads to
PRESSURE_TIME, FRAMES_EVERY = 1000.0, 10  # fs; checks between two frames of the trajectory

State = dict[str, Any]


@dataclass(frozen=True)
class Walker:
    """Where one copy is.

    Attributes:
        atoms: with momenta.
        step: made so far.
        safe: the last structure that was known well enough, with its step.
        safe_step: see safe.
        barostat: momentum of the cell, in ASE's units.
        known: whether the present structure has been looked at and is known well enough.
    """

    atoms: Atoms
    step: int
    safe: Atoms
    safe_step: int
    barostat: float = 0.0
    known: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For ASE's JSON."""
        return dict(vars(self))


def md(session: Session, start: Atoms, options: MdOptions, seed: int) -> Generator[Event, None, Outcome]:
    """Events of the dynamics, and in the end the walkers' last structures.

    Raises:
        EndedError: when it cannot go on.
    """
    state = session.journal.state() or _begun(start, options, seed)
    if options.ensemble == "nve" and has_velocities(start):
        kept = f"walker 0 keeps the velocities of START ({temperature(start):.0f} K): --temperature is not used for it"
        if not session.remarked(kept):
            yield session.say(events.REMARK, kept)
    state.setdefault("written", [-1] * options.walkers)  # by earlier versions, which did not keep it
    for k, size in enumerate(state["sizes"]):
        if _trajectory(session, k).exists():
            os.truncate(_trajectory(session, k), size)
    while True:
        if not state["asks"]:
            yield from _walk(session, state, options, seed)
            if all(_is_done(Walker(**walker), options) for walker in state["walkers"]) and not state["asks"]:
                return _outcome(session, state, options)
            session.journal.save_state(state)
        asks = [Ask(**ask) for ask in state["asks"]]
        yield from session.ask(asks)
        yield from session.learn()
        _after(session, state, asks, options)
        session.journal.save_state(state)


def _is_done(walker: Walker, options: MdOptions) -> bool:
    """Whether it is at the end, and known well enough there."""
    return walker.step >= options.steps and walker.known


def _begun(start: Atoms, options: MdOptions, seed: int) -> State:
    """Walkers with velocities of their own; the first keeps those of START."""
    walkers = []
    for k in range(options.walkers):
        atoms = start.copy()
        if k or not has_velocities(atoms):
            draw_velocities(atoms, options.temperatures[0], seed + k)
        walkers.append(Walker(atoms, 0, atoms.copy(), 0).as_dict())
    return {"number": 0, "asks": [], "walkers": walkers, "sizes": [0] * options.walkers, "failures": 0}


def threshold_of(session: Session) -> float:
    """Deviation of the forces on an atom, eV/Angstrom, past which a structure is labelled.

    On an atom of an element with larger forces than the average, as many times this.
    """
    potential = session.learner.potential
    assert potential is not None
    loo = potential.fitted_.record.leave_one_out.forces_median_mev_per_angstrom
    assert loo is not None
    rms = float(np.sqrt(np.mean([np.mean(label.forces**2) for label in session.labels])))
    return float(np.clip(MULTIPLE * loo / 1000, SMALLEST_SHARE * rms, LARGEST_SHARE * rms))


def _looked_at_until(session: Session, state: State, k: int) -> int:
    """The step at which a walker is labelled though its deviations are small, twice that of its last label.

    Deviations of a few labels are calibrated on what is alike, and only labels that were predicted before correct them:
    three labels of formate on copper had led 5 ps on forces that were off by 124 meV/Angstrom without another one.
    Doubling costs the logarithm of the steps. A look that failed counts: the walker would come to it again for ever.
    """
    own = [label.frame.info["step"] for label in session.labels if label.frame.info.get("walker") == k]
    last = max(*own, state.get("looked", {}).get(str(k), 0), 0)
    return int(max(2 * last, last + FIRST_GAP))


def _walk(session: Session, state: State, options: MdOptions, seed: int) -> Generator[Event, None, None]:
    """Let every walker go until it waits for a label or is at the end; what to label is in the state then."""
    started = time.perf_counter()
    # other noise after a failure: with the same, a walker comes to the structure that failed again
    noise = [seed, state["failures"]] if state["failures"] else [seed]
    if session.learner.potential is None:
        _first(session, state, options, noise)
        return
    threshold = threshold_of(session)
    waiting: list[tuple[int, dict[str, Any]]] = []
    for k, stored in enumerate(state["walkers"]):
        if _is_done(Walker(**stored), options):
            continue
        walker, predicted, reason = _until(session, Walker(**stored), k, options, noise, threshold, state)
        state["walkers"][k] = walker.as_dict()
        if predicted is not None:
            waiting.append((k, predicted))
            yield session.say(
                events.MOVED,
                f"walker {k}, step {walker.step} ({walker.step * options.timestep:g} fs): {reason}",
                walker=k,
                step=walker.step,
                n_labels=len(session.labels),
                temperature_k=temperature(walker.atoms),
                deviation_mev_per_angstrom=1000 * predicted["worst_std"],
                threshold_mev_per_angstrom=1000 * threshold,
                seconds=time.perf_counter() - started,
            )
    for k, predicted in _batch(session, state, waiting, options):
        walker = Walker(**state["walkers"][k])
        why = f"walker {k} at step {walker.step}"
        info = {"walker": k, "step": walker.step, "time_fs": walker.step * options.timestep}
        state["asks"].append(Ask(state["number"], walker.atoms.copy(), why, predicted, info).as_dict())
        state["number"] += 1


def _first(session: Session, state: State, options: MdOptions, noise: Sequence[int]) -> None:
    """The first labels: the walkers' beginnings, and structures to which the network alone leads."""
    count = min(FEWEST + 1 - len(session.labels), options.batch or FEWEST)
    for _ in range(count):
        k = state["number"] % options.walkers
        walker = Walker(**state["walkers"][k])
        if state["number"] >= 1:
            if walker.step >= options.steps:
                raise EndedError(
                    f"walker {k} came to the end of {options.steps} steps before there were the {FEWEST} labels that a "
                    "potential takes; go on with --resume and more --steps"
                )
            gap = max(1, min(FIRST_GAP, options.steps // (FEWEST + 1)))
            steps = min(walker.step + gap, options.steps)
            try:
                walker = _integrated(session.surface(), walker, steps, k, options, noise)
            except UnstableError as error:
                raise EndedError(f"the network alone cannot lead the dynamics: {error}") from error
            state["walkers"][k] = Walker(walker.atoms, walker.step, walker.atoms, walker.step).as_dict()
        predicted = session.predicted([still(walker.atoms)])[0]
        info = {"walker": k, "step": walker.step, "time_fs": walker.step * options.timestep}
        ask = Ask(state["number"], walker.atoms.copy(), f"walker {k} at step {walker.step}", predicted, info)
        state["asks"].append(ask.as_dict())
        state["number"] += 1


def _until(
    session: Session, walker: Walker, k: int, options: MdOptions, noise: Sequence[int], threshold: float, state: State
) -> tuple[Walker, dict[str, Any] | None, str]:
    """The walker where it waits, with what is predicted there and why; None at the end of the run."""
    surface = session.surface()
    checks = 0
    while True:
        (predicted,) = session.predicted([still(walker.atoms)])
        labelled = session.is_labelled(walker.atoms)
        if predicted["worst_std"] > threshold and not labelled:
            worst, own = predicted["worst_atom"], predicted["worst_atom_std"]
            limit = threshold * own / predicted["worst_std"]  # of its element, see stiffness
            text = f"deviation of the force on atom {worst} ({walker.atoms.symbols[worst]}) {1000 * own:.0f} meV/Å"
            return walker, predicted, f"{text}, past the threshold of {1000 * limit:.0f}"
        if walker.step >= _looked_at_until(session, state, k) and walker.step < options.steps and not labelled:
            state.setdefault("looked", {})[str(k)] = walker.step
            return walker, predicted, "as far again as at its last label: looked at, whatever the deviations say"
        walker = replace(walker, safe=walker.atoms.copy(), safe_step=walker.step, known=True)
        due = checks % FRAMES_EVERY == 0 or walker.step >= options.steps
        if due and walker.step > state["written"][k]:  # one that was sent back has its frame already
            _write(session, state, walker, k, options, predicted)
        if walker.step >= options.steps:
            return walker, None, ""
        state["walkers"][k] = walker.as_dict()
        session.journal.save_state(state)
        try:
            steps = min(walker.step + options.check, options.steps)
            walker = _integrated(surface, walker, steps, k, options, noise)
        except UnstableError as error:
            if labelled:
                raise EndedError(
                    f"walker {k} cannot go on from step {walker.step}, which is labelled: {error}"
                ) from error
            return walker, predicted, f"the run went wrong ({error})"
        checks += 1


def _integrated(surface: Any, walker: Walker, steps: int, k: int, options: MdOptions, noise: Sequence[int]) -> Walker:
    """The walker at a later step.

    Raises:
        UnstableError: when a force is not finite, or an atom would move absurdly far.
    """
    atoms = walker.atoms.copy()
    atoms.calc = surface
    integrator = _integrator(atoms, walker.step, k, options, noise)
    if options.ensemble == "npt":
        integrator.p_eps = walker.barostat
    for step in range(walker.step, steps):
        require_finite(atoms, step)
        refuse_leaps(atoms, options.timestep, step + 1)
        _set_temperature(integrator, step, options)
        integrator.run(1)
    require_finite(atoms, steps)
    atoms.calc = None
    return Walker(atoms, steps, walker.safe, walker.safe_step, float(getattr(integrator, "p_eps", 0.0)))


def _integrator(atoms: Atoms, step: int, k: int, options: MdOptions, noise: Sequence[int]) -> Any:
    timestep = options.timestep * units.fs
    if options.ensemble == "nve":
        return VelocityVerlet(atoms, timestep)
    friction = options.friction or FRICTION
    npt: dict[str, Any] = {}
    if options.ensemble == "npt":
        pressure = (options.pressure or 0.0) * units.GPa
        npt = {"externalstress": -pressure, "hydrostatic": True, "P_tau": PRESSURE_TIME * units.fs}
    return LangevinBAOAB(
        atoms,
        timestep,
        temperature_K=_temperature(step, options),
        T_tau=1000 * units.fs / friction,
        # of seed, failures, walker and step alone, so that a run that goes on draws the same
        rng=np.random.default_rng([*noise, k, step]),
        **npt,
    )


def _temperature(step: int, options: MdOptions) -> float:
    first, last = options.temperatures
    return first + (last - first) * min(step / options.steps, 1.0)


def _set_temperature(integrator: Any, step: int, options: MdOptions) -> None:
    if options.ensemble != "nve" and options.temperatures[0] != options.temperatures[1]:
        integrator.set_temperature(temperature_K=_temperature(step, options))


def _batch(
    session: Session, state: State, waiting: Sequence[tuple[int, dict[str, Any]]], options: MdOptions
) -> list[tuple[int, dict[str, Any]]]:
    """Those of the waiting walkers that say most, each given the ones before."""
    count = min(len(waiting), options.batch or max(1, options.walkers // 2))
    if count == len(waiting) or session.learner.potential is None:
        return list(waiting)
    pool = [still(state["walkers"][k]["atoms"]) for k, _ in waiting]
    try:
        chosen = select(session.learner.potential, pool, count).indices
    except MekrrError:  # copies of what is known: nothing to choose by
        return list(waiting)[:count]
    return [waiting[i] for i in chosen]


def _after(session: Session, state: State, asks: Sequence[Ask], options: MdOptions) -> None:
    """Send walkers back where their label says that they had gone wrong, and count failures.

    Raises:
        EndedError: after several failures in a row.
    """
    for ask in asks:
        k = ask.info["walker"]
        walker = Walker(**state["walkers"][k])
        label = session.label_of(ask.number)
        state["failures"] = 0 if label is not None else state["failures"] + 1
        if state["failures"] >= MOST_FAILURES or (label is None and not session.labels):
            raise EndedError(
                f"{state['failures']} structures in a row could not be labelled; the last: {last_failure(session)}"
            )
        if label is None or _had_gone_wrong(session, label):
            walker = Walker(walker.safe.copy(), walker.safe_step, walker.safe, walker.safe_step)
            state["walkers"][k] = walker.as_dict()
    state["asks"] = []


def _had_gone_wrong(session: Session, label: Label) -> bool:
    """Whether the error found is so large that the way there cannot be trusted."""
    if session.learner.potential is None or label.force_error is None or label.force_deviation is None:
        return False
    return label.force_error > WRONG * threshold_of(session)


def _write(
    session: Session, state: State, walker: Walker, k: int, options: MdOptions, predicted: dict[str, Any]
) -> None:
    """A frame of the walker's trajectory, whose size goes into the state: what a kill leaves behind it is cut off."""
    frame = walker.atoms.copy()
    frame.info = electrons(walker.atoms) | {
        "step": walker.step,
        "time_fs": walker.step * options.timestep,
        "temperature": temperature(walker.atoms),
        "energy_std": predicted["energy_std"],
        "predicted_energy": predicted["energy"],
        "worst_std": predicted["worst_std"],
        OWN_RESULTS: "learn md",
    }
    path = _trajectory(session, k)
    Trajectory(path).append(frame)
    state["sizes"][k] = path.stat().st_size
    state["written"][k] = walker.step


def _trajectory(session: Session, k: int) -> Path:
    return session.journal.folder / f"walker-{k}.extxyz"


def _outcome(session: Session, state: State, options: MdOptions) -> Outcome:
    last = tuple(walker["atoms"] for walker in state["walkers"])
    errors = [label.force_error for label in session.labels if label.force_deviation is not None]
    walkers = "1 walker" if options.walkers == 1 else f"{options.walkers} walkers"
    text = f"{walkers} made {options.steps} steps with {len(session.labels)} labels"
    return Outcome(text, last, {"steps": options.steps, "errors_ev_per_angstrom": errors})
