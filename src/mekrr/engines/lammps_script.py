"""Input files of LAMMPS with the lines `pair_style mekrr` and `pair_coeff * * ELEMENTS`, carried out."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mekrr.engines.lammps import FIX, Attached, carry_out
from mekrr.errors import EngineError

STYLE = ["pair_style", "mekrr"]
WANTED = (
    "write `pair_style mekrr` and, after the box is defined, `pair_coeff * * ELEMENTS` (the element of each atom type, "
    "in order; none to go by type labels or masses), each on a line of its own in the main file"
)


@dataclass(frozen=True)
class Script:
    """An input file, cut where the potential comes in.

    Attributes:
        before: text up to `pair_coeff`, without `pair_style mekrr`.
        elements: of the atom types as written, LAMMPS' variables not yet replaced; empty to find them out.
        after: the rest.
    """

    before: str
    elements: str
    after: str


def read_script(path: Path) -> Script:
    """Cut an input file at its lines for the potential.

    Raises:
        EngineError: when it has none, or they say what cannot be done.
        OSError: when it cannot be read.
    """
    lines = _logical_lines(path.read_text(encoding="utf-8", errors="surrogateescape"))
    words = [line.partition("#")[0].replace("&\n", " ").split() for line in lines]
    styles = [k for k, w in enumerate(words) if w[:1] == STYLE[:1] and "mekrr" in w]
    if not styles:
        raise EngineError(f"{path} does not say where the potential comes in: {WANTED}")
    if len(styles) > 1 or words[styles[0]] != STYLE:
        raise EngineError(
            f"{path}: `{' '.join(words[styles[-1]])}`: the potential is the whole interaction and takes no arguments; "
            "write `pair_style mekrr` once"
        )
    (style,) = styles
    coefficients = [k for k in range(style + 1, len(lines)) if words[k][:1] == ["pair_coeff"]]
    if not coefficients or words[coefficients[0]][1:3] != ["*", "*"]:
        raise EngineError(f"{path}: `pair_style mekrr` is not followed by `pair_coeff * *`: {WANTED}")
    cut = coefficients[0]
    return Script(
        before="".join(lines[:style] + lines[style + 1 : cut]),
        elements=" ".join(words[cut][3:]),
        after="".join(lines[cut + 1 :]),
    )


def run_script(lmp: Any, script: Script, attach: Callable[[list[str] | None], Attached]) -> Attached:
    """Carry out an input file.

    LAMMPS reads both parts from files, so that loops over labels work; a loop lies in one part.

    Args:
        lmp: an instance of one rank.
        script: from `read_script`.
        attach: called with the elements, or None to find them out, when the potential comes in.

    Raises:
        EngineError: for what LAMMPS refuses.
        DataError, ValueError, UnstableError, OSError: what stopped the potential.
    """
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before", Path(folder) / "after"
        for path, text in ((before, script.before), (after, script.after)):
            path.write_text(text, encoding="utf-8", errors="surrogateescape")
        carry_out(lmp.file, str(before))
        attached = attach(_expanded(lmp, script.elements).split() or None)
        attached.file(after)
    return attached


def _expanded(lmp: Any, text: str) -> str:
    """Text of the input with LAMMPS' variables replaced."""
    if "$" not in text:
        return text
    carry_out(lmp.command, f'variable {FIX}_elements string "{text}"')
    return str(lmp.extract_variable(f"{FIX}_elements"))


def _logical_lines(text: str) -> list[str]:
    """Lines with their ends; those that go on after `&` stay together."""
    found: list[str] = []
    for line in text.splitlines(keepends=True):
        if found and found[-1].rstrip().endswith("&"):
            found[-1] = found[-1].rstrip() + "\n" + line
        else:
            found.append(line)
    return found
