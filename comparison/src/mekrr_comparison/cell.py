"""One fit with its tests: what it is, and the key under which its result is kept."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mekrr.backbones.registry import entry_module
from mekrr.data import Structure
from mekrr.features import structure_hash
from mekrr.potential.record import versions
from mekrr_comparison.method import Setup, method_class
from mekrr_comparison.source import source_hash

FORMAT = 2  # raise it when the meaning of a result changes

WORKER = "mekrr_comparison.worker"


@dataclass(frozen=True, eq=False)
class Cell:
    """One fit of one method, and the sets it is tested on.

    Attributes:
        method: name.
        labels: what distinguishes it in tables, in the order of the columns.
        training: structures.
        validation: structures for methods that need them.
        tests: by name.
        seed: of split and method.
        backbone: for the methods that stand on one.
        options: of the method.
        cap: seconds a fit may take, None for no cap.
        device: where networks compute.
        cache: folder of features; None for none, so that times are honest.
        cluster: as --cluster says, for methods that take one; it changes seconds, not results.
        extra: what is measured beside errors: "" or "surface".
    """

    method: str
    labels: dict[str, Any]
    training: Sequence[Structure]
    validation: Sequence[Structure]
    tests: dict[str, Sequence[Structure]]
    seed: int = 0
    backbone: str = "sevennet-0"
    options: dict[str, Any] = field(default_factory=dict)
    cap: float | None = None
    device: str = "cpu"
    cache: Path | None = None
    cluster: str | None = None
    extra: str = ""

    def setup(self, folder: Path | None = None) -> Setup:
        """What the method is made with."""
        return Setup(self.backbone, self.cache, self.seed, self.device, folder, self.options)

    def description(self) -> dict[str, Any]:
        """Everything that determines the result, as JSON."""
        kind = method_class(self.method)
        return {
            "format": FORMAT,
            "method": self.method,
            "method_version": kind.version(),
            "source": source_hash(self.modules()),
            "settings": kind(self.setup()).settings(),
            "options": self.options,
            "backbone": _identity(self.backbone),
            "seed": self.seed,
            "training": data_hash(self.training),
            "validation": data_hash(self.validation),
            "tests": {name: data_hash(structures) for name, structures in self.tests.items()},
            "cap": self.cap,
            "device": self.device,
            "with_cache": self.cache is not None,
            "extra": self.extra,
            "versions": versions(),
        }

    def modules(self) -> tuple[str, ...]:
        """Where the code of the result begins: what fits and measures, the method, and its backbone's adapter."""
        adapter = entry_module(self.backbone.partition(":")[0])
        return (WORKER, method_class(self.method).__module__, *([adapter] if adapter else []))

    @property
    def key(self) -> str:
        """Hash of the description, without the cap: what ends by itself does not depend on it."""
        described = {name: value for name, value in self.description().items() if name != "cap"}
        text = json.dumps(described, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def data_hash(structures: Sequence[Structure]) -> str:
    """Hash of geometry, energies, forces, stress and weights."""
    digest = hashlib.sha256()
    for s in structures:
        digest.update(f"{structure_hash(s.atoms)} {s.energy!r} {s.weight!r}".encode())
        for label in (s.forces, s.stress):
            digest.update(b"-" if label is None else label.astype("<f8").tobytes())
    return digest.hexdigest()


def _identity(spec: str) -> str:
    """The name of a backbone, with the hash of the weights where they are the user's."""
    name, _, path = spec.partition(":")
    if not path or not Path(path).is_file():
        return spec
    return f"{name}:{hashlib.sha256(Path(path).read_bytes()).hexdigest()}"
