"""Extended XYZ frame by frame.

The file is cut into frames here because ase seeks back and forth (minutes for a compressed file) and takes a blank line
for the end of the file, so that everything after it would be lost in silence. Plain frames are parsed in `frames.py`,
all others by ase.io.
"""

import io
import itertools
import re
import warnings
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.io.extxyz import key_val_str_to_dict
from ase.io.formats import open_with_compression

from mekrr.data.reading.frames import plain_frame
from mekrr.errors import DataError, MekrrWarning


def iter_xyz(path: Path) -> Iterator[Atoms]:
    """The frames of an .xyz or .extxyz file, which may be compressed.

    Raises:
        DataError: when the file is no XYZ file, a frame is cut short or cannot be parsed, or has other columns than it
            declares.
    """
    is_warned = False
    with open_with_compression(str(path), "rt") as file:
        for index, text in enumerate(map(_nine_numbers, _iter_frames(path, file))):
            atoms = plain_frame(text)
            if atoms is None:
                atoms, is_warned = _unusual_frame(path, index, text, is_warned)
            else:
                _refuse_misspelt(path, index, atoms)
            yield atoms


def _unusual_frame(path: Path, index: int, text: str, is_warned: bool) -> tuple[Atoms, bool]:
    """The frame by ase, and whether columns that nothing declares have been warned of."""
    atoms = _parse(path, index, text)
    declared, found = _columns(text)
    if declared is None and found and not is_warned:
        is_warned = True
        _warn_of_unread_columns(path, index, found[0])
    elif declared is not None and found:
        raise DataError(
            f"{path}, index {index}: Properties= declares {declared} columns, a row has {found[0]}; correct or "
            "remove this frame"
        )
    return atoms, is_warned


def _parse(path: Path, index: int, text: str) -> Atoms:
    try:
        atoms = cast(Atoms, ase.io.read(io.StringIO(text), format="extxyz", index=0))
    except Exception as error:  # ase raises anything here, from KeyError to AssertionError
        raise DataError(
            f"{path}, index {index}: this frame is malformed: {reason(error)}; correct or remove it"
        ) from error
    _refuse_misspelt(path, index, atoms)
    return atoms


def _refuse_misspelt(path: Path, index: int, atoms: Atoms) -> None:
    if misspelt := _misspelt(atoms):
        raise DataError(f"{path}, index {index}: {misspelt}; spell it so, or give another name to what it holds")


def _columns(text: str) -> tuple[int | None, list[int]]:
    """How many columns a frame declares, None where it does not, and how many its rows have if not so many.

    ase reads rows from the left and leaves the rest: a number too many would shift all columns behind it.
    """
    _, comment, *rows = text.split("\n")
    plain = _PROPERTIES.findall(comment)
    # ase's parser goes through a comment letter by letter, and does so for the labels anyway
    properties = plain[0] if len(plain) == 1 else key_val_str_to_dict(comment).get("Properties")
    declared = None if properties is None else sum(int(width) for width in str(properties).split(":")[2::3])
    counts = (len(row.split()) for row in rows if row.strip())
    return declared, [count for count in counts if count != (declared or _PLAIN_COLUMNS)]


def _warn_of_unread_columns(path: Path, index: int, count: int) -> None:
    warnings.warn(
        f"{path}, index {index}: its rows have {count} columns, and no Properties= says what they hold: element and "
        "position are read, the rest is not",
        MekrrWarning,
        stacklevel=2,
    )


_COUNT = re.compile(r"\d{1,18}")
_PLAIN_COLUMNS = 4
_PROPERTIES = re.compile(r"(?:^|\s)Properties=([\w:]+)(?=\s|$)")
_COLUMNS = re.compile(r"\w+:[SRIL]:\d+(:\w+:[SRIL]:\d+)*")
_TENSOR = re.compile(r"""(?<![\w-])(stress|virial)=(["'{\[])([^"'}\]]*)["'}\]]""")
_VOIGT = (0, 5, 4, 5, 1, 3, 4, 3, 2)  # of a symmetric matrix, row by row


