"""What the page is made of."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ase import Atoms


@dataclass(frozen=True)
class Story:
    """What a run's folder holds.

    Attributes:
        task: relax, neb or md.
        folder: its name.
        lines: of the journal.
        labels: frames of the file of labels.
        result: what was found; empty while the run is going on.
        walkers: frames of each walker's trajectory.
        options: of the task.
    """

    task: str
    folder: str
    lines: Sequence[dict[str, Any]]
    labels: Sequence[Atoms]
    result: Sequence[Atoms] = ()
    walkers: Sequence[Sequence[Atoms]] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """Lines of one kind."""
        return [line for line in self.lines if line["kind"] == kind]
