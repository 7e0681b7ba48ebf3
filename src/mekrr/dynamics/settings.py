"""What a run is asked to do, checked before anything is computed."""

import math
from dataclasses import dataclass

from mekrr.potential.record import Record

TIMESTEP = 0.5  # fs: about 18 steps in a period of the stiffest bond, O-H
FRICTION = 10.0  # 1/ps
TEMPERATURE = 300.0  # K

THRESHOLD_MULTIPLE = 3.0
"""The default threshold in leave-one-out deviations."""


@dataclass(frozen=True)
class Settings:
    """How to integrate, what to write and what to watch.

    Attributes:
        steps: of the whole run, those before a continuation included.
        timestep: fs.
        every: a frame is written each so many steps, and at the last one.
        thermostat: K; None integrates at constant energy (velocity Verlet), a temperature runs Langevin dynamics.
        friction: 1/ps; of the thermostat.
        seed: of the thermostat's noise, which depends on the seed and the step alone.
        threshold: meV/atom; deviations of the energy above it are counted, None counts none.
        stop: end the run at the first state past the threshold instead of warning of it.

    Raises:
        ValueError: for a value that makes no sense.
    """

    steps: int
    timestep: float = TIMESTEP
    every: int = 10
    thermostat: float | None = None
    friction: float = FRICTION
    seed: int = 0
    threshold: float | None = None
    stop: bool = False

    def __post_init__(self) -> None:
        _require_positive("the timestep", self.timestep, "fs")
        _require_positive("the number of steps", self.steps, "steps")
        _require_positive("the interval of frames", self.every, "steps")
        _require_positive("the friction", self.friction, "1/ps")
        if self.thermostat is not None:
            require_temperature(self.thermostat)
        if self.threshold is not None:
            _require_positive("the threshold", self.threshold, "meV/atom")
        if self.seed < 0:
            raise ValueError(f"the seed must not be negative; received {self.seed}")


def require_temperature(temperature: float) -> None:
    """Refuse a temperature that is none.

    Raises:
        ValueError: for one that is negative or not finite.
    """
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"the temperature must not be negative, in K; received {temperature}")


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


def _require_positive(name: str, value: float, unit: str) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive, in {unit}; received {value}")