def _nine_numbers(text: str) -> str:
    """A frame whose stress and virial of six numbers, in Voigt order, are written as the nine that ase wants."""
    count, _, rest = text.partition("\n")
    comment, _, rows = rest.partition("\n")

    def expanded(match: re.Match[str]) -> str:
        numbers = match[3].replace(",", " ").split()
        return f'{match[1]}="{" ".join(numbers[k] for k in _VOIGT)}"' if len(numbers) == 6 else match[0]

    return "\n".join([count, _TENSOR.sub(expanded, comment), rows])


def _misspelt(atoms: Atoms) -> str | None:
    """A key that was meant to be structural but is not, in words: ase reads such a key as one of many, and goes on."""
    for key, value in atoms.info.items():
        name = str(key)
        if isinstance(value, str) and _COLUMNS.fullmatch(value.strip()):
            return f"{name}= holds the names of columns, which is spelled Properties="
        if _resembles_cell(name.lower()) and not atoms.cell.any() and np.size(value) == 9:
            return f"{name}= holds a cell, which is spelled Lattice="
        if name.lower() == "pbc":
            return f"{name}= holds periodic directions, which is spelled pbc="
    return None


@lru_cache(maxsize=4096)
def _resembles_cell(name: str) -> bool:
    return name in ("lattice", "cell") or bool(get_close_matches(name, ["lattice"], cutoff=0.9))


def reason(error: Exception) -> str:
    """What a parser of ase complains of, in one line."""
    text = " ".join(str(error).split())[:200].rstrip(".")
    return f"unknown symbol or key {text}" if isinstance(error, KeyError) else text or type(error).__name__


def _iter_frames(path: Path, file: Iterator[str]) -> Iterator[str]:
    """The text of each frame."""
    for index in itertools.count():
        header = _header(path, index, file)
        if not header:
            return
        lines = list(itertools.islice(file, int(header) + 1))
        if len(lines) < int(header) + 1 or _ends_within_a_number(lines[1:]):
            complete = max(len(lines) - 2, 0)
            raise DataError(f"{path}, index {index}: truncated after {complete} of {int(header)} atoms; write it again")
        yield "".join([header, *lines])


def _header(path: Path, index: int, file: Iterator[str]) -> str:
    """The line with the number of atoms, or an empty string at the end of the file."""
    try:
        # a byte order mark, which some editors put at the start of a file, is no part of the number
        header = next((line for line in file if line.strip()), "").lstrip("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, index {index}: not UTF-8 text: rename the file to what it is, or convert it"
        ) from error
    # not isdigit, which is true of superscripts, and no more digits than Python counts lines with
    if header and not _COUNT.fullmatch(header.strip()):
        raise DataError(
            f"{path}, index {index}: expected a number of atoms, found {header.strip()[:40]!r}: damaged, or not XYZ"
        )
    return header


def _ends_within_a_number(lines: list[str]) -> bool:
    """Whether the last line has no newline and fewer decimals than all others, which agree on theirs."""
    if not lines or lines[-1].endswith("\n"):
        return False
    *others, last = [len(line.split()[-1].partition(".")[2]) if line.strip() else 0 for line in lines]
    return len(others) > 1 and len(set(others)) == 1 and last < others[0]


_SPECIAL = {name.lower() for name in (*all_properties, "virial", "Lattice", "Properties", "pbc")}


def info_to_write(info: Mapping[str, Any]) -> dict[str, Any]:
    """What of an `info` extended XYZ can hold beside results: numbers, truth values and text, on one line.

    Names that the format gives a meaning of its own are left out: they would replace the results, or the cell.
    """
    kept = {k: v for k, v in info.items() if isinstance(v, str | int | float | bool) and k.lower() not in _SPECIAL}
    return {k: "\\n".join(v.splitlines()) if isinstance(v, str) else v for k, v in kept.items()}
