"""Errors on structures with an element that was not in the training data, and whether they were announced."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from ase.data import chemical_symbols

from mekrr.data import Structure
from mekrr.errors import DataError
from mekrr.pages.figures import Panel
from mekrr.pages.words import MISSING
from mekrr_comparison.cell import Cell
from mekrr_comparison.figures import QUANTITIES, bars
from mekrr_comparison.runner import Result
from mekrr_comparison.sets import Parts, Sizes, held_out, union
from mekrr_comparison.tables import Footnotes, Group, Table, grouped, spread
from mekrr_comparison.tasks.base import Finding, Inputs, Task, notes_of

SEEN, UNSEEN = "elements trained on", "left-out element"
TEST_SHARE = 0.2  # of the structures without the element
COLUMNS = {
    "E RMSE": "energy_rmse_mev_per_atom",
    "E RMSE less one offset a composition": "energy_rmse_per_composition_mev_per_atom",
    "F RMSE": "forces_rmse_mev_per_angstrom",
    "predicted deviation": "mean_energy_std_mev_per_atom",
    "within one deviation": "share_within_one_std",
    "within two": "share_within_two_std",
}

OFFSET_REMOVED = {"energy_rmse_per_composition_mev_per_atom": "energy RMSE less one offset a composition, meV/atom"}


class UnseenSpecies(Task):
    """Each element that not all structures have is left out in turn."""

    name: ClassVar[str] = "unseen-species"
    title: ClassVar[str] = "An element that was not in the training data"
    question: ClassVar[str] = "How wrong are predictions for a new element, and did the potential say so?"
    methods: ClassVar[tuple[str, ...]] = ("mekrr", "backbone+shifts")

    def plan(self, inputs: Inputs) -> tuple[list[Cell], list[str]]:
        """Every element, method and seed; mekrr with its own choice of prior and with the backbone's."""
        data, cells = union(inputs.sets), []
        for z in _elements(data.structures):
            splits = [(_divided(data.structures, z, inputs.sizes, seed), seed) for seed in inputs.seeds]
            for method in self.chosen_methods(inputs):
                for prior, options in _priors(method):
                    labels = {"left out": chemical_symbols[z], "prior": prior}
                    for (parts, seen), seed in splits:
                        tests = {SEEN: seen, UNSEEN: parts.test}
                        cells.append(inputs.cell(method, labels, parts, seed, tests=tests, options=options))
        return cells, notes_of(inputs.sets)

    def find(self, results: Sequence[Result]) -> Finding:
        """Errors and deviations with and without the element."""
        groups = grouped(results)
        return Finding([_table(groups, "Errors")], list(_panels(groups)), _sentences(groups))


def _elements(structures: Sequence[Structure]) -> list[int]:
    """Atomic numbers that some structures have and others have not.

    Raises:
        DataError: when there is none.
    """
    holders = [set(s.species.tolist()) for s in structures]
    found = sorted(set.union(*holders) - set.intersection(*holders))
    if not found:
        raise DataError("every structure has the same elements; unseen-species needs several compositions")
    return found


def _divided(structures: Sequence[Structure], z: int, sizes: Sizes, seed: int) -> tuple[Parts, list[Structure]]:
    """Training without the element, test with it, and a test set of the elements trained on."""
    rng = np.random.default_rng(seed)
    shuffled = [structures[i] for i in rng.permutation(len(structures))]
    without = [s for s in shuffled if z not in s.species]
    with_it = [s for s in shuffled if z in s.species][: sizes.test]
    cut = max(1, round(TEST_SHARE * len(without)))
    pool = without[cut:][: sizes.train]
    if len(pool) < 5:
        raise DataError(f"only {len(pool)} structures are without {chemical_symbols[z]}; too few to train on")
    return Parts(*held_out(pool, sizes), with_it), without[:cut][: sizes.test]


def _priors(method: str) -> list[tuple[str, dict[str, Any]]]:
    if not method.startswith("mekrr") or "paper" in method:
        return [(MISSING, {})]
    return [("auto", {}), ("backbone", {"prior": "backbone"})]


def _table(groups: Sequence[Group], title: str) -> Table:
    rows, footnotes = [], Footnotes()
    for group in groups:
        numbers = [spread(_percent(group.values(m)) if "share" in m else group.values(m)) for m in COLUMNS.values()]
        words = (group.labels["left out"], group.labels["prior"], group.method, group.test)
        rows.append((*words, *numbers, _said(group) or footnotes.mark(group)))
    columns = ("left out", "prior", "method", "tested on", *COLUMNS, "said")
    note = (
        "Energies and deviations in meV/atom, forces in meV/Å, shares in %. The zero of a new element's energy is "
        "unknown: one offset a composition is removed in the second column. A calibrated deviation has 68% within one."
    )
    return Table(title, columns, tuple(rows), frozenset(range(4, len(columns) - 1)), note, footnotes.numbered())


def _percent(shares: Sequence[float]) -> list[float]:
    return [100 * share for share in shares]


def _said(group: Group) -> str:
    """Whether the method warned of the new element, where it predicted at all."""
    if group.test != UNSEEN or not group.done or group.remarks:
        return ""
    warned = any(_names(w, group.labels["left out"]) for r in group.done for w in r.record["warnings"])
    return "warned" if warned else "nothing"


def _names(warning: str, element: str) -> bool:
    return warning.startswith(f"{element}:") or "not in the training data" in warning


def _panels(groups: Sequence[Group]) -> Iterator[Panel]:
    offset_removed = {COLUMNS["E RMSE less one offset a composition"]: "energy RMSE less one offset a composition"}
    for metric, title in (QUANTITIES | offset_removed).items():
        drawn = bars(f"unseen-{metric}", [g for g in groups if g.test == UNSEEN], metric, f"{UNSEEN}: {title}")
        if drawn is not None:
            yield drawn


def _sentences(groups: Sequence[Group]) -> list[str]:
    own = [g for g in groups if g.test == UNSEEN and g.method.startswith("mekrr") and g.done]
    if not own:
        return []
    refused = sum("refused" in group.remarks for group in own)
    warned = sum(_said(group) == "warned" for group in own)
    shares = [v for g in own for v in g.values("share_within_two_std")]
    sentence = f"Of {len(own)} cases with a new element, mekrr refused {refused} and warned in {warned}."
    if shares:
        sentence += (
            f" Where it predicted, {100 * float(np.mean(shares)):.0f}% of the energies lay within two predicted "
            "deviations (95% would be calibrated)."
        )
    return [sentence]
