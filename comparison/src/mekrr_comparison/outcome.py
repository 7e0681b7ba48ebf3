"""A task from its inputs to files: results.json, results.csv, results.md and report.html."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mekrr.files import atomic_path
from mekrr.pages import words
from mekrr.potential.record import versions
from mekrr_comparison.markdown import markdown
from mekrr_comparison.method import method_class
from mekrr_comparison.page import write_page
from mekrr_comparison.runner import Result, Tell, run_cells
from mekrr_comparison.store import write_json
from mekrr_comparison.tables import Table, flat_rows
from mekrr_comparison.tasks import Finding, Inputs, Task


@dataclass(frozen=True)
class Outcome:
    """Everything a run gave.

    Attributes:
        task: what was asked.
        inputs: with what.
        notes: what was done to the data.
        results: one a cell.
        finding: tables, figures and sentences.
    """

    task: Task
    inputs: Inputs
    notes: list[str]
    results: list[Result]
    finding: Finding

    def record(self) -> dict[str, Any]:
        """The object of `mekrr benchmark --json` and of results.json."""
        return {
            "task": self.task.name,
            "settings": self.settings(),
            "notes": self.notes,
            "sentences": self.finding.sentences,
            "tables": [_table_record(table) for table in self.finding.tables],
            "results": flat_rows(self.results),
            "cells": [self._cell(result) for result in self.results],
            "versions": versions(),
        }

    def settings(self) -> dict[str, Any]:
        """What was asked for, in words of the command line."""
        inputs = self.inputs
        return {
            "task": self.task.name,
            "data": {data.name: len(data.structures) for data in inputs.sets},
            "methods": list(self.task.chosen_methods(inputs)),
            "seeds": list(inputs.seeds),
            "sizes": asdict(inputs.sizes) | {"curve": list(inputs.train_sizes)},
            "group": inputs.group,
            "pairs": list(inputs.pairs),
            "align": inputs.align,
            "backbone": inputs.backbone,
            "device": inputs.device,
            "cluster": inputs.cluster,
            "cap_seconds": inputs.cap,
            "feature_cache": inputs.cache is not None,
            "options": {method: dict(options) for method, options in inputs.options.items()},
        }

    def _cell(self, result: Result) -> dict[str, Any]:
        cell = result.cell
        return {"labels": cell.labels, "method": cell.method, "seed": cell.seed, "key": result.key, **result.record}


def run_task(task: Task, inputs: Inputs, folder: Path, retry: bool = False, tell: Tell | None = None) -> Outcome:
    """Compute what is not there yet and write the files.

    Args:
        task: one of TASKS.
        inputs: data, methods and sizes.
        folder: existing; cells, logs, results.json, results.csv, results.md and report.html are written to it.
        retry: compute again what failed before.
        tell: see run_cells.

    Raises:
        DataError: when the data do not allow the task.
        OSError: when the folder cannot be written.
    """
    cells, notes = task.plan(inputs)
    results = run_cells(cells, folder, retry, tell)
    outcome = Outcome(task, inputs, notes, results, task.find(results))
    write_json(folder / "results.json", outcome.record())
    _write_csv(folder / "results.csv", flat_rows(results))
    content = _content(outcome)
    parts = ("title", "question", "notes", "tables", "sentences", "settings", "versions")
    with atomic_path(folder / "results.md") as temporary:
        temporary.write_text(markdown(**{name: content[name] for name in parts}), encoding="utf-8")
    write_page(folder / "report.html", content)
    return outcome


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)


def _table_record(table: Table) -> dict[str, Any]:
    words_ = {"title": table.title, "columns": list(table.columns), "rows": [list(row) for row in table.rows]}
    return words_ | {"note": table.note, "footnotes": list(table.footnotes)}


def _content(outcome: Outcome) -> dict[str, Any]:
    results = outcome.results
    spent = sum(sum(r.record["seconds"][part] for part in ("fit", "predict")) for r in results if r.is_done)
    return {
        "title": outcome.task.title,
        "question": outcome.task.question,
        "sentences": outcome.finding.sentences,
        "notes": outcome.notes,
        "tables": outcome.finding.tables,
        "panels": outcome.finding.panels,
        "settings": {name: _in_words(value) for name, value in outcome.settings().items()},
        "methods": _methods(results),
        "versions": versions(),
        "n_fits": sum(result.is_done for result in results),
        "seconds": words.seconds(spent),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _methods(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Each method once, with the settings that all its cells share."""
    found: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        if "description" in result.record:
            found.setdefault(result.cell.method, []).append(result.record["description"]["settings"])
    return [
        {
            "name": name,
            "settings_from": method_class(name).settings_from,
            "settings": _in_words({k: v for k, v in many[0].items() if all(s.get(k, ...) == v for s in many)}),
        }
        for name, many in found.items()
    ]


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_in_words(item)}" for name, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_in_words, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
