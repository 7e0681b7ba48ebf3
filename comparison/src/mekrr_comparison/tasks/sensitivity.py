"""Error over length scale and ridge around the choice, and how far leave-one-out is from the test optimum."""

from collections.abc import Sequence
from typing import Any, ClassVar

from mekrr.pages.figures import Panel
from mekrr.pages.words import number, plural, power
from mekrr_comparison.cell import Cell
from mekrr_comparison.figures import heat_map
from mekrr_comparison.runner import Result
from mekrr_comparison.sets import divide, union
from mekrr_comparison.tables import Table
from mekrr_comparison.tasks.base import Finding, Inputs, Task, main_table, notes_of

Point = tuple[int, int]


class Sensitivity(Task):
    """The paper's open question of bandwidth and ridge."""

    name: ClassVar[str] = "sensitivity"
    title: ClassVar[str] = "Sensitivity to length scale and ridge"
    question: ClassVar[str] = (
        "How flat is the error around the choice, and how much is lost by choosing without the test set?"
    )
    methods: ClassVar[tuple[str, ...]] = ("mekrr-exact",)
    own_only: ClassVar[bool] = True

    def plan(self, inputs: Inputs) -> tuple[list[Cell], list[str]]:
        """One fit a split, with its surface."""
        data = union(inputs.sets)
        splits = [divide(data.structures, inputs.sizes, seed, inputs.group) for seed in inputs.seeds]
        cells = [
            inputs.cell(method, {"data": data.name}, parts, seed, extra="surface")
            for method in self.chosen_methods(inputs)
            for parts, seed in zip(splits, inputs.seeds, strict=True)
        ]
        return cells, notes_of(inputs.sets)

    def find(self, results: Sequence[Result]) -> Finding:
        """Choice against optimum for each seed; the surfaces of the first."""
        done = [result for result in results if result.is_done]
        rows = tuple(_row(result) for result in done)
        columns = (
            "method",
            "seed",
            "length scale",
            "ridge",
            "at the choice",
            "test optimum",
            "lost",
            "optimum at",
        )
        table = Table(
            "Choice and test optimum", columns, rows, frozenset(range(1, 8)),
            "Energy RMSE in meV/atom on the grid around the choice; layers, prior and species weight as chosen.",
        )  # fmt: skip
        panels = [drawn for result in done[:1] for drawn in _panels(result.record["surface"])]
        return Finding([main_table(results, "Errors"), *([table] if rows else [])], panels, [_sentence(done)])


def _lowest(errors: Sequence[Sequence[float]]) -> Point:
    """Row and column of the smallest error."""
    return min(
        ((row, column) for row, line in enumerate(errors) for column in range(len(line))),
        key=lambda at: errors[at[0]][at[1]],
    )


def _at_choice(surface: dict[str, Any]) -> float:
    row = surface["length_scales"].index(surface["chosen"]["length_scale"])
    return surface["test_rmse"][row][surface["ridges"].index(surface["chosen"]["ridge"])]


def _row(result: Result) -> tuple[str, ...]:
    surface = result.record["surface"]
    row, column = _lowest(surface["test_rmse"])
    own, best = _at_choice(surface), surface["test_rmse"][row][column]
    scale, ridge = surface["chosen"]["length_scale"], surface["chosen"]["ridge"]
    at = f"scale x {number(surface['length_scales'][row] / scale, 2)}"
    at += f", ridge x {number(surface['ridges'][column] / ridge, 2)}"
    if {row, column} & {0, len(surface["length_scales"]) - 1} or column == len(surface["ridges"]) - 1:
        at += " (edge)"
    words = (number(scale), power(ridge), number(own), number(best), f"{100 * (own / best - 1):.0f}%", at)
    return (result.cell.method, str(result.cell.seed), *words)


def _sentence(done: Sequence[Result]) -> str:
    lost = []
    for result in done:
        surface = result.record["surface"]
        row, column = _lowest(surface["test_rmse"])
        lost.append(100 * (_at_choice(surface) / surface["test_rmse"][row][column] - 1))
    if not lost:
        return "No fit finished."
    cost = f"{lost[0]:.0f}%" if len(lost) == 1 else f"{min(lost):.0f} to {max(lost):.0f}%"
    return f"Choosing without the test set cost {cost} in energy RMSE over {plural(len(lost), 'fit')}."


def _panels(surface: dict[str, Any]) -> list[Panel]:
    x, y = surface["ridges"], surface["length_scales"]
    marks = {"chosen": (surface["chosen"]["ridge"], surface["chosen"]["length_scale"])}
    for name, errors in (("test optimum", surface["test_rmse"]), ("leave-one-out optimum", surface["loo_rmse"])):
        row, column = _lowest(errors)
        marks[name] = (x[column], y[row])
    return [
        heat_map("test-surface", "error on the test set", x, y, surface["test_rmse"], marks),
        heat_map("loo-surface", "leave-one-out error", x, y, surface["loo_rmse"], marks),
    ]
