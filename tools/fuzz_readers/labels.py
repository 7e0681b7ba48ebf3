"""Where a text file holds its labels, and changes that leave every byte of them as it is.

Label text are the names of labels, their values, and the titles of the blocks that hold them, each with one byte on
either side. A file changed nowhere there must give the labels of the sound file, be refused, or be remarked upon: what
stands elsewhere may not shift, hide or exchange labels without a word.

Binary formats are left out: in a database or a trajectory one byte of an offset or a type moves a label, and nothing in
the file contradicts it.
"""

import random
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mekrr.data import Structure, inspect_report, read_structures, validate
from mekrr.data.reading.drawer import origin_of

Span = tuple[int, int]

_PAIR = re.compile(rb"""([^\s="]+)=("[^"]*"|\S+)""")
_COLUMNS = re.compile(rb"(\w+):[SRIL]:(\d+)")
_OUTCAR_LINE = re.compile(rb"[^\n]*(TOTAL-FORCE|ION-ELECTRON|TOTEN|sigma->0|in kB)[^\n]*\n")
_OUTCAR_TABLE = re.compile(rb"TOTAL-FORCE[^\n]*\n -+\n(.*?)\n -", re.DOTALL)
_THREE_NUMBERS = re.compile(rb"(?:\S+\s+){2}\S+[ \t]*$", re.MULTILINE)
_VASPRUN_BLOCK = re.compile(rb'<varray name="(?:forces|stress)".*?</varray>|<energy>.*?</energy>', re.DOTALL)


def spans_of(name: str, content: bytes) -> list[Span] | None:
    """Where the label text of a sound file is, first and last byte (exclusive); None for a format that is left out."""
    find = _FORMATS.get(next((word for word in _FORMATS if word in name), ""))
    return None if find is None else [(max(first - 1, 0), last + 1) for first, last in find(content)]


def _extxyz(content: bytes) -> Iterator[Span]:
    lines = content.splitlines(keepends=True)
    starts = np.cumsum([0, *map(len, lines)]).tolist()
    k = 0
    while k < len(lines):
        n_atoms, start = int(lines[k]), starts[k + 1]
        labelled: list[tuple[int, int]] = []
        for pair in _PAIR.finditer(lines[k + 1]):
            if _is_label(pair[1]):
                yield start + pair.start(), start + pair.end()
            if pair[1] == b"Properties":
                column = 0
                for piece in _COLUMNS.finditer(pair[2]):
                    if _is_label(piece[1]):
                        labelled.append((column, column + int(piece[2])))
                        yield start + pair.start(2) + piece.start(), start + pair.start(2) + piece.end()
                    column += int(piece[2])
        for row in range(k + 2, k + 2 + n_atoms):
            words = list(re.finditer(rb"\S+", lines[row]))
            yield from ((starts[row] + words[a].start(), starts[row] + words[b - 1].end()) for a, b in labelled)
        k += n_atoms + 2


def _is_label(key: bytes) -> bool:
    return origin_of(f"info:{key.decode()}") is not None


def _outcar(content: bytes) -> Iterator[Span]:
    yield from (line.span() for line in _OUTCAR_LINE.finditer(content))
    for table in _OUTCAR_TABLE.finditer(content):
        for numbers in _THREE_NUMBERS.finditer(table[1]):
            yield table.start(1) + numbers.start(), table.start(1) + numbers.end()


def _vasprun(content: bytes) -> Iterator[Span]:
    yield from (block.span() for block in _VASPRUN_BLOCK.finditer(content))


_FORMATS: dict[str, Callable[[bytes], Iterator[Span]]] = {"xyz": _extxyz, "OUTCAR": _outcar, "vasprun": _vasprun}


def changed_elsewhere(content: bytes, spans: list[Span], draw: random.Random) -> bytes:
    """The content with one to three changes outside of the spans: bytes put in place, in between or out, or a line."""
    is_free = np.ones(len(content) + 1, dtype=bool)
    for first, last in spans:
        is_free[first:last] = False
    edits: dict[int, tuple[int, bytes]] = {}
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        first, last, new = draw.choice((_replace, _insert, _remove, _line))(content, draw)
        if is_free[first : last + 1].all() and not any(k in edits for k in range(first, last + 1)):
            edits[first] = (last, new)
    for first in sorted(edits, reverse=True):
        last, new = edits[first]
        content = content[:first] + new + content[last:]
    return content


def _replace(content: bytes, draw: random.Random) -> tuple[int, int, bytes]:
    k = draw.randrange(len(content))
    return k, k + 1, _byte(draw)


def _insert(content: bytes, draw: random.Random) -> tuple[int, int, bytes]:
    k = draw.randrange(len(content))
    return k, k, draw.choice((_byte(draw), b"nan", b"-", b"1 2 3 ", b"\n", b" ", b'"', b"\\", b"="))


def _remove(content: bytes, draw: random.Random) -> tuple[int, int, bytes]:
    k = draw.randrange(len(content))
    return k, min(k + draw.randint(1, 4), len(content)), b""


def _line(content: bytes, draw: random.Random) -> tuple[int, int, bytes]:
    """A line twice, or not at all."""
    k = draw.randrange(len(content))
    first, end = content.rfind(b"\n", 0, k) + 1, content.find(b"\n", k) + 1 or len(content)
    return first, end, content[first:end] * draw.choice((0, 2))


def _byte(draw: random.Random) -> bytes:
    return bytes([draw.choice((draw.randrange(256), *(draw.randrange(32, 127) for _ in range(4))))])


@dataclass(frozen=True)
class Reading:
    """What came of a file: its structures, and all that was said about them."""

    structures: list[Structure]
    said: frozenset[str]

    @staticmethod
    def of(path: Path) -> "Reading":
        """Read, validate and sum up, as `mekrr inspect` does.

        Raises:
            DataError: as the reader does.
        """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            structures = read_structures(path, require_energy=False)
        issues = validate(structures)
        inspect_report(structures, issues)
        said = {str(warning.message) for warning in caught} | {issue.message for issue in issues}
        return Reading(structures, frozenset(text.replace(str(path.parent), "") for text in said))

    def has_labels_of(self, other: "Reading") -> bool:
        """Whether energies, forces and stress are the same, structure by structure."""
        return len(self.structures) == len(other.structures) and all(
            _equal(getattr(a, label), getattr(b, label))
            for a, b in zip(self.structures, other.structures, strict=True)
            for label in ("energy", "forces", "stress")
        )


def _equal(a: object, b: object) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True))
