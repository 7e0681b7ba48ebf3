"""Where things are printed: results on stdout, progress and warnings on stderr."""

import json
import shlex
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, ClassVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mekrr._version import __version__
from mekrr.files import is_same_file, regular_target
from mekrr.potential import MekrrWarning
from mekrr.shards import HERE, Shards

SHOW_AFTER = 2.0  # seconds; shorter stages show no bar

OF_CACHE = ("features", "derivatives")  # stages whose first report is what the cache had
LOG_WIDTH = 1000


class Logged(Console):
    """A console whose text goes to the log as well, where there is one."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich's."""
        super().print(*objects, **options)
        log = _Run.log
        if log is not None:
            Console(file=log, width=LOG_WIDTH, color_system=None).print(*objects, **options)
            log.flush()


class _Run:
    """Of the command that runs: its log, and the warnings that the user was shown."""

    log: IO[str] | None = None
    warned: ClassVar[list[str]] = []


out = Logged(soft_wrap=False)
err = Logged(stderr=True)


def warnings_shown() -> tuple[str, ...]:
    """The warnings of this command so far, for its page and its JSON."""
    return tuple(_Run.warned)


def start_log(path: Path | None, used: Iterable[Path | str | None] = ()) -> None:
    """Keep a log of this command: what it prints, warnings, and when stages begin and end; None keeps none.

    A log that is there is gone on with: it holds every run, one after another.

    Args:
        path: of the log.
        used: files that the command reads or writes; None is skipped.

    Raises:
        OSError: when it cannot be written.
        ValueError: when it is one of those files.
    """
    if path is None:
        return
    target = regular_target(path)
    for other in used:
        if other is not None and is_same_file(target, Path(other)):
            raise ValueError(f"--log {path} is {other}, which this command reads or writes; choose another file")
    _Run.log = target.open("a", encoding="utf-8")
    log(f"mekrr {__version__}: {shlex.join(['mekrr', *sys.argv[1:]])} in {Path.cwd()}")


def log(line: str) -> None:
    """A line with the time for the log alone."""
    if _Run.log is not None:
        _Run.log.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}\n")
        _Run.log.flush()


def end_run() -> None:
    """Forget what belongs to the command that ran, and end its log."""
    if _Run.log is not None:
        log("ended")
        _Run.log.close()
    _Run.log, _Run.warned = None, []


def print_json(record: dict[str, Any]) -> None:
    """Exactly one JSON object on stdout; numbers JSON does not know become null."""
    sys.stdout.write(json.dumps(_finite(record), indent=2) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


@contextmanager
def warnings_on_stderr() -> Iterator[None]:
    """Warnings as one sentence each on stderr, every different one once."""
    seen: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        text = str(message)
        if text not in seen:
            seen.add(text)
            _Run.warned.append(text)
            label = "warning" if issubclass(category, MekrrWarning) else f"warning ({category.__name__})"
            err.print(f"[yellow]{label}:[/yellow] {escape(text)}", soft_wrap=True)

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.simplefilter("ignore", DeprecationWarning)  # for developers of other packages
        warnings.simplefilter("always", MekrrWarning)
        warnings.showwarning = show
        yield


class Stages:
    """A progress bar a stage, with the time left, for stages over two seconds; silent where stderr is no terminal.

    It is a StageProgress: call it with the stage's name, the units done and the units in all.

    Args:
        shards: who computes; workers and shards stand beside the stage.
    """

    def __init__(self, shards: Shards = HERE) -> None:
        self._shards = shards
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}

    def __enter__(self) -> "Stages":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Move a stage's bar."""
        if stage not in self._tasks:
            self._started[stage] = time.monotonic()
            self._tasks[stage] = self._progress.add_task(stage, total=total, visible=False)
            if stage in OF_CACHE and done:
                err.print(f"{stage}: {done} of {total} from the cache", highlight=False)
            log(f"{stage}: {done} of {total}")
        shown = time.monotonic() - self._started[stage] > SHOW_AFTER
        status = self._shards.status()
        described = f"{stage} ({status})" if status else stage
        # conjugate gradients do not know how long they take
        known = total or None
        self._progress.update(self._tasks[stage], description=described, completed=done, total=known, visible=shown)
        if done == total:
            log(f"{stage}: {done} of {total}, {time.monotonic() - self._started[stage]:.1f} s")
