"""Settings of a peer: its recommended ones, with those that the user changes by name."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

Settings = TypeVar("Settings")


def with_options(recommended: Settings, options: Mapping[str, Any], method: str) -> Settings:
    """The recommended settings, a dataclass, with `options` in their place.

    Raises:
        ValueError: when an option is none of the settings, or of another type.
    """
    before = {setting.name: getattr(recommended, setting.name) for setting in fields(recommended)}  # type: ignore[arg-type]
    unknown = sorted(set(options) - set(before))
    if unknown:
        raise ValueError(f"{method} has no option {', '.join(unknown)}; its options are {', '.join(before)}")
    for name, value in options.items():
        if not _fits(value, before[name]):
            raise ValueError(f"{method}: {name} is one like {before[name]!r}; received {value!r}")
    return type(recommended)(**{**before, **options})


def _fits(value: Any, default: Any) -> bool:
    """Whether a value is of the kind of the default; anything fits where the default is None."""
    if default is None:
        return True
    if isinstance(default, str):
        return isinstance(value, str)
    numbers = int if isinstance(default, int) else (int, float)
    return isinstance(value, numbers) and not isinstance(value, bool) and value >= 0
