"""VASP output. ase.io parses it, but takes what a run that was cut short has written without a word; this does not."""

from collections.abc import Iterator
from pathlib import Path

import ase.io
from ase import Atoms
from ase.io.formats import open_with_compression

from mekrr.errors import DataError

_ENERGY_BLOCK = b"FREE ENERGIE OF THE ION-ELECTRON SYSTEM"
_STEP_MARKS = (b"Iteration", b"POSITION    ")
_ADVICE = "let the run finish, or convert the finished steps (`ase convert {name} steps.extxyz`) and check them"


def iter_outcar(path: Path) -> Iterator[Atoms]:
    """The ionic steps of an OUTCAR, which may be compressed.

    Raises:
        DataError: when the file is no OUTCAR or ends within an ionic step.
    """
    content = _read(path)
    if b"vasp." not in content[:2000]:
        raise DataError(f"{path} is not a VASP OUTCAR: its first lines do not name VASP; rename it to what it is")
    rest = content.rpartition(_ENERGY_BLOCK)[2]
    if b"General timing" not in rest and any(mark in rest for mark in _STEP_MARKS):
        raise DataError(f"{path} is truncated: it ends within an ionic step; {_ADVICE.format(name=path.name)}")
    yield from _iread(path, "vasp-out")


def iter_vasprun(path: Path) -> Iterator[Atoms]:
    """The ionic steps of a vasprun.xml, which may be compressed.

    Raises:
        DataError: when the file is no vasprun.xml or does not end.
    """
    content = _read(path)
    if b"<modeling>" not in content[:2000]:
        raise DataError(f"{path} is not a vasprun.xml: it has no <modeling> element; rename it to what it is")
    if b"</modeling>" not in content[-200:]:
        raise DataError(f"{path} is truncated: it does not end in </modeling>; {_ADVICE.format(name=path.name)}")
    yield from _iread(path, "vasp-xml")


def _read(path: Path) -> bytes:
    with open_with_compression(str(path), "rb") as file:
        content: bytes = file.read()
        return content


def _iread(path: Path, format: str) -> Iterator[Atoms]:
    return ase.io.iread(str(path.absolute()), ":", format=format, do_not_split_by_at_sign=True)
