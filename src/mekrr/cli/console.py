"""Where things are printed: results on stdout, progress and warnings on stderr."""

import json
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mekrr.potential import MekrrWarning
from mekrr.shards import HERE, Shards

SHOW_AFTER = 2.0  # seconds; shorter stages show no bar

out = Console(soft_wrap=False)
err = Console(stderr=True)


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
        shown = time.monotonic() - self._started[stage] > SHOW_AFTER
        status = self._shards.status()
        described = f"{stage} ({status})" if status else stage
        # conjugate gradients do not know how long they take
        known = total or None
        self._progress.update(self._tasks[stage], description=described, completed=done, total=known, visible=shown)
