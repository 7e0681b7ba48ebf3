"""ASE's LMDB databases, as OC20 uses them today; the older ones of pickled objects are refused unread."""

from collections.abc import Iterator
from pathlib import Path

from ase.db.row import AtomsRow

from mekrr.errors import DataError

_ZLIB = b"x"  # first byte of every value that ase-db-backends writes
_PICKLE = b"\x80"  # first byte of pickle protocols 2 to 5


def iter_lmdb_rows(path: Path) -> Iterator[AtomsRow]:
    """The rows of an ASE-LMDB file, opened read-only.

    Raises:
        DataError: when ase-db-backends is missing, the file is truncated, or its values are pickles, which could run
            any code and are therefore never loaded.
    """
    try:
        import lmdb  # noqa: F401
        from ase_db_backends.aselmdb import LMDBDatabase
    except ImportError as error:
        raise DataError(f"{path} needs ase-db-backends: pip install 'mekrr[lmdb]'") from error
    _check_values(path)
    database = LMDBDatabase(str(path), readonly=True, use_lock_file=False)
    with database:
        for number in database.ids:
            yield database._get_row(number)


def _check_values(path: Path) -> None:
    """Refuse a file whose pages are missing or whose values are not compressed JSON."""
    import lmdb

    with lmdb.open(str(path), subdir=False, readonly=True, lock=False, meminit=False) as environment:
        expected = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        if path.stat().st_size < expected:  # reading a missing page would kill the process
            raise DataError(f"{path} is truncated: {path.stat().st_size} bytes of at least {expected}; copy it again")
        with environment.begin(buffers=True) as transaction:
            for key, value in transaction.cursor():
                _check_value(path, bytes(key), bytes(value[:1]))


def _check_value(path: Path, key: bytes, first: bytes) -> None:
    if first == _ZLIB:
        return
    name = key.decode(errors="replace")
    if first == _PICKLE:
        raise DataError(
            f"{path} is an old LMDB of pickled objects (key {name!r}), as early OC20 releases had: loading a pickle "
            "can run any code, so it is refused. Use the ASE-LMDB (.aselmdb) release, or convert it with what wrote it"
        )
    raise DataError(f"{path} is an LMDB but not one written by ASE (key {name!r}): expected an .aselmdb file")
