"""Error against the species weight, and the energies by element that go with it."""

from collections.abc import Sequence
from typing import Any, ClassVar

from mekrr.pages.figures import Panel
from mekrr.pages.words import number
from mekrr_comparison.cell import Cell
from mekrr_comparison.figures import CHOSEN, ENERGY, QUANTITIES, curves
from mekrr_comparison.runner import Result
from mekrr_comparison.sets import divide, union
from mekrr_comparison.tables import Group, Table, grouped, spread
from mekrr_comparison.tasks.base import Finding, Inputs, Task, main_table, notes_of

WEIGHTS = tuple(step / 10 for step in range(11))
AUTO = "auto"
LABEL = "species weight"


class SpeciesWeight(Task):
    """The paper's alpha, from one weight for all atoms to one for each species."""

    name: ClassVar[str] = "species-weight"
    title: ClassVar[str] = "Error against the species weight"
    question: ClassVar[str] = (
        "How much does telling the species apart help, does leave-one-out find the best weight, and how does the "
        "weight share the energy among the elements?"
    )
    methods: ClassVar[tuple[str, ...]] = ("mekrr-exact",)
    own_only: ClassVar[bool] = True

    def plan(self, inputs: Inputs) -> tuple[list[Cell], list[str]]:
        """Each weight, and leave-one-out's choice."""
        data = union(inputs.sets)
        splits = [divide(data.structures, inputs.sizes, seed, inputs.group) for seed in inputs.seeds]
        cells = []
        for method in self.chosen_methods(inputs):
            for weight in (*WEIGHTS, AUTO):
                more: dict[str, Any] = {"options": {"species_weight": weight}}
                pairs = zip(splits, inputs.seeds, strict=True)
                cells += [inputs.cell(method, {LABEL: weight}, parts, seed, **more) for parts, seed in pairs]
        return cells, notes_of(inputs.sets)

    def find(self, results: Sequence[Result]) -> Finding:
        """Errors, energies by element and the choice."""
        groups = grouped(results)
        fixed = [group for group in groups if group.labels[LABEL] != AUTO and group.done]
        chosen = [group for group in groups if group.labels[LABEL] == AUTO and group.done]
        panels = [*_error_panels(fixed, chosen), *_element_panels(fixed)] if fixed else []
        tables = [main_table(results, "Errors"), *_element_tables(fixed)]
        return Finding(tables, panels, [s for group in chosen for s in _sentences(group, fixed)])


def _error_panels(fixed: Sequence[Group], chosen: Sequence[Group]) -> list[Panel]:
    panels = []
    for metric, title in QUANTITIES.items():
        series: dict[str, list[tuple[float, list[float]]]] = {}
        for group in fixed:
            if group.values(metric):
                series.setdefault(group.method, []).append((float(group.labels[LABEL]), group.values(metric)))
            loo = [r.record["chosen"]["leave_one_out"].get("rmse_mev_per_atom") for r in group.done]
            if title == ENERGY and None not in loo:
                series.setdefault(f"{group.method}, leave-one-out", []).append((float(group.labels[LABEL]), loo))
        for group in chosen:
            at = [r.record["chosen"]["species_weight"] for r in group.done]
            points = [(w, [value]) for w, value in zip(at, group.values(metric), strict=False)]
            series |= {f"{group.method}{CHOSEN}": sorted(points)} if points else {}
        if series:
            panels.append(curves(f"weight-{metric}", title, series, LABEL, title, log_x=False))
    return panels


def _element_panels(fixed: Sequence[Group]) -> list[Panel]:
    series: dict[str, list[tuple[float, list[float]]]] = {}
    for group in fixed:
        for element, deviations in _by_element(group, "deviation_ev").items():
            series.setdefault(f"{group.method} {element}", []).append((float(group.labels[LABEL]), deviations))
    heading = "how much the learnt energies of an element's atoms differ between structures and sites"
    return [curves("elements", heading, series, LABEL, "deviation, eV/atom", log_x=False)] if series else []


def _element_tables(fixed: Sequence[Group]) -> list[Table]:
    rows, elements = [], sorted({e for group in fixed for e in _by_element(group, "mean_ev")})
    for group in fixed:
        means, deviations = _by_element(group, "mean_ev"), _by_element(group, "deviation_ev")
        pairs = [(spread(means.get(e, [])), spread(deviations.get(e, []))) for e in elements]
        rows.append((str(group.labels[LABEL]), group.method, *(word for pair in pairs for word in pair)))
    if not elements:
        return []
    columns = (LABEL, "method", *(head for e in elements for head in (f"{e} mean", f"{e} deviation")))
    note = "eV per atom of each element over the test structures. Only differences between structures are physical."
    return [Table("Energy by element", columns, tuple(rows), frozenset(range(2, len(columns))), note)]


def _by_element(group: Group, what: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for result in group.done:
        for element, values in result.record["tests"][group.test].get("energy_by_element", {}).items():
            found.setdefault(element, []).append(values[what])
    return found


def _sentences(group: Group, fixed: Sequence[Group]) -> list[str]:
    """How far the choice is from the best weight on the test set."""
    metric = "energy_rmse_mev_per_atom"
    means = {float(g.labels[LABEL]): g.mean(metric) for g in fixed if g.method == group.method}
    known = {weight: mean for weight, mean in means.items() if mean is not None}
    own = group.mean(metric)
    if not known or own is None:
        return []
    best = min(known, key=lambda weight: known[weight])
    at = ", ".join(number(r.record["chosen"]["species_weight"], 2) for r in group.done)
    return [
        f"{group.method}: leave-one-out chose {at}, with {number(own)} meV/atom on the test set; the best fixed weight "
        f"there is {best:g} with {number(known[best])}."
    ]
