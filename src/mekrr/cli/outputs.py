"""Checks of output paths before minutes are spent: one place for every command."""

import os
from collections.abc import Iterable
from pathlib import Path

from mekrr.files import is_same_file, regular_target

MODEL_SUFFIXES = (".safetensors", ".st", "")
PAGE_SUFFIXES = (".html", ".htm")
TRAJECTORY_SUFFIXES = (".extxyz", ".xyz")
STRUCTURE_SUFFIXES = (
    *(text + compression for text in TRAJECTORY_SUFFIXES for compression in ("", ".gz", ".bz2", ".xz")),
    ".traj",
    ".db",
    ".json",
)


def require_output(path: Path, suffixes: tuple[str, ...], inputs: Iterable[Path | str | None] = ()) -> None:
    """Refuse an output that could not be written, would destroy an input, or whose name says something else.

    Args:
        path: as given.
        suffixes: of what the command writes; "" allows a name without one.
        inputs: files the command reads; None is skipped, and so is what does not exist.

    Raises:
        OSError: when its folder is missing or read-only, or the path is no regular file.
        ValueError: when the suffix is another, or the path leads to an input.
    """
    require_writable(path, inputs)
    suffix_of(path, suffixes)


def require_writable(path: Path, inputs: Iterable[Path | str | None] = ()) -> None:
    """Refuse an output that could not be written or would destroy an input, whatever its name says.

    Raises:
        OSError, ValueError: see `require_output`.
    """
    target = regular_target(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder; make it, or choose another output")
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(f"{path.parent}: cannot be written; choose another output")
    for given in inputs:
        if given is not None and Path(given).exists() and is_same_file(target, Path(given)):
            raise ValueError(f"{path} is the input {given}: it would be overwritten; choose another output")


def require_apart(path: Path, other: Path) -> None:
    """Refuse two outputs of one command that are one file, there or not.

    Raises:
        OSError: when `path` is no regular file.
        ValueError: when both lead to the same.
    """
    if is_same_file(regular_target(path), other):
        raise ValueError(f"{path} is the output {other} too: choose another file for one of them")


def require_new(path: Path) -> None:
    """Refuse a file that is there already: what is written to it is added frame by frame.

    Raises:
        FileExistsError: when it is.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists: choose another file for structures to be labelled")


def suffix_of(path: Path, suffixes: tuple[str, ...]) -> str:
    """The one of `suffixes` that the name ends in, whatever its case.

    Raises:
        ValueError: when it ends in none.
    """
    name = path.name.lower()
    found = [suffix for suffix in suffixes if suffix and name.endswith(suffix) and name != suffix]
    if not found and "" in suffixes and "." not in name.strip(".") and name != "-":
        found = [""]
    if not found:
        known = ", ".join(suffix or "no suffix" for suffix in suffixes)
        raise ValueError(f"{path}: the suffix says what is written, and must be one of {known}; choose another name")
    return max(found, key=len)


def require_folder(path: Path) -> None:
    """Make an output folder.

    Raises:
        OSError: when it cannot be made or written.
    """
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file; give a folder")
    path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK):
        raise PermissionError(f"{path}: cannot be written; choose another folder")
