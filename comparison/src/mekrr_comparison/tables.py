"""Results as tables: mean and spread over seeds, and one flat row for every fit and test set."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mekrr.pages.words import MISSING, count, number, seconds
from mekrr_comparison.runner import Result

ERRORS = {
    "E MAE": "energy_mae_mev_per_atom",
    "E RMSE": "energy_rmse_mev_per_atom",
    "F MAE": "forces_mae_mev_per_angstrom",
    "F RMSE": "forces_rmse_mev_per_angstrom",
}
"""Columns of errors; energies in meV/atom, forces in meV/Angstrom."""

FEWEST = 3  # values that have a standard deviation worth its name
UNITS = (
    "Energies in meV/atom, forces in meV/Å; mean ± sample standard deviation over seeds, or the values themselves of "
    "two seeds, which say little of a spread. Where one structure, or one in twenty, holds half of a mean square, it "
    "is named: that root mean square says more of it than of the others."
)


@dataclass(frozen=True)
class Table:
    """A table ready to be printed.

    Attributes:
        title: above it.
        columns: headings.
        rows: of words.
        numeric: columns that are aligned to the right.
        note: below it.
        footnotes: below that, numbered.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()
    note: str = ""
    footnotes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """The results that differ in their seed only, on one test set.

    Attributes:
        labels: of the cells.
        method: name.
        test: name of the test set.
        results: one a seed.
    """

    labels: dict[str, Any]
    method: str
    test: str
    results: tuple[Result, ...]

    @property
    def done(self) -> list[Result]:
        """Those with errors."""
        return [r for r in self.results if r.is_done]

    def values(self, metric: str) -> list[float]:
        """A metric of this test set, one a finished seed that has it."""
        found = [r.record["tests"][self.test].get(metric) for r in self.done]
        return [value for value in found if value is not None]

    def mean(self, metric: str) -> float | None:
        """Mean over seeds, None when no seed has it."""
        values = self.values(metric)
        return statistics.fmean(values) if values else None

    def of_record(self, read: Callable[[dict[str, Any]], float]) -> float | None:
        """Mean over seeds of a number of the record."""
        values = [read(r.record) for r in self.done]
        return statistics.fmean(values) if values else None

    @property
    def remarks(self) -> dict[str, str]:
        """What a reader of the numbers must know: a word, and what is behind it."""
        found: dict[str, str] = {}
        for result in self.results:
            record = result.record
            refused = record.get("tests", {}).get(self.test, {}).get("refused")
            if not result.is_done:
                found[record["status"]] = record.get("message", "")
            elif refused:
                found["refused"] = refused
            if ruled := self._ruled(result):
                found["ruled"] = "; ".join(filter(None, (found.get("ruled"), ruled)))
            if record.get("capped"):
                found["capped"] = f"fit ended by the cap of {result.cell.cap:g} s" if result.cell.cap else "fit ended"
        return found

    def _ruled(self, result: Result) -> str:
        """Which few structures make up most of a mean square, in words."""
        tested = result.record.get("tests", {}).get(self.test, {})
        parts = [
            f"{ruled['share']:.0%} of the squares of {what} come from {', '.join(ruled['structures'])}"
            for what, ruled in tested.get("ruled_by", {}).items()
            if ruled
        ]
        seed = f"seed {result.cell.seed}: " if len(self.results) > 1 else ""
        return f"{seed}{' and '.join(parts)}" if parts else ""


