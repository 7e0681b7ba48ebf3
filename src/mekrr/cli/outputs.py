"""Checks of output paths before minutes are spent."""

import os
from pathlib import Path


def require_writable(path: Path) -> None:
    """Refuse an output that could not be written.

    Raises:
        OSError: when its folder is missing or read-only, or the path is a folder.
    """
    folder = path.parent
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file to write")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; make it, or choose another output")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder}: cannot be written; choose another output")


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
