"""Peers that are programs: find them, run them under a wall-clock cap, and say what they said when they fail."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_GRACE_SECONDS = 20
_running: set[subprocess.Popen] = set()
_SHOWN_LINES = 8


def find_program(name: str) -> str | None:
    """Path of a program beside this Python or on the search path, None where there is none."""
    beside = Path(sys.executable).parent / name
    return str(beside) if os.access(beside, os.X_OK) else shutil.which(name)


@contextmanager
def working_folder(folder: Path | None) -> Iterator[Path]:
    """`folder`, made if missing, or a temporary one that is removed afterwards."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="mekrr-peer-") as temporary:
        yield Path(temporary)


def run_program(command: Sequence[str], folder: Path, seconds: float | None = None) -> bool:
    """Run to the end or to the cap; whether it ended by itself.

    Its output goes to `output.log` in `folder`, its complaints to `errors.log`.

    Args:
        command: program and arguments.
        folder: where it runs.
        seconds: wall-clock cap, None for none; then it is asked to stop, and ended if it does not.

    Raises:
        RuntimeError: when it cannot be started or ends with an error; the message holds its last lines.
    """
    # Apart, because a program may hold its output back while its complaints come at once.
    with (folder / "output.log").open("wb") as output, (folder / "errors.log").open("wb") as errors:
        try:
            # In a group of its own: what is on the search path may only be a script that starts the program.
            child = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, process_group=0
            )
        except OSError as error:
            raise RuntimeError(f"{command[0]} cannot be started ({error}); install it again") from error
        _running.add(child)
        try:
            code = child.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        finally:
            _end(child)
            _running.discard(child)
    if code != 0:
        raise RuntimeError(f"{Path(command[0]).name} ended with status {code}; it said last:\n{last_lines(folder)}")
    return True


def last_lines(folder: Path) -> str:
    """The last lines, not counting empty ones, that a program run in `folder` wrote."""
    shown: list[str] = []
    for name in ("output.log", "errors.log"):
        lines = (folder / name).read_text(errors="replace").splitlines()
        shown += [line.rstrip() for line in lines if line.strip()][-_SHOWN_LINES:]
    return "\n".join(shown) or "(nothing)"


def end_programs() -> None:
    """Kill every program that still runs, with all that it started; for a process about to end itself."""
    for child in list(_running):
        _signal_group(child, signal.SIGKILL)


def _end(child: subprocess.Popen) -> None:
    """Ask a child that still runs to stop, and end it and what it started if it does not."""
    if child.poll() is not None:
        return
    _signal_group(child, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        child.wait(_GRACE_SECONDS)
    _signal_group(child, signal.SIGKILL)
    child.wait()


def _signal_group(child: subprocess.Popen, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # nobody is left
        os.killpg(child.pid, number)
