"""The process in which one cell is computed: its seconds and its memory are its own, and so is its crash."""

import os
import resource
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mekrr.cluster import connected
from mekrr.data import Structure
from mekrr.errors import DataError
from mekrr.potential import MekrrWarning
from mekrr.potential.record import versions
from mekrr_comparison.cell import Cell
from mekrr_comparison.errors import errors_of
from mekrr_comparison.method import Method, method_class
from mekrr_comparison.peers.process import end_programs
from mekrr_comparison.store import write_json
from mekrr_comparison.surface import surface_of


def work(cell: Cell, description: dict[str, Any], path: Path, log: Path, folder: Path) -> None:
    """Compute a cell and write its result; the entry point of the child process.

    Args:
        cell: what to do.
        description: its description, kept with the result.
        path: of the result.
        log: takes everything the method prints.
        folder: of the method's own files.
    """
    _print_to(log)
    signal.signal(signal.SIGTERM, lambda *_: _end_at_once())
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    record: dict[str, Any] = {"description": description, "started": datetime.now(UTC).isoformat(timespec="seconds")}
    method = None
    try:
        method = method_class(cell.method)(cell.setup(folder))
        record |= {"status": "done"} | _computed(cell, method)
    except Exception as error:  # a peer may raise anything; the run goes on
        traceback.print_exc()
        capped = method is not None and method.capped
        record |= {"status": "failed", "message": f"{type(error).__name__}: {error}", "capped": capped}
    write_json(path, record | {"peak_memory_mib": peak_memory_mib(), "versions": versions()})


def _computed(cell: Cell, method: Method) -> dict[str, Any]:
    """Fit, test and measure."""
    kind = type(method)
    training, validation = list(cell.training), list(cell.validation)
    if not kind.needs_validation:
        training, validation = training + validation, []
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", MekrrWarning)
        memory = peak_memory_mib()
        before = _entries(cell.cache)
        with connected(cell.cluster if kind.takes_cluster else None) as method.shards:
            start = time.perf_counter()
            method.fit(training, validation, cell.cap)
            fitted = time.perf_counter()
            work = [asdict(one) for one in method.shards.work]
            tests = {name: _tested(method, structures) for name, structures in cell.tests.items()}
            predicted = time.perf_counter()
    said = [str(w.message) for w in heard if issubclass(w.category, MekrrWarning)]
    seconds = {"fit": fitted - start, "predict": predicted - fitted, "stages": method.seconds}
    return {
        "tests": tests,
        "seconds": seconds,
        "features_from_cache": kind.reads_features and _from_cache(cell.cache, before),
        "work": work,
        "memory_at_start_mib": memory,
        "capped": method.capped,
        "chosen": method.chosen(),
        "settings_from": kind.settings_from,
        "n_training": len(training),
        "n_validation": len(validation),
        "warnings": list(dict.fromkeys(said)),
    } | _extra(cell, method)


def _tested(method: Method, structures: Sequence[Structure]) -> dict[str, Any]:
    """Errors, or why the method refused to predict."""
    try:
        return errors_of(structures, method.predict([s.atoms for s in structures]))
    except DataError as error:
        return {"refused": str(error)}


def _extra(cell: Cell, method: Method) -> dict[str, Any]:
    if cell.extra != "surface":
        return {}
    return {"surface": surface_of(method, next(iter(cell.tests.values())))}


def _entries(cache: Path | None) -> int:
    """Files in a cache of features."""
    return 0 if cache is None or not cache.is_dir() else sum(len(os.listdir(f)) for f in cache.iterdir() if f.is_dir())


def _from_cache(cache: Path | None, before: int) -> bool:
    """Whether all features came from the cache: nothing new stands in it, so the seconds leave them out."""
    return cache is not None and before > 0 and _entries(cache) == before


def peak_memory_mib() -> float:
    """Of this process and of the largest it started, MiB.

    The high-water mark of Linux is read first: ru_maxrss of a new process begins at that of its parent.
    """
    scale = 1024**2 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
    status = Path("/proc/self/status")
    if status.exists():
        marks = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        own = int(marks[0]) / 1024 if marks else own
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / scale)


def _print_to(log: Path) -> None:
    """Point this process's stdout and stderr, those of its children included, at a file."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.close(handle)


def _end_with_parent(parent: int) -> None:
    """Do not outlive a killed run: a resumed one would compute the same cell beside this process."""
    while os.getppid() == parent:
        time.sleep(0.5)
    _end_at_once()


def _end_at_once() -> None:
    end_programs()
    os._exit(1)
