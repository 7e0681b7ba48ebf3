"""Watching the deviation of a run, our own or another program's: a threshold, a count, structures to label, a stop."""

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr.data import OWN_RESULTS
from mekrr.data.reading.electrons import electrons
from mekrr.declared import option
from mekrr.dynamics.stability import refuse_nonfinite
from mekrr.dynamics.trajectory import Trajectory
from mekrr.errors import MekrrWarning, ThresholdPassedError
from mekrr.potential.record import Record
from mekrr.typing import Float, ndarray

THRESHOLD_MULTIPLE = 3.0
"""The default threshold in leave-one-out deviations."""

AUTO, NONE = "auto", "none"
WARN, STOP = "warn", "stop"
SPACING = 100
"""Evaluations between two structures that are kept: those in between are nearly the same."""


@dataclass(frozen=True)
class WatchOptions:
    """What to watch for, and what to do then.

    Attributes:
        threshold: meV/atom; "auto": three leave-one-out deviations of the training; "none": no deviations.
        on_threshold: "warn" or "stop".
        label_to: extended XYZ file for structures past the threshold; None keeps none.
        label_every: evaluations between two of them; None for 100.

    Raises:
        ValueError: for a value that makes no sense, or one without effect.
    """

    threshold: str | float = option(
        AUTO,
        "deviation of the energy to watch for, meV/atom; auto: from the training errors; none: compute no deviations",
        "--threshold",
        (AUTO, NONE),
    )
    on_threshold: str = option(WARN, "what to do past it: warn (once, and count) or stop", "--on-threshold")
    label_to: str | None = option(None, "file for structures past it, to be labelled (.extxyz)", "--label-to")
    label_every: int | None = option(
        None, f"evaluations between two of them at least; {SPACING} if not given", "--label-every"
    )

    def __post_init__(self) -> None:
        if self.on_threshold not in (WARN, STOP):
            raise ValueError(f"--on-threshold is {WARN} or {STOP}; received {self.on_threshold!r}")
        if isinstance(self.threshold, str):
            if self.threshold not in (AUTO, NONE):
                raise ValueError(f"--threshold takes a number, {AUTO} or {NONE}; received {self.threshold!r}")
        elif not 0 < self.threshold < float("inf"):
            raise ValueError(f"--threshold must be positive, in meV/atom; received {self.threshold}")
        if self.label_every is not None and self.label_every < 1:
            raise ValueError(f"--label-every must be at least 1; received {self.label_every}")
        self._refuse_without_effect()

    def _refuse_without_effect(self) -> None:
        if self.label_every is not None and self.label_to is None:
            raise ValueError("--label-every has no effect without --label-to, the file it is about")
        if self.threshold == NONE and (self.on_threshold == STOP or self.label_to is not None):
            raise ValueError(f"--threshold {NONE} computes no deviations: there is nothing to stop at or to write")

    @property
    def deviations(self) -> bool:
        """Whether deviations of the energy are needed."""
        return self.threshold != NONE


@runtime_checkable
class Results(Protocol):
    """What is known of a state."""

    @property
    def energy(self) -> float:
        """EV."""

    @property
    def forces(self) -> Float[ndarray, "atoms 3"]:
        """EV/Angstrom."""

    @property
    def energy_std(self) -> float | None:
        """Calibrated standard deviation of the energy, eV; None where none was computed."""


class Deviations:
    """What the deviations of a run came to, beside a threshold.

    Args:
        threshold: meV/atom; None counts none.

    Attributes:
        max_deviation: meV/atom; None without deviations.
        max_deviation_step: where it was met.
        past: states whose deviation exceeds the threshold.
    """

    def __init__(self, threshold: float | None) -> None:
        self.threshold = threshold
        self.max_deviation: float | None = None
        self.max_deviation_step: int | None = None
        self.past = 0

    def take(self, step: int, deviation: float | None) -> bool:
        """Take one deviation of the energy, meV/atom; whether it is past the threshold."""
        if deviation is None:
            return False
        if self.max_deviation is None or deviation > self.max_deviation:
            self.max_deviation, self.max_deviation_step = deviation, step
        past = self.threshold is not None and deviation > self.threshold
        self.past += past
        return past

    def warn_once(self, where: str, deviation: float) -> None:
        """Name the first state past the threshold, and no other.

        Args:
            where: "step 12", in the words of the run.
            deviation: meV/atom, already taken.
        """
        if self.past == 1:
            warnings.warn(
                f"{where}: the deviation of the energy, {deviation:.3g} meV/atom, is past the threshold of "
                f"{self.threshold:.3g}: the structure is unlike the training data. Later ones are counted, not named",
                MekrrWarning,
                stacklevel=3,
            )


