"""Settings of a peer: its recommended ones, with those that the user changes by name."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

Settings = TypeVar("Settings")


def with_options(recommended: Settings, options: Mapping[str, Any], method: str) -> Settings:
    """The recommended settings, a dataclass, with `options` in their place.

    Raises:
        ValueError: when an option is none of the settings.
    """
    known = [setting.name for setting in fields(recommended)]  # type: ignore[arg-type]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"{method} has no option {', '.join(unknown)}; its options are {', '.join(known)}")
    return type(recommended)(**{**vars(recommended), **options})
