"""The user's calculator: a function in a file of theirs that makes it."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mekrr.errors import LabelError


def split_name(name: str) -> tuple[Path, str]:
    """File and function of "FILE.py:function".

    Raises:
        LabelError: when the text has another form, or there is no such file.
    """
    file, colon, function = name.rpartition(":")
    if not colon or not function.isidentifier() or not file.endswith(".py"):
        raise LabelError(f"--calculator {name}: give FILE.py:function, a function that returns an ASE calculator")
    path = Path(file).absolute()
    if not path.is_file():
        raise LabelError(f"--calculator {name}: there is no file {file}")
    return path, function


def load_factory(name: str) -> Callable[[], Any]:
    """The function; its file is run, with its folder among those that are imported from.

    Raises:
        LabelError: when the file cannot be run, or has no such function.
    """
    path, function = split_name(name)
    spec = importlib.util.spec_from_file_location(f"mekrr_calculator_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file raises
        raise LabelError(f"{path} cannot be run: {described(error)}") from error
    found = getattr(module, function, None)
    if not callable(found):
        raise LabelError(f"{path} has no function {function}; it must return an ASE calculator")
    return found


def described(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
