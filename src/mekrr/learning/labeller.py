"""Labels from the user's calculator in a process of its own, so that its crash is an answer and not the end."""

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.io.jsonio import decode, encode

from mekrr.data.reading.electrons import electrons
from mekrr.files import atomic_path, claimed
from mekrr.learning.factory import split_name
from mekrr.learning.worker import ANSWER, ASK, LOCK, OUTPUT, READY

POLL = 0.2  # seconds between looks at whether a killed run's calculation has ended
LINES = 3  # of the calculator's output that are quoted when it crashes


@dataclass(frozen=True)
class Answer:
    """What came of one structure.

    Attributes:
        results: under ASE's names; None when it failed.
        error: why it failed, a sentence; empty when it did not.
        seconds: that it took.
    """

    results: dict[str, Any] | None
    error: str
    seconds: float


class Labeller:
    """A calculator behind a process, which is started with the first structure and again after a crash.

    Args:
        calculator: "FILE.py:function".
        folder: where it runs and where asks and answers lie.
        timeout: seconds for one structure; None for no limit.

    Raises:
        LabelError: when the name is malformed or there is no such file.
        OSError: when the folder cannot be made.
    """

    def __init__(self, calculator: str, folder: Path, timeout: float | None = None) -> None:
        path, function = split_name(calculator)
        self._name = f"{path}:{function}"
        self._folder = folder.absolute()
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._folder.mkdir(exist_ok=True)

    def is_busy(self) -> bool:
        """Whether a calculation that a killed run asked for is still going on."""
        lock = claimed(self._folder / LOCK)
        if lock is not None:
            lock.close()
        return lock is None

    def left_behind(self) -> tuple[dict[str, Any], Answer] | None:
        """The ask and the answer of a run that was killed between both, waited for; None where there is none."""
        while self.is_busy():
            time.sleep(POLL)
        ask, answer = self._folder / ASK, self._folder / ANSWER
        if not (ask.exists() and answer.exists()):
            return None
        asked, answered = decode(ask.read_text()), decode(answer.read_text())
        return (asked, _answer(answered)) if asked["number"] == answered["number"] else None

    def __call__(self, ask: dict[str, Any]) -> Answer:
        """Label one structure.

        Args:
            ask: with "atoms", without constraints, "number", and whether "stress" is needed; what else it holds is kept
                for a run that is killed before it has read the answer.

        Raises:
            OSError: when the ask cannot be written.
        """
        self.forget()
        with atomic_path(self._folder / ASK) as temporary:
            temporary.write_text(encode(ask))
        started = time.perf_counter()
        process = self._running()
        error = self._wait(process)
        answer = self._folder / ANSWER
        if not error and answer.exists():
            return _answer(decode(answer.read_text()))
        self.close()
        return Answer(None, error or "the calculator's process ended without an answer", time.perf_counter() - started)

    def forget(self) -> None:
        """Remove the last ask and answer, which the journal has taken up."""
        (self._folder / ANSWER).unlink(missing_ok=True)
        (self._folder / ASK).unlink(missing_ok=True)

    def close(self) -> None:
        """End the process and what it has started."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None or self._process.poll() is not None:
            self.close()
            # a session of its own: an interrupt of the run is not one of the DFT code, and all it starts can be ended
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mekrr.learning.worker", self._name, str(self._folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
        return self._process

    def _wait(self, process: "subprocess.Popen[bytes]") -> str:
        """Ask, and wait for the answer; what went wrong, or nothing."""
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(b"label\n")
            process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(self._timeout):
                return f"the calculator was stopped after {self._timeout:g} seconds (--timeout)"
        if os.read(process.stdout.fileno(), len(READY)) == READY:
            return ""
        return _ending(process.wait(), self._folder / OUTPUT)


def _ending(code: int, output: Path) -> str:
    """How a process that crashed has ended, with the last lines it printed."""
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    lines = output.read_text(errors="replace").splitlines()[-LINES:] if output.exists() else []
    said = f"; the end of {output}: {' / '.join(line.strip() for line in lines)}" if lines else ""
    return f"the calculator's process ended by {how}{said}"


def _answer(answered: dict[str, Any]) -> Answer:
    error = answered.get("error", "")
    names = ("energy", "free_energy", "forces", "stress")
    results = None if error else {name: answered[name] for name in names if name in answered}
    return Answer(results, error, answered["seconds"])


def bare(atoms: Atoms) -> Atoms:
    """Positions, species, cell, charge and what a calculator reads of them, without constraints, momenta or results."""
    copy = atoms.copy()
    copy.calc = None
    copy.set_constraint()
    copy.info = electrons(atoms)
    for name in set(copy.arrays) - {"numbers", "positions", "tags", "masses", "initial_magmoms", "initial_charges"}:
        del copy.arrays[name]
    return copy
