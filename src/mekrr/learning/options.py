"""What a run is asked to do, checked before anything is computed."""

import math
from dataclasses import dataclass

from mekrr.declared import option
from mekrr.dynamics.settings import FRICTION, TIMESTEP

LABELS = 100
FMAX = 0.05  # eV/Angstrom, as in ASE's optimisers


@dataclass(frozen=True)
class LabelOptions:
    """How labels are made.

    Attributes:
        labels: at most, those before a continuation included.
        timeout: seconds for one; None for no limit.

    Raises:
        ValueError: for a value that makes no sense.
    """

    labels: int = option(LABELS, "at most so many labels, those before a --resume included", "--labels")
    timeout: float | None = option(None, "seconds for one label; no limit if not given", "--timeout")

    def __post_init__(self) -> None:
        if self.labels < 1:
            raise ValueError(f"--labels must be at least 1; received {self.labels}")
        if self.timeout is not None:
            _positive("--timeout", self.timeout, "seconds")


@dataclass(frozen=True)
class RelaxOptions:
    """A relaxation at a fixed cell.

    Attributes:
        fmax: eV/Angstrom; converged when no DFT force of the last label is larger.
    """

    fmax: float = option(FMAX, "eV/Å; converged when no DFT force of the last label is larger", "--fmax")

    def __post_init__(self) -> None:
        _positive("--fmax", self.fmax, "eV/Angstrom")


@dataclass(frozen=True)
class NebOptions:
    """A reaction path.

    Attributes:
        fmax: eV/Angstrom; of the DFT forces on the climbing image.
        images: between START and END.
        path_deviation: eV; of the energies along the path.
        vibrations: look at the potential's vibrations of the saddle.
    """

    fmax: float = option(FMAX, "eV/Å; of the DFT forces on the climbing image", "--fmax")
    images: int = option(5, "images between START and END", "--images")
    path_deviation: float = option(0.05, "eV; done when no energy along the path is less certain", "--path-deviation")
    vibrations: bool = option(
        False,
        "count the imaginary frequencies of the saddle, with the potential",
        "--vibrations",
        switch="--vibrations",
    )

    def __post_init__(self) -> None:
        _positive("--fmax", self.fmax, "eV/Angstrom")
        _positive("--path-deviation", self.path_deviation, "eV")
        if self.images < 1:
            raise ValueError(f"--images must be at least 1; received {self.images}")


ENSEMBLES = ("nve", "nvt", "npt")


@dataclass(frozen=True)
class MdOptions:
    """Dynamics.

    Attributes:
        ensemble: nve, nvt (Langevin) or npt (Langevin, isotropic barostat).
        temperature: K, or "T1:T2" for a ramp over the run.
        pressure: GPa; of npt.
        steps: of each walker.
        timestep: fs.
        friction: 1/ps.
        walkers: copies of START with velocities of their own.
        batch: structures labelled at once, chosen among the walkers'; None for half of the walkers.
        check: steps between two looks at the deviations of forces.
    """

    ensemble: str = option("nvt", "nve, nvt (Langevin) or npt (Langevin and an isotropic barostat)", "--ensemble")
    temperature: str = option("300", "K, or T1:T2 for a ramp over the run", "--temperature")
    pressure: float | None = option(None, "GPa; of npt; 0 if not given", "--pressure")
    steps: int = option(2000, "of each walker", "--steps")
    timestep: float = option(TIMESTEP, "fs", "--timestep")
    friction: float | None = option(None, f"1/ps; of nvt and npt; {FRICTION:g} if not given", "--friction")
    walkers: int = option(1, "copies of START, each with velocities of its own", "--walkers")
    batch: int | None = option(
        None, "labels at once, chosen among the walkers' structures; half of the walkers if not given", "--batch"
    )
    check: int = option(10, "steps between two looks at the deviations of forces", "--check")

    def __post_init__(self) -> None:
        if self.ensemble not in ENSEMBLES:
            raise ValueError(f"--ensemble is one of {', '.join(ENSEMBLES)}; received {self.ensemble!r}")
        _positive("--timestep", self.timestep, "fs")
        for name in ("steps", "walkers", "check"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1; received {getattr(self, name)}")
        if self.batch is not None and not 1 <= self.batch <= self.walkers:
            raise ValueError(f"--batch must lie between 1 and the {self.walkers} --walkers; received {self.batch}")
        if self.pressure is not None and self.ensemble != "npt":
            raise ValueError("--pressure belongs to --ensemble npt; leave it out, or take that one")
        if self.friction is not None and self.ensemble == "nve":
            raise ValueError("--friction belongs to a thermostat; leave it out, or take --ensemble nvt or npt")
        if self.friction is not None:
            _positive("--friction", self.friction, "1/ps")
        _ = self.temperatures

    @property
    def temperatures(self) -> tuple[float, float]:
        """At the first step and at the last.

        Raises:
            ValueError: for anything but one or two temperatures.
        """
        words = str(self.temperature).split(":")
        try:
            found = [float(word) for word in words]
        except ValueError:
            found = []
        if len(found) not in (1, 2) or not all(math.isfinite(t) and t > 0 for t in found):
            raise ValueError(f"--temperature is a number of K or T1:T2; received {self.temperature!r}")
        if len(found) == 2 and self.ensemble == "nve":
            raise ValueError("a ramp of the temperature needs a thermostat: take --ensemble nvt or npt")
        return found[0], found[-1]


def _positive(name: str, value: float, unit: str) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive, in {unit}; received {value}")
