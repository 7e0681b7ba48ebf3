"""VASP output. ase.io parses it, but takes what a run that was cut short has written without a word; this does not.

Each ionic step tells whether its electronic loop converged: frames whose loop stopped at NELM carry
`info["scf_converged"] = False`, and `read_structures` decides what becomes of them. In runs that learn a force field
most steps are the force field's own; only those that DFT labelled are read.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import ase.io
from ase import Atoms
from ase.io.formats import open_with_compression
from ase.io.vasp import iread_vasp_out

from mekrr.data.reading.convergence import CONVERGED
from mekrr.errors import DataError

_ENERGY_BLOCK = "FREE ENERGIE OF THE ION-ELECTRON SYSTEM"
_LEARNED_BLOCK = "ML FREE ENERGIE"
_ITERATION = re.compile(r"Iteration\s+\d+\(\s*(\d+)\)")
_REACHED = "aborting loop because EDIFF is reached"
_NOT_REACHED = "EDIFF was not reached"
_ADVICE = "let the run finish, or convert the finished steps (`ase convert {name} steps.extxyz`) and check them"


class _Source(io.StringIO):
    """Text with the name of a file, beside which ase looks for the constraints of a CONTCAR."""

    name: str


def iter_outcar(path: Path) -> Iterator[Atoms]:
    """The ionic steps of an OUTCAR that DFT labelled; it may be compressed.

    Raises:
        DataError: when the file is no OUTCAR or ends within an ionic step.
    """
    content = _read(path).decode("utf-8", errors="replace")
    if "vasp." not in content[:2000]:
        raise DataError(f"{path} is not a VASP OUTCAR: its first lines do not name VASP; rename it to what it is")
    lines = content.splitlines(keepends=True)
    steps, end = _steps(lines)
    rest = "".join(lines[end:])
    if "General timing" not in rest and _ITERATION.search(rest):
        raise DataError(f"{path} is truncated: it ends within an ionic step; {_ADVICE.format(name=path.name)}")
    begin = next((k for k, line in enumerate(lines) if _ITERATION.search(line) or _LEARNED_BLOCK in line), len(lines))
    most = re.search(r"NELM\s*=\s*(\d+)", "".join(lines[:begin]))
    texts = ["".join(lines[first:last]) for first, last in steps]
    source = _Source("".join(lines[:begin]) + "".join(texts) + "".join(lines[end:]))
    source.name = str(path)
    frames = iread_vasp_out(source, index=slice(None))
    for text, atoms in zip(texts, frames, strict=True):
        if _stopped_at(text, int(most[1]) if most else None):
            atoms.info[CONVERGED] = False
        yield atoms


def _steps(lines: list[str]) -> tuple[list[tuple[int, int]], int]:
    """First and last lines, exclusive, of the steps that DFT labelled, and the line after the last of any kind."""
    found: list[tuple[int, int]] = []
    first = next((k for k, line in enumerate(lines) if _ITERATION.search(line)), 0)
    k = end = 0
    while k < len(lines):
        if _ENERGY_BLOCK in lines[k]:
            is_learned = _LEARNED_BLOCK in lines[k]
            end = k = _end_of_block(lines, k)
            found += [] if is_learned else [(first, end)]
            first = end
        k += 1
    return found, end


def _end_of_block(lines: list[str], start: int) -> int:
    """The line after the energies that follow a title."""
    for k in range(start + 1, min(start + 12, len(lines))):
        if "energy(sigma->0)" in lines[k] or "without entropy" in lines[k]:
            return k + 1
    return min(start + 1, len(lines))


def _stopped_at(step: str, most: int | None) -> bool:
    """Whether the electronic loop of a step of an OUTCAR ended because of NELM; False where nothing tells."""
    if _NOT_REACHED in step:
        return True
    if _REACHED in step:
        return False
    iterations = [int(n) for n in _ITERATION.findall(step)]
    return most is not None and bool(iterations) and max(iterations) >= most


def iter_vasprun(path: Path) -> Iterator[Atoms]:
    """The ionic steps of a vasprun.xml that DFT labelled; it may be compressed.

    Raises:
        DataError: when the file is no vasprun.xml or does not end.
    """
    content = _read(path)
    if b"<modeling>" not in content[:2000]:
        raise DataError(f"{path} is not a vasprun.xml: it has no <modeling> element; rename it to what it is")
    if b"</modeling>" not in content[-200:]:
        raise DataError(f"{path} is truncated: it does not end in </modeling>; {_ADVICE.format(name=path.name)}")
    root = ElementTree.fromstring(content)
    learns = (root.findtext(".//i[@name='ML_LMLFF']") or "").strip() == "T"
    most, tolerance = (root.findtext(f"parameters//i[@name='{name}']") for name in ("NELM", "EDIFF"))
    calculations = root.findall("calculation")
    frames = ase.io.iread(str(path.absolute()), ":", format="vasp-xml", do_not_split_by_at_sign=True)
    for calculation, atoms in zip(calculations, frames, strict=True):
        energies = [_last_energy(step) for step in calculation.findall("scstep")]
        if learns and not energies:
            continue
        if most and len(energies) >= int(most) and not _settled(energies, float(tolerance or 0.0)):
            atoms.info[CONVERGED] = False
        yield atoms


def _last_energy(step: ElementTree.Element) -> float:
    return float(step.findtext("energy/i[@name='e_fr_energy']") or "nan")


def _settled(energies: list[float], tolerance: float) -> bool:
    """Whether the last change of the energy is below EDIFF."""
    return len(energies) > 1 and abs(energies[-1] - energies[-2]) < tolerance


def _read(path: Path) -> bytes:
    with open_with_compression(str(path), "rb") as file:
        content: bytes = file.read()
        return content
