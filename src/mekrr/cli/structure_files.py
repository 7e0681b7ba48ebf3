"""Structures to files: the suffix decides the format, and all of a frame goes into each."""

import bz2
import gzip
import io
import json
import lzma
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.db import connect
from ase.io.extxyz import key_val_dict_to_str, key_val_str_to_dict
from ase.io.trajectory import TrajectoryWriter

from mekrr.cli.outputs import STRUCTURE_SUFFIXES, suffix_of
from mekrr.files import atomic_path
from mekrr.potential import MekrrWarning

_ASE_ARRAYS = {"numbers", "positions", "tags", "momenta", "masses", "initial_magmoms", "initial_charges"}
"""Columns that a trajectory or a database keeps; others go to `info`, or to `data`."""

_DB_RESULTS = {"energy", "free_energy", "forces", "stress", "dipole", "charges", "magmom", "magmoms"}
# Of gzip: no time and no name, so that the same structures are the same bits.
_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def write_structures(path: Path, frames: Sequence[Atoms]) -> None:
    """Write frames with their results, `info` and arrays in the format of the suffix; whole or not at all.

    Args:
        path: ends in one of STRUCTURE_SUFFIXES.
        frames: results in single-point calculators.

    Raises:
        ValueError: for another suffix.
        OSError: when the file cannot be written.
    """
    suffix = suffix_of(path, STRUCTURE_SUFFIXES)
    with atomic_path(path) as temporary:
        if suffix == ".traj":
            _write_trajectory(temporary, frames)
        elif suffix in (".db", ".json"):
            _write_database(temporary, frames, suffix.removeprefix("."))
        else:
            compress = _COMPRESS.get(Path(suffix).suffix, bytes)
            temporary.write_bytes(compress(_xyz(frames).encode()))


def _xyz(frames: Sequence[Atoms]) -> str:
    text = io.StringIO()
    ase.io.write(text, [_in_lines(atoms) for atoms in frames], format="extxyz")
    return text.getvalue()


def _in_lines(atoms: Atoms) -> Atoms:
    """With the texts that a frame's one line of keys can hold; those of several lines are put on one."""
    texts = {key: value for key, value in atoms.info.items() if isinstance(value, str)}
    unfit = [key for key, value in texts.items() if not _fits(key, value)]
    if not unfit:
        return atoms
    kept = atoms.copy()
    kept.calc = atoms.calc
    for key in unfit:
        kept.info[key] = " ".join(texts[key].split())
        if not _fits(key, kept.info[key]):
            del kept.info[key]
            warnings.warn(f"extended XYZ cannot hold {key}={texts[key]!r}: left out", MekrrWarning, stacklevel=2)
    return kept


def _fits(key: str, text: str) -> bool:
    """Whether a text and the key behind it are both found again."""
    if text.splitlines() != [text]:
        return False
    try:
        found = key_val_str_to_dict(key_val_dict_to_str({key: text, "behind": 1}))
    except Exception:  # ase's parser raises anything
        return False
    return key in found and bool(found.get("behind") == 1)


def _write_trajectory(path: Path, frames: Sequence[Atoms]) -> None:
    with TrajectoryWriter(path, "w") as writer:
        for atoms in frames:
            kept = atoms.copy()
            kept.calc = atoms.calc
            kept.info |= _columns(atoms)
            writer.write(kept)


def _write_database(path: Path, frames: Sequence[Atoms], kind: str) -> None:
    path.unlink()  # a database is not begun in an empty file
    with connect(str(path.absolute()), type=kind, append=False, use_lock_file=False) as database:
        for atoms in frames:
            results = {} if atoms.calc is None else atoms.calc.results
            beside = {name: value for name, value in results.items() if name not in _DB_RESULTS}
            database.write(atoms, data=_plain(atoms.info) | _columns(atoms) | beside)


def _columns(atoms: Atoms) -> dict[str, np.ndarray]:
    """Arrays that these formats have no place for."""
    return {name: array for name, array in atoms.arrays.items() if name not in _ASE_ARRAYS | set(all_properties)}


def _plain(info: dict) -> dict:
    """What JSON can hold."""
    return {key: value for key, value in info.items() if isinstance(value, np.ndarray) or _is_json(value)}


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
