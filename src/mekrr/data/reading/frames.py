"""Frames of extended XYZ written as most programs write them, parsed in a fifth of ase's time.

ase goes through the line of keys letter by letter and makes a tuple of each row. A frame whose line of keys is nothing
but key=value and key="value", without escapes and brackets, and whose rows are text and numbers, needs neither. What
comes back is what ase makes of it, types and order included; of any other frame nothing comes back, and ase reads it.
"""

import re
from copy import copy
from functools import lru_cache
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.io.extxyz import (
    SPECIAL_3_3_KEYS,
    UNPROCESSED_KEYS,
    key_val_str_to_dict,
    parse_properties,
    set_calc_and_arrays,
)

_NAME, _BARE, _QUOTED = r"[A-Za-z_][A-Za-z0-9_-]*", r"""[^\s"'{}\[\]\\=]+""", r"""[^"\\\n]+"""
_PAIR = re.compile(rf'({_NAME})=(?:({_BARE})|"({_QUOTED})")(?:\s+|\Z)')
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DTYPES: dict[type, Any] = {str: object, int: "i", float: "d"}  # of ase's columns
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)


def plain_frame(text: str) -> Atoms | None:
    """The frame as ase reads it; None where it is not as plain as that, or where ase would refuse it.

    Args:
        text: number of atoms, line of keys, and so many rows.
    """
    count, comment, *lines = text.removesuffix("\n").split("\n")
    try:
        info = _keys(comment.strip())
        layout = None if info is None else _layout(str(info.pop("Properties", "")))
        if info is None or layout is None or len(lines) != int(count):
            return None
        arrays = _arrays(lines, layout)
        return None if arrays is None else _atoms(info, arrays)
    except Exception:  # ase will say what is wrong
        return None


def _keys(comment: str) -> dict[str, Any] | None:
    """Keys and values in their order, or None for what is not plain."""
    info: dict[str, Any] = {}
    end = 0
    while pair := _PAIR.match(comment, end):
        name, bare, quoted = pair.groups()
        text = bare or quoted
        if name in info or text.startswith("_JSON "):
            return None
        info[name] = _value(name, text)
        end = pair.end()
    return info if end == len(comment) else None


def _value(name: str, text: str) -> Any:
    """What ase makes of a value: a number, numbers, truth values or text."""
    parts = text.replace(",", " ").split()
    numeric = all(map(_NUMBER.fullmatch, parts)) and not all(map(_INTEGER.fullmatch, parts))
    if not numeric or name.lower() in UNPROCESSED_KEYS:
        return copy(_other_value(name, text))
    numbers = np.array(parts, dtype=float)
    if name in SPECIAL_3_3_KEYS:
        return numbers.reshape((3, 3), order="F")
    return numbers[0] if len(numbers) == 1 else numbers


@lru_cache(maxsize=4096)
def _other_value(name: str, text: str) -> Any:
    """By ase: text, truth values and integers, of which a file has few that differ."""
    return key_val_str_to_dict(f'{name}="{text}"')[name]


@lru_cache(maxsize=256)
def _layout(properties: str) -> list[tuple[str, int, type]] | None:
    """Names as ase has them, widths and types of the columns; None for other types than text and numbers."""
    if not properties:
        return None
    by_name, names, _, converters = parse_properties(properties)
    if any(converter not in (str, int, float) for converter in converters):
        return None
    found, column = [], 0
    for name in names:
        ase_name, width = by_name[name]
        found.append((ase_name, width, converters[column]))
        column += width
    is_usual = all(width > 0 and name != "move_mask" for name, width, _ in found)
    return found if is_usual else None


def _arrays(lines: list[str], layout: list[tuple[str, int, type]]) -> dict[str, np.ndarray] | None:
    """Columns by name; None where a row has another number of them."""
    rows = [line.split() for line in lines]
    width = sum(width for _, width, _ in layout)
    if not rows or any(len(row) != width for row in rows):
        return None
    columns = list(zip(*rows, strict=True))
    arrays, start = {}, 0
    for name, width, kind in layout:
        dtype = _DTYPES[kind]
        parts = [list(map(kind, column)) for column in columns[start : start + width]]
        arrays[name] = np.array(parts[0] if width == 1 else parts, dtype=dtype).T
        start += width
    return arrays


def _atoms(info: dict[str, Any], arrays: dict[str, np.ndarray]) -> Atoms:
    """As ase makes them of keys and columns."""
    pbc = info.pop("pbc", [True] * 3 if "Lattice" in info else None)
    cell = info.pop("Lattice").T if "Lattice" in info else None
    numbers: Any = arrays.pop("numbers", None)
    symbols = arrays.pop("symbols", None)
    if numbers is None and symbols is not None:
        numbers = [atomic_numbers[symbol.capitalize()] for symbol in symbols]
    atoms = Atoms(
        numbers,
        positions=arrays.pop("positions", None),
        charges=arrays.pop("initial_charges", None),
        cell=cell,
        pbc=pbc,
        info=info,
    )
    set_calc_and_arrays(atoms, arrays)
    return atoms
