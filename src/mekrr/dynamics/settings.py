"""How a run is integrated and written, checked before anything is computed."""

import math
from dataclasses import dataclass

from mekrr.declared import option

TIMESTEP = 0.5  # fs: about 18 steps in a period of the stiffest bond, O-H
FRICTION = 10.0  # 1/ps
TEMPERATURE = 300.0  # K


@dataclass(frozen=True)
class Settings:
    """How to integrate and what to write.

    Attributes:
        steps: of the whole run, those before a continuation included.
        timestep: fs.
        every: a frame is written each so many steps, and at the last one.
        thermostat: K; None integrates at constant energy (velocity Verlet), a temperature runs Langevin dynamics.
        friction: 1/ps; of the thermostat.
        seed: of the thermostat's noise, which depends on the seed and the step alone.

    Raises:
        ValueError: for a value that makes no sense.
    """

    steps: int = option(1000, "steps in all, those before a --resume included", "--steps")
    timestep: float = option(TIMESTEP, "fs", "--timestep")
    every: int = option(10, "write a frame each so many steps", "--every")
    thermostat: float | None = None
    friction: float = FRICTION
    seed: int = option(0, "of drawn velocities and of the thermostat's noise", "--seed")

    def __post_init__(self) -> None:
        _require_positive("the timestep", self.timestep, "fs")
        _require_positive("the number of steps", self.steps, "steps")
        _require_positive("the interval of frames", self.every, "steps")
        _require_positive("the friction", self.friction, "1/ps")
        if self.thermostat is not None:
            require_temperature(self.thermostat)
        if self.seed < 0:
            raise ValueError(f"the seed must not be negative; received {self.seed}")


def require_temperature(temperature: float) -> None:
    """Refuse a temperature that is none.

    Raises:
        ValueError: for one that is negative or not finite.
    """
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"the temperature must not be negative, in K; received {temperature}")


def _require_positive(name: str, value: float, unit: str) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive, in {unit}; received {value}")
