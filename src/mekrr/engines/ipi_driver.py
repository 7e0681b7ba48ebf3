"""A force field within i-PI 3.3, its `<ffdirect>`: all beads of a step in one batch, and no socket.

i-PI loads this file by its path, which `python -m mekrr.engines.ipi_driver` prints. What is wrong ends i-PI's process
with a sentence: a traceback through i-PI's threads would leave it hanging.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from mekrr.dynamics import read_start
from mekrr.dynamics.watch import Watch, WatchOptions
from mekrr.engines.evaluator import Evaluator
from mekrr.engines.ipi import Answer, Provider
from mekrr.errors import MekrrError
from mekrr.potential import KernelPotential, Wanted
from mekrr.typing import Float, ndarray

OLDEST = (3, 3)
INSTALL = 'pip install "mekrr[ipi]", or pip install ipi'


def require_version(version: str) -> None:
    """End with a sentence where i-PI is too old: batches and its soft exit are other things there."""
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise SystemExit(f"error: mekrr's driver needs i-PI 3.3 or later, here is {version}: {INSTALL}")


try:
    from ipi import __version__ as ipi_version
    from ipi.pes.dummy import Dummy_driver
    from ipi.utils.softexit import softexit
except ImportError as missing:
    raise SystemExit(f"error: i-PI 3.3 or later is not installed here ({missing}): {INSTALL}") from missing
require_version(ipi_version)

__DRIVER_NAME__ = "mekrr"
__DRIVER_CLASS__ = "MekrrDriver"

STOPPED_CODE = 3
FAILURES = (MekrrError, ValueError, OSError)
KINDS = {"index": int, "threads": int, "label_every": int, "forces_std": bool, "trust_checkpoint": bool}
WORDS = {int: "a whole number", bool: "True or False"}
OF_IPI = {"verbose", "verbosity"}
"""What i-PI itself adds to the parameters."""


@dataclass(frozen=True)
class DriverOptions(WatchOptions):
    """What stands in `<parameters>`, beside what is watched for.

    Attributes:
        model: file of the potential.
        template: file with the structure that i-PI starts from: elements, and along which axes it is periodic.
        index: which structure of it.
        threads: that PyTorch may use.
        forces_std: whether the deviation of each force component is to be among the extras.
        device: where the backbone computes.
        trust_checkpoint: see KernelPotential.
    """

    model: str = ""
    template: str = ""
    index: int = -1
    threads: int = 1
    forces_std: bool = False
    device: str = "auto"
    trust_checkpoint: bool = False


class MekrrDriver(Dummy_driver):
    """Evaluates what i-PI asks for, a structure or a list of them.

    Args:
        *args: none.
        **kwargs: fields of DriverOptions.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            self._options = _options(args, kwargs)
            self._provider = _provider(self._options)
        except FAILURES as error:
            raise SystemExit(f"error: {error}") from error
        super().__init__(kwargs.get("verbose", False))
        softexit.register_function(self._say)

    def compute(self, cell: Any, pos: Any) -> Any:
        """Energy, forces, virial and extras in atomic units; a list of them for lists.

        Args:
            cell: Bohr, vectors as columns, or a list.
            pos: Bohr, or a list.
        """
        several = isinstance(cell, list)
        try:
            answers = self._provider(cell if several else [cell], pos if several else [pos])
        except FAILURES as error:
            _end(f"error: {error}", "bad", 1)
        if self._provider.watch.stopped:
            _end("the deviation of the energy passed the threshold", "restartable", STOPPED_CODE)
        found = [_tuple(answer) for answer in answers]
        return found if several else found[0]

    def compute_structure(self, cell: Any, pos: Any) -> Any:
        """As `compute`, for one."""
        return self.compute(cell, pos)

    def _say(self) -> None:
        """What was watched, when i-PI ends."""
        for line in self._provider.lines():
            print(f" @mekrr: {line}", flush=True)


def _options(args: Sequence[Any], given: dict[str, Any]) -> DriverOptions:
    """Parameters from i-PI's input.

    Raises:
        ValueError: for those that are none, or make no sense.
    """
    names = [one.name for one in fields(DriverOptions)]
    unknown = [str(name) for name in args] + sorted(given.keys() - OF_IPI - set(names))
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no parameter of mekrr's; those are {', '.join(names)}")
    for name in ("model", "template"):
        if not given.get(name):
            raise ValueError(f"{name} is missing: <parameters>{{ model: model.safetensors, template: start.extxyz }}")
    kept = {name: value for name, value in given.items() if name in names}
    for name, kind in KINDS.items():
        if not isinstance(kept.get(name, kind()), kind):
            raise ValueError(f"{name}: {kept[name]!r} is not {WORDS[kind]}")
    if isinstance(kept.get("threshold"), int):
        kept["threshold"] = float(kept["threshold"])
    return DriverOptions(**kept)


def _provider(options: DriverOptions) -> Provider:
    template, _ = read_start(Path(options.template), options.index)
    potential = KernelPotential.load(options.model, options.device, options.trust_checkpoint)
    wanted = Wanted(energy_std=options.deviations, forces_std=options.forces_std)
    evaluator = Evaluator(potential, wanted, options.threads)
    return Provider(evaluator, template, Watch(options, potential.fitted_.record))


def _end(sentence: str, status: str, code: int) -> NoReturn:
    """End i-PI: its restart file is written, and its other threads are told."""
    print(f" @mekrr: {sentence}", flush=True)
    softexit.cleanup(status, f"mekrr: {sentence}")
    raise SystemExit(code)


def _tuple(answer: Answer) -> tuple[Float[ndarray, ""], Float[ndarray, "atoms 3"], Float[ndarray, "3 3"], str]:
    return np.asarray(answer.energy), answer.forces, answer.virial, answer.extras


if __name__ == "__main__":
    print(Path(__file__).resolve())
