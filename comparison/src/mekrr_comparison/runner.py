"""Runs cells one after another, each in a process of its own, and keeps what is computed."""

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mekrr_comparison.cell import Cell
from mekrr_comparison.method import method_class
from mekrr_comparison.store import read_json, write_json
from mekrr_comparison.worker import work

Tell = Callable[[str, int, int], None]
GRACE = 300.0  # seconds beyond twice the cap, for start and prediction, before a process is ended
START = multiprocessing.get_context("spawn")  # a fresh interpreter, so that memory and crashes of a method are its own


@dataclass(frozen=True)
class Result:
    """A cell with what came of it.

    Attributes:
        cell: what was asked for.
        key: of its file.
        record: status "done", "failed" or "missing", and the rest.
    """

    cell: Cell
    key: str
    record: dict[str, Any]

    @property
    def is_done(self) -> bool:
        """Whether there are errors to show."""
        return self.record["status"] == "done"


def run_cells(cells: Sequence[Cell], folder: Path, retry: bool = False, tell: Tell | None = None) -> list[Result]:
    """Results of all cells; those that are there are not computed again.

    Args:
        cells: in the order of the tables.
        folder: of the run; results lie in its folder cells, what methods print in logs.
        retry: compute again what failed before.
        tell: called with what is being computed, cells done and cells in all.

    Raises:
        DataError: when a result that is there is damaged.
        OSError: when the folder cannot be written.
    """
    for name in ("cells", "logs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    results = []
    for done, cell in enumerate(cells):
        if tell is not None:
            tell(f"{cell.method} {' '.join(map(str, cell.labels.values()))}", done, len(cells))
        results.append(_result(cell, folder, retry))
    if tell is not None:
        tell("done", len(cells), len(cells))
    return results


def _result(cell: Cell, folder: Path, retry: bool) -> Result:
    try:
        kind = method_class(cell.method)
        is_there = kind.ready(cell.options)
    except ImportError as error:
        return Result(cell, "", {"status": "missing", "message": f"cannot be imported: {error}"})
    if not is_there:
        return Result(cell, "", {"status": "missing", "message": f"not installed; run: {kind.requirement}"})
    key = cell.key
    path = folder / "cells" / f"{key}.json"
    record = read_json(path)
    if record is None or (retry and record["status"] == "failed") or _under_another_cap(record, cell.cap):
        record = _compute(cell, path, folder / "logs" / f"{key}.txt")
    return Result(cell, key, record)


def _under_another_cap(record: dict[str, Any], cap: float | None) -> bool:
    """Whether a cap ended the fit, and another one is asked for."""
    return bool(record.get("capped")) and record["description"]["cap"] != cap


def _compute(cell: Cell, path: Path, log: Path) -> dict[str, Any]:
    """Compute in a child process; a death without a result is a result as well."""
    with tempfile.TemporaryDirectory(prefix="mekrr-benchmark-") as folder:
        start = time.perf_counter()
        arguments = (cell, cell.description(), path, log, Path(folder))
        for old in (path, log):
            old.unlink(missing_ok=True)
        with _process(arguments) as process:
            process.join(None if cell.cap is None else 2 * cell.cap + GRACE)
            was_late = process.is_alive()
        record = read_json(path)
    if record is None:
        took = time.perf_counter() - start
        cause = f"ended after {took:.0f} s, far beyond its cap" if was_late else f"exit code {process.exitcode}"
        last = _last_line(log)
        message = f"the process gave no result: {cause}" + (f"; it last said: {last}" if last else "")
        record = {"description": cell.description(), "status": "failed", "message": message, "capped": was_late}
        write_json(path, record)
    return record


@contextmanager
def _process(arguments: tuple) -> Iterator[multiprocessing.process.BaseProcess]:
    """A process of its own, ended with the block."""
    process = START.Process(target=work, args=arguments)
    process.start()
    try:
        yield process
    finally:
        if process.is_alive():
            process.terminate()
            process.join(10)
        if process.is_alive():
            process.kill()
            process.join()


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:300]
