"""An extended XYZ file that grows by whole frames and survives a kill."""

import io
import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import ase.io
import numpy as np
from ase import Atoms

from mekrr.errors import DataError
from mekrr.files import NO_LOCKS, claimed

SUFFIXES = (".extxyz", ".xyz")
NEEDED = ("step", "time_fs")
"""Keys of a frame without which a run cannot be continued."""

_PROPERTIES = re.compile(r"Properties=(\S+)")

SAME_ENERGY = 0.05
"""meV/atom: float32 rounding on another machine and eight decimals of the positions stay far below."""


@dataclass(frozen=True)
class Extent:
    """What a scan of a file found.

    Attributes:
        n_frames: whole ones.
        last: byte at which the last whole frame begins.
        end: byte after it; what follows is half a frame.
        size: bytes of the file.
    """

    n_frames: int
    last: int
    end: int
    size: int


class Trajectory:
    """Appends frames to an extended XYZ file, each by one write.

    Args:
        path: must not exist yet, unless the run is continued; made with the first frame.

    Raises:
        ValueError: when the name does not end in .extxyz or .xyz.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix not in SUFFIXES:
            raise ValueError(f"{path}: trajectories are extended XYZ; let the name end in {' or '.join(SUFFIXES)}")
        self.path = path
        self._held: IO[bytes] | None = None

    def hold(self) -> None:
        """Keep other runs from the file, made where it is missing, until `release`; nobody on a system without locks.

        Raises:
            DataError: when another run holds it.
        """
        if self._held is not None:
            return
        try:
            self._held = claimed(self.path)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            return
        if self._held is None:
            raise DataError(f"{self.path}: another run is writing to it; wait for its end, or choose another output")

    def release(self) -> None:
        """Let others have it."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def append(self, atoms: Atoms) -> None:
        """Write one frame; whatever goes wrong, the file keeps its whole frames only.

        Raises:
            OSError: when it cannot be written, as on a full disk.
        """
        text = exact_xyz(atoms)
        with open(self.path, "ab", buffering=0) as file:
            end = os.fstat(file.fileno()).st_size
            try:
                _write_all(file, text.encode())
            except BaseException as error:
                os.ftruncate(file.fileno(), end)
                if isinstance(error, OSError):
                    raise OSError(error.errno, error.strerror, str(self.path)) from error
                raise

    def recover(self) -> tuple[Atoms | None, int]:
        """The last whole frame, or None without one, and how many bytes of half a frame were cut off behind it.

        Raises:
            DataError: when the file is no extended XYZ.
        """
        if not self.path.exists():
            return None, 0
        with open(self.path, "rb") as file:
            extent = scan(file, self.path)
            file.seek(extent.last)
            text = file.read(extent.end - extent.last).decode()
        frame = _parse(text, self.path, extent.n_frames - 1) if extent.n_frames else None
        if extent.end < extent.size:
            os.truncate(self.path, extent.end)
        return frame, extent.size - extent.end


def exact_xyz(atoms: Atoms) -> str:
    """A frame of extended XYZ with all digits of positions and momenta; ASE writes eight decimals.

    A run that goes on from such a frame is bit for bit the run that was not interrupted.
    """
    text = io.StringIO()
    ase.io.write(text, atoms, format="extxyz")
    count, comment, *rows = text.getvalue().splitlines()
    columns = re.findall(r"([^:]+):([A-Z]):(\d+)(?::|$)", _PROPERTIES.findall(comment)[0])
    starts = itertools.accumulate((int(width) for *_, width in columns), initial=0)
    cells = [row.split() for row in rows]
    for (name, _, width), start in zip(columns, starts, strict=False):
        values = {"pos": atoms.positions, "momenta": atoms.arrays.get("momenta")}.get(name)
        for row, exact in zip(cells, () if values is None else values.tolist(), strict=False):
            row[start : start + int(width)] = map(repr, exact)
    return "\n".join([count, comment, *map(" ".join, cells)]) + "\n"


def scan(file: IO[bytes], path: Path) -> Extent:
    """Where the last whole frame of an extended XYZ file lies; a frame is whole once its last line has its end.

    Raises:
        DataError: where a number of atoms is expected and something else stands.
    """
    last = end = 0
    for n_frames in itertools.count():
        header = file.readline()
        if not header.endswith(b"\n"):
            return Extent(n_frames, last, end, end + len(header))
        if not header.strip().isdigit():
            raise DataError(
                f"{path}, index {n_frames}: expected a number of atoms, found {header[:40]!r}: no run of md"
            )
        lines = list(itertools.islice(file, int(header) + 1))
        size = len(header) + sum(map(len, lines))
        if len(lines) < int(header) + 1 or not lines[-1].endswith(b"\n"):
            return Extent(n_frames, last, end, end + size)
        last, end = end, end + size
    raise AssertionError("itertools.count does not end")


def continue_from(start: Atoms, frame: Atoms, path: Path) -> int:
    """Move `start` to where a run was when it wrote `frame`; its constraints and masses stay.

    Returns:
        The step of the frame.

    Raises:
        DataError: when the frame is not of a run of `start`.
    """
    if not np.array_equal(start.numbers, frame.numbers):
        raise DataError(
            f"{path} holds {frame.get_chemical_formula()}, START is {start.get_chemical_formula()}: it cannot be "
            "continued from there; give the START it was begun with, or another output"
        )
    missing = [key for key in NEEDED if key not in frame.info] + ["momenta"] * (not frame.has("momenta"))
    if missing:
        raise DataError(
            f"{path}: its last frame has no {', '.join(missing)}: no run of mekrr md; choose another output"
        )
    start.set_cell(frame.cell)
    start.pbc = frame.pbc
    start.positions = frame.positions
    start.set_momenta(frame.get_momenta(), apply_constraint=False)
    return int(frame.info["step"])


def require_same_energy(atoms: Atoms, energy: float, path: Path) -> None:
    """Refuse to continue a run with another potential than it was begun with.

    Args:
        atoms: at the last frame of `path`, with a calculator.
        energy: stored with that frame, eV.
        path: for the message.

    Raises:
        DataError: when the calculator's energy differs by more than `SAME_ENERGY`.
    """
    difference = 1000 * abs(atoms.get_potential_energy(apply_constraint=False) - energy) / len(atoms)
    if not difference <= SAME_ENERGY:
        raise DataError(
            f"{path} was begun with another model: its last energy differs by {difference:.3g} meV/atom from this "
            "model's; continue with the same model, or start anew from its last frame with another output"
        )


def _parse(text: str, path: Path, index: int) -> Atoms:
    try:
        return cast(Atoms, ase.io.read(io.StringIO(text), format="extxyz", index=0))
    except Exception as error:  # ase raises anything here
        raise DataError(f"{path}, index {index}: this frame is malformed ({error}); remove it") from error


def _write_all(file: io.RawIOBase, data: bytes) -> None:
    """A raw write may take less than it was given."""
    while data:
        data = data[file.write(data) or 0 :]
