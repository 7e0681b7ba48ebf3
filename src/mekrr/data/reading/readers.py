"""Files to structures: extended XYZ, ASE trajectories and databases, ASE-LMDB, VASP output, what else ase.io reads."""

import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import ase.io
from ase import Atoms
from ase.io.formats import UnknownFileTypeError, open_with_compression, string2index

from mekrr.data.reading.convergence import check_policy, without_unconverged
from mekrr.data.reading.databases import iter_db, iter_json, iter_lmdb
from mekrr.data.reading.drawer import FOUND
from mekrr.data.reading.labels import LabelKeys, from_ase, require_named, why_no_energy
from mekrr.data.reading.structure import Structure
from mekrr.data.reading.vasp import iter_outcar, iter_vasprun
from mekrr.data.reading.xyz import iter_xyz, reason
from mekrr.errors import DataError, MekrrWarning

_COMPRESSIONS = (".gz", ".bz2", ".xz")
PathLike = str | Path


def read_structures(
    path: PathLike | Sequence[PathLike],
    keys: LabelKeys | None = None,
    index: str | int | slice = ":",
    require_energy: bool = True,
    strict: bool = True,
) -> list[Structure]:
    """The structures of one file, or of several one after another.

    Args:
        path: .xyz and .extxyz (plain, .gz, .bz2, .xz), .traj, .db, .aselmdb, OUTCAR, vasprun.xml, or any other file
            that `ase.io.read` knows.
        keys: names and units of the labels; by default the usual places are searched.
        index: which structures of each file, as in `ase.io.read`.
        require_energy: False where labels are not needed.
        strict: False for structures to predict: labels that cannot be read are left out with a warning, and a structure
            whose electronic loop did not converge stays.

    Raises:
        DataError: when a file is missing, empty, truncated, not what its name says, holds no structure, or a structure
            has no energy although `require_energy`, or no structure has a key that is named.
    """
    paths = [path] if isinstance(path, str | Path) else list(path)
    keys = keys or LabelKeys()
    keys.factors()
    check_policy(keys.unconverged)
    structures = [s for one in paths for s in _read_file(Path(one), keys, index, strict)]
    require_named(structures, keys)
    if require_energy:
        _require_energies(structures, keys)
    return structures


def _read_file(path: Path, keys: LabelKeys, index: str | int | slice, strict: bool) -> list[Structure]:
    chosen = _as_slice(index)
    _check_file(path)
    frames = _chosen(_guarded(path), chosen)
    structures = [from_ase(atoms, keys, str(path), i, strict) for i, atoms in frames]
    if not structures:
        raise DataError(f"{path} holds no structure at index {index!r}: choose another index or check the file")
    if strict:
        return without_unconverged(structures, keys.unconverged)
    _warn_of_unread(structures)
    return structures


def _warn_of_unread(structures: Sequence[Structure]) -> None:
    unread = [reasons for s in structures if (reasons := s.info[FOUND].get("unread"))]
    if unread:
        warnings.warn(
            f"labels of {len(unread)} of {len(structures)} structures cannot be read and are left out: {unread[0][0]}",
            MekrrWarning,
            stacklevel=4,
        )


def _as_slice(index: str | int | slice) -> slice:
    try:
        parsed = string2index(index) if isinstance(index, str) else index
        return parsed if isinstance(parsed, slice) else slice(int(parsed), int(parsed) + 1 or None)
    except ValueError as error:
        raise DataError(f"index {index!r} is not a number or a slice such as '10:20' or '::5'") from error


def _chosen(frames: Iterable[Atoms], chosen: slice) -> Iterator[tuple[int, Atoms]]:
    """The frames of the slice with their positions in the file; stops early where it can."""
    bounds = (chosen.start, chosen.stop, chosen.step)
    if all(b is None or b >= 0 for b in bounds):
        return itertools.islice(enumerate(frames), chosen.start, chosen.stop, chosen.step)
    return iter(list(enumerate(frames))[chosen])


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise DataError(f"{path} is a folder: name the file or files in it")
    if not path.exists():
        raise DataError(f"{path} does not exist: check the name (the working folder is {Path.cwd()})")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path} cannot be opened: ask its owner for permission to read it")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty: check the program that wrote it")


