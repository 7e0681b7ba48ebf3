"""Learning while computing: relaxations, reaction paths and dynamics that label what they need to know."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mekrr.learning.events import Event
    from mekrr.learning.options import LabelOptions, MdOptions, NebOptions, RelaxOptions
    from mekrr.learning.run import learn

_HOME = {
    "Event": "mekrr.learning.events",
    "LabelOptions": "mekrr.learning.options",
    "MdOptions": "mekrr.learning.options",
    "NebOptions": "mekrr.learning.options",
    "RelaxOptions": "mekrr.learning.options",
    "learn": "mekrr.learning.run",
}

__all__ = ["Event", "LabelOptions", "MdOptions", "NebOptions", "RelaxOptions", "learn"]


def __getattr__(name: str) -> Any:
    """Imported when first used: the calculator's process lives in this room and needs no torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'mekrr.learning' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
