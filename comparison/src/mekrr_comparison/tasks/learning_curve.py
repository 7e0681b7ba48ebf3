"""Error against the number of training structures."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from mekrr_comparison.cell import Cell
from mekrr_comparison.figures import QUANTITIES, curves, series_of
from mekrr_comparison.method import METHODS
from mekrr_comparison.runner import Result
from mekrr_comparison.sets import Parts, divide, held_out, union
from mekrr_comparison.tables import grouped
from mekrr_comparison.tasks.base import Finding, Inputs, Task, main_table, notes_of

LABEL = "training structures"
SHARE = 0.7  # of the data at most, where no sizes are given


class LearningCurve(Task):
    """All methods over nested training sets and one test set."""

    name: ClassVar[str] = "learning-curve"
    title: ClassVar[str] = "Error against the number of training structures"
    question: ClassVar[str] = "How many structures does each method need?"
    methods: ClassVar[tuple[str, ...]] = tuple(METHODS)

    def plan(self, inputs: Inputs) -> tuple[list[Cell], list[str]]:
        """Every method at every size; smaller sets are the beginnings of larger ones."""
        data = union(inputs.sets)
        sizes = inputs.train_sizes or doubling(round(SHARE * len(data.structures)))
        largest = replace(inputs.sizes, train=max(sizes), validation=0)
        splits = [divide(data.structures, largest, seed, inputs.group) for seed in inputs.seeds]
        cells = []
        for method in self.chosen_methods(inputs):
            for n in sizes:
                for parts, seed in zip(splits, inputs.seeds, strict=True):
                    fewer = Parts(*held_out(parts.training[:n], inputs.sizes), parts.test)
                    cells.append(inputs.cell(method, {LABEL: n}, fewer, seed))
        return cells, notes_of(inputs.sets)

    def find(self, results: Sequence[Result]) -> Finding:
        """One table, one plot a quantity."""
        groups, panels = grouped(results), []
        for metric, title in QUANTITIES.items():
            series = series_of(groups, LABEL, metric)
            if series:
                panels.append(curves(f"curve-{metric}", title, series, LABEL, title))
        return Finding([main_table(results, "Errors")], panels)


def doubling(most: int, first: int = 25) -> tuple[int, ...]:
    """25, 50, 100, ... up to `most`, and `most` itself where it is well beyond the last."""
    sizes = [n for n in (first * 2**k for k in range(20)) if n <= most] or [max(most, 3)]
    return (*sizes, most) if most > 1.3 * sizes[-1] else tuple(sizes)
