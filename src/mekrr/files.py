"""Atomic writes: a reader sees the old file or the new one, never half of either."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends without an exception.

    Args:
        path: the file to write; its folder must exist.

    Raises:
        OSError: when the folder is missing, read-only or full; no partial file stays behind.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _keep_usual_permissions(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _keep_usual_permissions(path: Path) -> None:
    """Give `path` the permissions an ordinary open() would, which mkstemp narrows to the owner."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)