class Footnotes:
    """Long remarks, numbered below a table."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, group: Group) -> str:
        """The words for a cell of the table."""
        return ", ".join(f"{word} {self._number(text)}" for word, text in group.remarks.items())

    def _number(self, text: str) -> str:
        if text not in self.texts:
            self.texts.append(text)
        return f"[{self.texts.index(text) + 1}]"

    def numbered(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(f"[{k + 1}] {text}" for k, text in enumerate(self.texts))


def grouped(results: Iterable[Result]) -> list[Group]:
    """Results by labels, method and test set, in the order of the first of each."""
    found: dict[tuple, tuple[dict[str, Any], list[Result]]] = {}
    for result in results:
        for test in result.cell.tests:
            key = (tuple(result.cell.labels.items()), result.cell.method, test)
            found.setdefault(key, (result.cell.labels, []))[1].append(result)
    return [Group(labels, key[1], key[2], tuple(members)) for key, (labels, members) in found.items()]


def error_table(results: Sequence[Result], title: str, note: str = "") -> Table:
    """The errors of all methods, with seconds and memory."""
    groups, footnotes = grouped(results), Footnotes()
    heads = _varying([{**g.labels, "tested on": g.test, "method": g.method} for g in groups])
    names = tuple(heads[0]) if heads else ("method",)
    columns = (*names, "tested", "seeds", *ERRORS, "fit", "memory")
    rows = []
    for head, group in zip(heads, groups, strict=True):
        errors = [spread(group.values(metric)) for metric in ERRORS.values()]
        rows.append((*head.values(), *_counts(group), *errors, *_cost(group), footnotes.mark(group)))
    if footnotes.texts:
        columns = (*columns, "remarks")
    rows = [row[: len(columns)] for row in rows]
    numeric = frozenset(range(len(names), len(names) + len(ERRORS) + 4))
    title = ", ".join([title, *_constant(groups)])
    return Table(title, columns, tuple(rows), numeric, " ".join(filter(None, (UNITS, note))), footnotes.numbered())


def _varying(heads: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Words of the columns that differ between rows, the method always."""
    names = list(dict.fromkeys(name for head in heads for name in head if name != "method"))
    shown = [name for name in names if len({str(head.get(name)) for head in heads}) > 1]
    return [{name: str(head.get(name, MISSING)) for name in (*shown, "method")} for head in heads]


def _constant(groups: Sequence[Group]) -> list[str]:
    """Labels that all rows share, for the title."""
    names = dict.fromkeys(name for group in groups for name in group.labels)
    shared = {name: {str(group.labels.get(name)) for group in groups} for name in names}
    tested = {group.test for group in groups} - {"test"}
    shared |= {"tested on": tested} if tested else {}
    return [f"{name} {values.pop()}" for name, values in shared.items() if len(values) == 1]


def _counts(group: Group) -> tuple[str, str]:
    """Structures tested on, and seeds that are done."""
    sizes = sorted({len(result.cell.tests[group.test]) for result in group.results})
    return " to ".join(map(count, sizes[:1] + sizes[1:][-1:])), count(len(group.done))


def _cost(group: Group) -> tuple[str, str]:
    time = group.of_record(lambda record: record["seconds"]["fit"])
    memory = group.of_record(lambda record: record["peak_memory_mib"])
    if time is None or memory is None:
        return MISSING, MISSING
    cached = all(result.record.get("features_from_cache") for result in group.done)
    return seconds(time) + " *" * cached, f"{count(round(memory))} MiB"


CACHED = "* features came from the cache: the seconds leave them out."


def spread(values: Sequence[float]) -> str:
    """E.g. '1.23 ± 0.10'; fewer than three values as they are."""
    if not values:
        return MISSING
    if len(values) < FEWEST:
        return ", ".join(map(number, values))
    return f"{number(statistics.fmean(values))} ± {number(statistics.stdev(values), 2)}"


def flat_rows(results: Iterable[Result]) -> list[dict[str, Any]]:
    """One row a fit and test set, with every number, for CSV."""
    rows = []
    for result in results:
        cell, record = result.cell, result.record
        common = {**cell.labels, "method": cell.method, "seed": cell.seed, "status": record["status"]}
        cost = {
            "seconds_fit": record.get("seconds", {}).get("fit"),
            "seconds_predict": record.get("seconds", {}).get("predict"),
            "features_from_cache": record.get("features_from_cache"),
            "peak_memory_mib": record.get("peak_memory_mib"),
            "capped": record.get("capped"),
            "n_training": record.get("n_training"),
            "message": record.get("message"),
            "key": result.key,
        }
        for test in cell.tests:
            metrics = record.get("tests", {}).get(test, {})
            numbers = {name: value for name, value in metrics.items() if not isinstance(value, dict)}
            rows.append({**common, "test": test, **numbers, **cost})
    return rows
