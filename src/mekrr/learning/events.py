"""What a run says while it goes: each event is a sentence for people and numbers for programs."""

from dataclasses import dataclass, field
from typing import Any

from ase import Atoms

BEGUN = "begun"
WAITING = "waiting"
ASKED = "asked"
LABELLED = "labelled"
FAILED = "label-failed"
MODEL = "model"
MOVED = "moved"
REMARK = "remark"
CONVERGED = "converged"
STOPPED = "stopped"
TO_LABEL = "to-label"

ENDS = (CONVERGED, STOPPED, TO_LABEL)
"""The last event of a run is one of these: it reached its goal, it ended without, or it waits for labels."""


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        kind: one of the constants above.
        text: a sentence.
        numbers: what the sentence is about, for JSON; units stand in the names.
        structures: labelled ones, the structures to label, or the result; empty where there are none.
    """

    kind: str
    text: str
    numbers: dict[str, Any] = field(default_factory=dict)
    structures: tuple[Atoms, ...] = ()
