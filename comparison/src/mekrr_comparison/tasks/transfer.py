"""Train on one data set, test on another."""

from collections.abc import Sequence
from typing import ClassVar

from mekrr.errors import DataError
from mekrr_comparison.cell import Cell
from mekrr_comparison.method import METHODS
from mekrr_comparison.runner import Result
from mekrr_comparison.sets import DataSet, across, aligned, named
from mekrr_comparison.tasks.base import Finding, Inputs, Task, main_table, notes_of
from mekrr_comparison.tasks.same import error_bars


class Transfer(Task):
    """The paper's D_i -> D_j (arXiv 2306.01589)."""

    name: ClassVar[str] = "transfer"
    title: ClassVar[str] = "Trained on one data set, tested on another"
    question: ClassVar[str] = "What is left of the accuracy on structures of another kind than those trained on?"
    methods: ClassVar[tuple[str, ...]] = tuple(METHODS)

    def plan(self, inputs: Inputs) -> tuple[list[Cell], list[str]]:
        """Every method on every pair."""
        cells, notes = [], []
        for one, other in _pairs(inputs):
            moved = aligned(one, other, inputs.align)
            notes += notes_of([one, moved])
            splits = [across(one, moved, inputs.sizes, seed) for seed in inputs.seeds]
            if len(splits[0].test) < len(moved.structures) and inputs.sizes.test is None:
                dropped = len(moved.structures) - len(splits[0].test)
                notes.append(f"{other.name}: {dropped} structures that {one.name} has as well were not tested on")
            for method in self.chosen_methods(inputs):
                for parts, seed in zip(splits, inputs.seeds, strict=True):
                    labels = {"trained on": one.name}
                    cells.append(inputs.cell(method, labels, parts, seed, tests={other.name: parts.test}))
        return cells, list(dict.fromkeys(notes))

    def find(self, results: Sequence[Result]) -> Finding:
        """One table; one figure a pair and quantity."""
        return Finding([main_table(results, "Errors")], error_bars(results))


def _pairs(inputs: Inputs) -> list[tuple[DataSet, DataSet]]:
    """As asked for, or every ordered pair of different sets.

    Raises:
        DataError: when there is no pair, or one is not written as A:B.
    """
    if not inputs.pairs:
        found = [(one, other) for one in inputs.sets for other in inputs.sets if one is not other]
        if not found:
            raise DataError("transfer needs two data sets: give two files, or --by KEY and --pair A:B")
        return found
    split = [pair.split(":") for pair in inputs.pairs]
    wrong = [pair for pair, parts in zip(inputs.pairs, split, strict=True) if len(parts) != 2]
    if wrong:
        raise DataError(f"--pair is written as TRAIN:TEST, e.g. 1:2 or A+B:C; got {wrong[0]!r}")
    return [(named(inputs.sets, one), named(inputs.sets, other)) for one, other in split]
