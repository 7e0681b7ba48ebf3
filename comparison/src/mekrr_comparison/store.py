"""Results on disk: one JSON file a cell, whole or not at all."""

import json
import math
from pathlib import Path
from typing import Any

from mekrr.errors import DataError
from mekrr.files import atomic_path


def write_json(path: Path, record: Any) -> None:
    """Write a record; what JSON has no number for becomes null."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(_finite(record), indent=1, default=str) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any] | None:
    """The record, or None when there is none.

    Raises:
        DataError: when the file is damaged.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"{path}: not a result of a benchmark ({error}); delete it and run again") from error


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
