"""Learning while computing: relaxations, reaction paths and dynamics that label what they need to know."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mekrr.learn.events import Event
    from mekrr.learn.options import LabelOptions, MdOptions, NebOptions, RelaxOptions
    from mekrr.learn.run import learn

_HOME = {
    "Event": "mekrr.learn.events",
    "LabelOptions": "mekrr.learn.options",
    "MdOptions": "mekrr.learn.options",
    "NebOptions": "mekrr.learn.options",
    "RelaxOptions": "mekrr.learn.options",
    "learn": "mekrr.learn.run",
}

__all__ = ["Event", "LabelOptions", "MdOptions", "NebOptions", "RelaxOptions", "learn"]


def __getattr__(name: str) -> Any:
    """Imported when first used: the calculator's process lives in this room and needs no torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'mekrr.learn' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
