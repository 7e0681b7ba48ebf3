"""Atomic writes: a reader sees the old file or the new one, never half of either; and what a file holds, as a hash."""

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_MOST_LINKS = 40  # as Linux follows
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends without an exception.

    A link stays a link: what it leads to is replaced. A file that is replaced keeps its permissions.

    Args:
        path: the file to write; its folder must exist.

    Raises:
        OSError: when the folder is missing, read-only or full, or `path` is no regular file; no partial file stays
            behind.
    """
    target = regular_target(path)
    temporary = target.parent / f".{target.name}.{secrets.token_hex(6)}.tmp"
    # Made here and not by tempfile: the usual permissions, without changing the umask, which threads share.
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    usual = stat.S_IMODE(temporary.stat().st_mode)
    try:
        yield temporary
        # Some libraries, safetensors among them, put a private file of their own in its place.
        temporary.chmod(stat.S_IMODE(target.stat().st_mode) if target.exists() else usual)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def claimed(path: str | Path) -> IO[bytes] | None:
    """The file, open and kept from others that claim it until it is closed; None when one of them has it.

    It is made where it is missing. A process that is killed loses its claim.

    Raises:
        OSError: when it cannot be opened, or the system has no locks there (errno in NO_LOCKS).
    """
    try:
        import fcntl
    except ImportError as error:
        raise OSError(errno.ENOSYS, "no locks on this system", str(path)) from error
    file = open(path, "ab")  # noqa: SIM115 (held as long as the claim)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:
        file.close()
        raise
    return file


def is_same_file(target: Path, other: Path) -> bool:
    """Whether both are one file, whatever links, spellings or letter case lead to it; it need not be there yet.

    Args:
        target: as `regular_target` gives it.
        other: as a user gives it.
    """
    return target == other.resolve() or (target.exists() and other.exists() and target.samefile(other))


def regular_target(path: str | Path) -> Path:
    """The file that would be written: where links end; it need not exist yet.

    Raises:
        IsADirectoryError: for a folder.
        OSError: for a device, a pipe or a socket, standard output by its name among them, or links in a circle.
    """
    path = Path(path)
    target = Path(os.path.realpath(path.parent)) / path.name
    for _ in range(_MOST_LINKS):
        # /dev/stdout leads here; what it leads to may be a regular file, which a replacement would cut off from stdout.
        if target.parent.name == "fd" and "proc" in target.parts[:2]:
            raise OSError(f"{path} is an open stream; mekrr writes whole files: give the name of a file")
        if not target.is_symlink():
            break
        aim = target.parent / os.readlink(target)
        target = Path(os.path.realpath(aim.parent)) / aim.name
    else:
        raise OSError(f"{path} is a link that leads in a circle; give the name of a file")
    if not target.exists():
        return target
    mode = target.stat().st_mode
    if stat.S_ISREG(mode):
        return target
    kind = next((word for is_kind, word in _KINDS if is_kind(mode)), "no regular file")
    refusal = IsADirectoryError if stat.S_ISDIR(mode) else OSError
    raise refusal(f"{path} is {kind}; give the name of a file to write")


def sha256_of(path: Path) -> str:
    """SHA-256 hex digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