class Watch:
    """What becomes of the deviations of a run.

    Args:
        options: see there.
        record: of the potential, from which the threshold "auto" follows; None where it is not needed.
        continued: whether the run goes on from an earlier one, whose structures to label are kept.

    Attributes:
        figures: threshold, largest deviation, states past the threshold.
        stop: end the run at the first state past the threshold.
        n_written: structures kept.
        stopped: whether the run was asked to end.

    Raises:
        ValueError: when no threshold follows from the training, or the name of the file is no extended XYZ.
        FileExistsError: when the file for structures is there already, and nothing is continued.
    """

    def __init__(self, options: WatchOptions, record: Record | None = None, continued: bool = False) -> None:
        threshold = options.threshold
        self._automatic = threshold == AUTO
        if self._automatic:
            if record is None:
                raise ValueError(
                    "the threshold auto follows from the training: give the potential's record, or a number"
                )
            threshold = default_threshold(record)
        self.figures = Deviations(None if isinstance(threshold, str) else threshold)
        self.stop = options.on_threshold == STOP
        self.n_written = 0
        self.stopped = False
        if options.label_to is not None and Path(options.label_to).exists() and not continued:
            raise FileExistsError(f"{options.label_to} exists: choose another file for structures to be labelled")
        self._file = None if options.label_to is None else Trajectory(Path(options.label_to))
        self._spacing = options.label_every or SPACING
        # Counted here: an engine may set its own number of the step back.
        self._n_seen = self._next_written = 0

    def see(self, atoms: Atoms, found: Results, step: int) -> bool:
        """Take one state; whether the run shall stop.

        Args:
            atoms: the structure.
            found: what was found for it.
            step: the engine's number of the step, or of the evaluation.

        Raises:
            UnstableError: when an energy or force is not finite.
            OSError: when a structure cannot be written.
        """
        refuse_nonfinite(atoms, found.energy, found.forces, f"step {step}")
        deviation = per_atom(found)
        self._n_seen += 1
        if not self.figures.take(step, deviation):
            return False
        assert deviation is not None
        if self._file is not None and self._n_seen >= self._next_written:
            self._file.append(labelled_by_nobody(atoms, found, step))
            self._next_written = self._n_seen + self._spacing
            self.n_written += 1
        if not self.stop:
            self.figures.warn_once(f"step {step}", deviation)
        self.stopped = self.stop
        return self.stop

    def see_or_raise(self, atoms: Atoms, found: Results, step: int) -> None:
        """Take one state, for an engine that an exception alone can stop.

        Raises:
            ThresholdPassedError: when the run shall stop.
            UnstableError, OSError: see `see`.
        """
        if self.see(atoms, found, step):
            raise ThresholdPassedError(
                f"step {step}: the deviation of the energy, {per_atom(found):.3g} meV/atom, is past the threshold of "
                f"{self.figures.threshold:.3g}, at which the run was to stop"
            )

    def announcement(self) -> str:
        """What is watched for, in words."""
        if self.figures.threshold is None:
            return "no deviations are computed"
        source = "3 leave-one-out deviations of the training; " if self._automatic else ""
        past = "the run stops" if self.stop else "a warning"
        return f"threshold: {self.figures.threshold:.3g} meV/atom ({source}past it: {past})"

    def as_dict(self) -> dict[str, Any]:
        """The figures, for JSON."""
        figures = self.figures
        return {
            "max_deviation_mev_per_atom": figures.max_deviation,
            "max_deviation_step": figures.max_deviation_step,
            "threshold_mev_per_atom": figures.threshold,
            "steps_past_threshold": figures.past,
            "structures_to_label": self.n_written,
            "stopped_at_threshold": self.stopped,
        }

    def lines(self) -> list[str]:
        """The figures in words, one sentence a line; none without deviations."""
        figures = self.figures
        if figures.threshold is None or figures.max_deviation is None:
            return []
        lines = [
            f"largest deviation of the energy: {figures.max_deviation:.3g} meV/atom (step {figures.max_deviation_step})"
        ]
        lines.append(f"{figures.past} steps past the threshold of {figures.threshold:.3g} meV/atom")
        if self._file is not None:
            path, n = self._file.path, self.n_written
            lines.append(
                f"wrote {n} structures to label to {path}" if n else f"nothing to label: {path} was not written"
            )
        return lines


def per_atom(found: Results) -> float | None:
    """Deviation of the energy, meV/atom."""
    return None if found.energy_std is None else 1000 * found.energy_std / len(found.forces)


def labelled_by_nobody(atoms: Atoms, found: Results, step: int) -> Atoms:
    """A copy to write: what the potential found is marked as its own, so that no fit takes it for labels."""
    copy = atoms.copy()
    copy.info = electrons(atoms) | {"step": step, "energy_std": found.energy_std, OWN_RESULTS: "watch"}
    copy.calc = SinglePointCalculator(copy, energy=found.energy, forces=found.forces)
    return copy


def default_threshold(record: Record) -> float:
    """The deviation of the energy, in meV/atom, past which a structure is unlike the training data.

    Three leave-one-out deviations of the training structures; of a refined network, of structures held out.

    Args:
        record: of a fitted potential.

    Raises:
        ValueError: when that is zero or not a number.
    """
    deviation, seen = record.usual_error
    if not (math.isfinite(deviation) and deviation > 0):
        raise ValueError(
            f"the model records a deviation of {deviation} meV/atom of {seen}, so no threshold follows from its "
            "training: give one, in meV/atom (--threshold)"
        )
    return THRESHOLD_MULTIPLE * deviation
