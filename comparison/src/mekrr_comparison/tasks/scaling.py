"""Seconds and memory against structures, atoms a structure, and features."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from mekrr.backbones import load_backbone
from mekrr.data import Structure
from mekrr.pages.figures import Panel
from mekrr.pages.words import number
from mekrr_comparison.cell import Cell
from mekrr_comparison.figures import curves
from mekrr_comparison.runner import Result
from mekrr_comparison.sets import Parts, divide, union
from mekrr_comparison.tables import Group, Table, grouped
from mekrr_comparison.tasks.base import Finding, Inputs, Task, main_table, notes_of
from mekrr_comparison.tasks.learning_curve import doubling

AXES = ("structures", "atoms a structure", "features")
REPEATS = ((1, 1, 1), (2, 1, 1), (2, 2, 1), (4, 2, 1))
MOST_ATOMS = 800  # of a supercell
LOADING = "backbone"  # the stage that imports and loads the network, the same for every fit
FIXED = 25  # structures where something else is varied
TESTED = 10


class Scaling(Task):
    """Always without the cache, so that seconds are whole."""

    name: ClassVar[str] = "scaling"
    title: ClassVar[str] = "Seconds and memory"
    question: ClassVar[str] = "How do the costs of a fit grow with the data, the size of a structure and the features?"
    methods: ClassVar[tuple[str, ...]] = ("mekrr-exact", "mekrr-sparse", "mekrr")
    own_only: ClassVar[bool] = True

    def plan(self, inputs: Inputs) -> tuple[list[Cell], list[str]]:
        """Each axis in turn."""
        data = union(inputs.sets)
        sizes = inputs.train_sizes or doubling(round(0.9 * len(data.structures)))
        splits = [divide(data.structures, replace(inputs.sizes, train=max(sizes), validation=0, test=TESTED), seed)
                  for seed in inputs.seeds]  # fmt: skip
        cells = []
        for method in self.chosen_methods(inputs):
            for parts, seed in zip(splits, inputs.seeds, strict=True):
                for axis, size, part, options in _points(parts, sizes, inputs.backbone):
                    labels = {"axis": axis, "size": size}
                    cells.append(inputs.cell(method, labels, part, seed, options=options, cache=None))
        return cells, notes_of(inputs.sets)

    def find(self, results: Sequence[Result]) -> Finding:
        """Exponents and curves for each axis."""
        groups = grouped(results)
        return Finding(
            [_exponents(groups), _stages(groups), main_table(results, "Everything measured")], _panels(groups)
        )


def _points(parts: Parts, sizes: Sequence[int], spec: str) -> Iterator[tuple[str, int, Parts, dict]]:
    """Axis, size along it, data and options."""
    for n in sizes:
        yield AXES[0], n, Parts(parts.training[:n], [], parts.test), {}
    few = parts.training[:FIXED]
    for repeat in REPEATS:
        size = round(np.mean([len(s) for s in few]) * math.prod(repeat))
        if all(s.atoms.cell.rank == 3 for s in few) and size <= MOST_ATOMS:
            large = [supercell(s, repeat) for s in few]
            yield AXES[1], size, Parts(large, [], [supercell(s, repeat) for s in parts.test[:2]]), {}
    backbone = load_backbone(spec)
    for depth in range(1, len(backbone.layers) + 1):
        layers = list(backbone.layers[:depth])
        width = sum(backbone.layer_widths[name] for name in layers)
        yield AXES[2], width, Parts(few, [], parts.test), {"layers": layers}


def supercell(structure: Structure, repeat: tuple[int, int, int]) -> Structure:
    """The structure repeated, with its labels; energies of cells without interactions across copies add up exactly."""
    n = math.prod(repeat)
    return replace(
        structure,
        atoms=structure.atoms.repeat(repeat),
        energy=None if structure.energy is None else n * structure.energy,
        forces=None if structure.forces is None else np.tile(structure.forces, (n, 1)),
    )


def _points_of(groups: Sequence[Group], axis: str, method: str) -> list[tuple[float, float, float]]:
    """Size, seconds of the fit without loading, MiB beyond those of the start."""
    found = []
    for group in groups:
        seconds = group.of_record(lambda record: record["seconds"]["fit"] - record["seconds"]["stages"].get(LOADING, 0))
        memory = group.of_record(lambda record: record["peak_memory_mib"] - record["memory_at_start_mib"])
        if group.labels["axis"] == axis and group.method == method and seconds is not None and memory is not None:
            found.append((float(group.labels["size"]), seconds, max(memory, 1.0)))
    return sorted(found)


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float | None:
    """P of cost ~ size^p by least squares over the logarithms of the upper half of the sizes, at least three points."""
    last = max(3, len(sizes) // 2 + 1)
    if len(set(sizes[-last:])) < 2:
        return None
    return float(np.polyfit(np.log(sizes[-last:]), np.log(costs[-last:]), 1)[0])


def _exponents(groups: Sequence[Group]) -> Table:
    rows = []
    for axis in AXES:
        for method in dict.fromkeys(group.method for group in groups):
            points = _points_of(groups, axis, method)
            if points:
                sizes, seconds, memory = zip(*points, strict=True)
                words = [f"{sizes[0]:g} to {sizes[-1]:g}", number(seconds[0]), number(seconds[-1])]
                powers = [number(exponent(sizes, costs), 2) for costs in (seconds, memory)]
                rows.append((axis, method, *words, powers[0], number(memory[-1]), powers[1]))
    columns = ("axis", "method", "sizes", "first, s", "last, s", "time exponent", "last, MiB", "memory exponent")
    note = (
        "Fits include features, but not loading the network. Memory is what a fit takes beyond the started process. "
        "Exponents are fitted to the "
        f"upper half of the sizes. The other axes stand at {FIXED} structures."
    )
    return Table("Growth", columns, tuple(rows), frozenset(range(2, 8)), note)


def _stages(groups: Sequence[Group]) -> Table:
    stages = list(dict.fromkeys(s for g in groups for r in g.done for s in r.record["seconds"]["stages"]))
    rows = []
    for group in groups:
        if group.done:
            times = [_stage(group, stage) for stage in stages]
            rows.append((group.labels["axis"], f"{group.labels['size']:g}", group.method, *times))
    columns = ("axis", "size", "method", *stages)
    return Table("Seconds by stage", columns, tuple(rows), frozenset(range(1, len(columns))) - {2})


def _stage(group: Group, stage: str) -> str:
    return number(group.of_record(lambda record: record["seconds"]["stages"].get(stage, 0.0)))


def _panels(groups: Sequence[Group]) -> list[Panel]:
    panels = []
    methods = list(dict.fromkeys(group.method for group in groups))
    for k, axis in enumerate(AXES):
        for column, title in ((1, "seconds of a fit"), (2, "memory, MiB")):
            series = {
                method: [(point[0], [point[column]]) for point in points]
                for method in methods
                if (points := _points_of(groups, axis, method))
            }
            if series:
                panels.append(curves(f"scaling-{k}-{column}", f"{title} against {axis}", series, axis, title))
    return panels
