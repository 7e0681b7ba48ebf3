"""Train and test on one data set."""

from collections.abc import Sequence
from typing import ClassVar

from mekrr.pages.figures import Panel
from mekrr_comparison.cell import Cell
from mekrr_comparison.figures import QUANTITIES, bars
from mekrr_comparison.method import METHODS
from mekrr_comparison.runner import Result
from mekrr_comparison.sets import divide
from mekrr_comparison.tables import grouped
from mekrr_comparison.tasks.base import Finding, Inputs, Task, main_table, notes_of


class Same(Task):
    """Random splits, and splits that keep groups whole."""

    name: ClassVar[str] = "same"
    title: ClassVar[str] = "Trained and tested on the same data"
    question: ClassVar[str] = (
        "How large are the errors on structures that were left out, at random and by whole groups? A random split of a "
        "trajectory tests on near copies of what was trained on; the split by groups does not."
    )
    methods: ClassVar[tuple[str, ...]] = tuple(METHODS)

    def plan(self, inputs: Inputs) -> tuple[list[Cell], list[str]]:
        """Every method on every split of every set."""
        groups = [None] if inputs.group is None else [None, inputs.group]
        cells = []
        for data in inputs.sets:
            for group in groups:
                labels = {"data": data.name, "split": "random" if group is None else f"by {group}"}
                splits = [divide(data.structures, inputs.sizes, seed, group) for seed in inputs.seeds]
                for method in self.chosen_methods(inputs):
                    pairs = zip(splits, inputs.seeds, strict=True)
                    cells += [inputs.cell(method, labels, parts, seed) for parts, seed in pairs]
        return cells, notes_of(inputs.sets)

    def find(self, results: Sequence[Result]) -> Finding:
        """One table; one figure a split and quantity."""
        return Finding([main_table(results, "Errors")], error_bars(results))


def error_bars(results: Sequence[Result]) -> list[Panel]:
    """Bars of energy and force errors for each choice of labels and test set."""
    found: dict[tuple, list] = {}
    for group in grouped(results):
        found.setdefault((*map(str, group.labels.values()), group.test), []).append(group)
    panels = []
    for k, (labels, groups) in enumerate(found.items()):
        where = ", ".join(label for label in labels if label != "test")
        for metric, title in QUANTITIES.items():
            drawn = bars(f"bars-{k}-{metric}", groups, metric, title)
            if drawn is not None:
                panels.append(Panel(drawn.name, f"{where}: {title}", drawn.spec, drawn.height))
    return panels