def _guarded(path: Path) -> Iterator[Atoms]:
    """The frames of a file; whatever goes wrong in a parser becomes a DataError that says after how many frames."""
    kind, read = _reader_of(path)
    count = 0
    try:
        for atoms in read(path):
            yield atoms
            count += 1
    except DataError:
        raise
    except Exception as error:  # parsers of damaged files raise anything, MemoryError for a damaged length too
        raise DataError(
            f"{path}, index {count}: cannot be read as {kind}: {reason(error)}; the file is truncated, damaged or not "
            f"{kind}: repair it, or give it the suffix of what it is"
        ) from error


def _reader_of(path: Path) -> tuple[str, Callable[[Path], Iterator[Atoms]]]:
    """What the name says the file is, and how to read that."""
    name = path.name
    for compression in _COMPRESSIONS:
        name = name.removesuffix(compression)
    suffix = Path(name).suffix.lower()
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    if "OUTCAR" in name:
        return "a VASP OUTCAR", iter_outcar
    if "vasprun" in name:
        return "a VASP vasprun.xml", iter_vasprun
    return f"a {suffix} file" if suffix else "any format that ase knows", _iter_other


def _iter_traj(path: Path) -> Iterator[Atoms]:
    if not _head(path).startswith(b"- of Ulm"):
        raise DataError(f"{path} is not an ASE trajectory (or one of before 2015): rename or convert it")
    yield from ase.io.iread(_plain(path), ":", format="traj", do_not_split_by_at_sign=True)


def _iter_other(path: Path) -> Iterator[Atoms]:
    _warn_of_guessed_elements(path)
    try:
        yield from ase.io.iread(_plain(path), ":", do_not_split_by_at_sign=True)
    except UnknownFileTypeError as error:
        raise DataError(
            f"{path}: ase reads no files of this kind: give extended XYZ, an ASE trajectory or database, an OUTCAR or "
            "a vasprun.xml"
        ) from error


def _warn_of_guessed_elements(path: Path) -> None:
    """A LAMMPS dump without elements numbers its types, and ase takes type 1 for hydrogen."""
    head = _head(path).decode("utf-8", errors="replace")
    columns = next((line for line in head.splitlines() if line.startswith("ITEM: ATOMS")), "").split()
    if columns and "element" not in columns:
        warnings.warn(
            f"{path}: this LAMMPS dump names no elements, so its types are guesses: type 1 is read as H, type 2 as He; "
            "dump with the column element (dump_modify element ...)",
            MekrrWarning,
            stacklevel=2,
        )


def _head(path: Path) -> bytes:
    with open_with_compression(str(path), "rb") as file:
        return file.read(2000)


def _plain(path: Path) -> str:
    """Absolute, so that ase never takes a name for an address of a database server."""
    return str(path.absolute())


_BY_SUFFIX: dict[str, tuple[str, Callable[[Path], Iterator[Atoms]]]] = {
    ".xyz": ("extended XYZ", iter_xyz),
    ".extxyz": ("extended XYZ", iter_xyz),
    ".traj": ("an ASE trajectory", _iter_traj),
    ".db": ("an ASE database", iter_db),
    ".json": ("an ASE JSON database", iter_json),
    ".aselmdb": ("an ASE-LMDB", iter_lmdb),
    ".lmdb": ("an ASE-LMDB", iter_lmdb),
}


def _require_energies(structures: Sequence[Structure], keys: LabelKeys) -> None:
    missing = [s for s in structures if s.energy is None]
    if missing:
        raise DataError(_no_energy_message(missing, keys.energy))


def _no_energy_message(missing: Sequence[Structure], key: str | None = None) -> str:
    """What to say about structures without an energy, the first of which is named."""
    first = missing[0]
    more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    under = f" under {key!r}" if key else ""
    reason = why_no_energy(first)
    reason = reason.replace("no energy", f"no energy{under}", 1)
    return f"{first.where}{more}: {reason}. Name the key that holds the energy, or label the structure"
