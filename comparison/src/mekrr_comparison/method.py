"""What a method is to a benchmark: fit, predict, and where its settings come from."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from ase import Atoms

from mekrr._version import __version__
from mekrr.data import Structure
from mekrr.potential import Prediction
from mekrr.shards import HERE, Shards

_OWN = "mekrr_comparison.own"
_SIMPLE = "mekrr_comparison.simple"
_PEERS = "mekrr_comparison.peers"

METHODS: dict[str, str] = {
    "mekrr": f"{_OWN}:Automatic",
    "mekrr-exact": f"{_OWN}:Exact",
    "mekrr-sparse": f"{_OWN}:Probed",
    "mekrr-paper": f"{_OWN}:Paper",
    "mekrr-paper-single": f"{_OWN}:PaperSingle",
    "backbone": f"{_SIMPLE}:BackboneAsItIs",
    "backbone+shifts": f"{_SIMPLE}:BackboneShifted",
    "linear": f"{_SIMPLE}:Linear",
    "schnet": f"{_PEERS}.schnet:SchNet",
    "schnet-finetuned": f"{_PEERS}.schnet:SchNetFinetuned",
    "gap": f"{_PEERS}.gap:Gap",
    "gap-forces": f"{_PEERS}.gap:GapForces",
    "franken": f"{_PEERS}.franken:Franken",
    "sevennet-finetuned": f"{_PEERS}.sevennet:SevenNetFinetuned",
}
"""Where each method lives, by the name used in tables; imported when asked for."""


@dataclass(frozen=True)
class Setup:
    """What every method is made with, whether it needs it or not.

    Attributes:
        backbone: a registered name, or name:path; for the methods that stand on one.
        cache: folder of computed features, None for none.
        seed: of everything random in the method.
        device: where networks compute.
        folder: a folder of the method's own for files it must write; removed afterwards. None: make a temporary one.
        options: that change the method's recommended settings, by name; a method refuses the ones it does not know.
    """

    backbone: str = "sevennet-0"
    cache: Path | None = None
    seed: int = 0
    device: str = "cpu"
    folder: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


class Method(ABC):
    """One way to get a potential from labelled structures, with its authors' recommended settings.

    A new object is made for each fit, in a process of its own. Errors are raised: the runner records them.

    Attributes:
        name: as in tables.
        requirement: the pip line that brings it, None when mekrr alone is enough.
        settings_from: where the recommended settings come from, a citation.
        needs_validation: whether it stops early or chooses by held-out structures. Otherwise the runner adds them to
            the training structures, so that every method sees the same labels.
        reads_features: whether a fit looks for features in the cache, so that its seconds may leave them out.
        takes_cluster: whether it computes on workers where `shards` has them.
        shards: who computes.
        capped: set by `fit` when the wall-clock cap ended it before its own end.
        seconds: filled by `fit` where it knows its stages, by name.
    """

    name: ClassVar[str]
    requirement: ClassVar[str | None] = None
    settings_from: ClassVar[str]
    needs_validation: ClassVar[bool] = True
    reads_features: ClassVar[bool] = False
    takes_cluster: ClassVar[bool] = False
    shards: Shards = HERE

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.capped = False
        self.seconds: dict[str, float] = {}

    @classmethod
    def available(cls) -> bool:
        """Whether everything it needs is installed; nothing heavy is imported to find out."""
        return True

    @classmethod
    def ready(cls, options: Mapping[str, Any]) -> bool:
        """Whether it can run with these options; some bring what is missing otherwise."""
        return cls.available()

    @classmethod
    def version(cls) -> str:
        """Of what decides the result beside the source and the versions of packages; another one is computed anew."""
        return __version__

    @abstractmethod
    def fit(self, training: Sequence[Structure], validation: Sequence[Structure], seconds: float | None) -> None:
        """Fit to labels in eV and eV/Angstrom.

        Args:
            training: with energies, most with forces.
            validation: for early stopping and the like; may be empty. Methods that need none do not look at it.
            seconds: wall-clock cap, None for none; a fit it ends early sets `self.capped`.

        Raises:
            Exception: whatever goes wrong; the runner records the message.
        """

    @abstractmethod
    def predict(self, atoms: Sequence[Atoms]) -> list[Prediction]:
        """One prediction a structure; forces and stress are None where the method has none."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that determines the result beside data and seed, as JSON; known before `fit`."""

    def chosen(self) -> dict[str, Any]:
        """What the fit chose by itself, as JSON; read after `fit`."""
        return {}


def method_class(name: str) -> type[Method]:
    """The method of that name, or the user's own as module:Class.

    Raises:
        ValueError: when there is none.
        ImportError: when its module cannot be imported.
    """
    check_method(name)
    module, _, attribute = METHODS.get(name, name).partition(":")
    return getattr(import_module(module), attribute)


def check_method(name: str) -> str:
    """The name itself.

    Raises:
        ValueError: when it is neither a name of METHODS nor written as module:Class.
    """
    if name not in METHODS and ":" not in name:
        raise ValueError(
            f"no method is called {name!r}; choose from {', '.join(METHODS)}, or give one of your own as module:Class"
        )
    return name
