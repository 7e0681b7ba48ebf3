"""ASE databases: SQLite (.db), JSON (.json) and LMDB (.aselmdb). Key-value pairs and data of a row become `info`."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import ase.db
from ase import Atoms
from ase.db.row import AtomsRow

from mekrr.data.reading.lmdb import iter_lmdb_rows
from mekrr.errors import DataError


def iter_db(path: Path) -> Iterator[Atoms]:
    """The rows of an SQLite database.

    Raises:
        DataError: when the file is not SQLite, or an SQLite database of something else.
    """
    _check_sqlite(path)
    yield from _iter_rows(path, "db")


def iter_json(path: Path) -> Iterator[Atoms]:
    """The rows of a JSON database."""
    yield from _iter_rows(path, "json")


def iter_lmdb(path: Path) -> Iterator[Atoms]:
    """The rows of an LMDB database; see `iter_lmdb_rows` for what is refused."""
    yield from map(_to_atoms, iter_lmdb_rows(path))


def _check_sqlite(path: Path) -> None:
    """Refuse what is no ASE database before ase opens it, which would create its tables in any SQLite file."""
    with path.open("rb") as file:
        if file.read(16) != b"SQLite format 3\0":
            raise DataError(f"{path} is not an ASE database: a .db file is SQLite; rename it to what it is")
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "systems" not in names:
        found = ", ".join(sorted(names)) or "none"
        raise DataError(f"{path} is an SQLite file but not an ASE database (its tables: {found}): give the right file")


def _iter_rows(path: Path, kind: str) -> Iterator[Atoms]:
    # an absolute path, which ase never takes for the address of a database server
    with ase.db.connect(str(path.absolute()), type=kind, use_lock_file=False) as database:
        yield from map(_to_atoms, database.select())


def _to_atoms(row: AtomsRow) -> Atoms:
    atoms = row.toatoms()
    atoms.info = {**atoms.info, **row.key_value_pairs, **row.data}
    return atoms
