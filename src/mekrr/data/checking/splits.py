"""Splits into training, validation and test structures; equal structures always stay together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from mekrr.data.checking.duplicates import duplicate_groups
from mekrr.data.reading.labels import keys_beside_labels
from mekrr.data.reading.structure import Structure
from mekrr.errors import DataError
from mekrr.typing import Int, ndarray

Method = Literal["random", "group", "time"]


@dataclass(frozen=True)
class Split:
    """Indices of structures, ascending; no structure is in two parts, and no two equal ones are.

    Attributes:
        train: to fit.
        validation: to choose hyperparameters; empty unless asked for.
        test: the rest.
    """

    train: Int[ndarray, "train"]
    validation: Int[ndarray, "validation"]
    test: Int[ndarray, "test"]


def split(
    structures: Sequence[Structure],
    train: float | int = 0.8,
    validation: float | int = 0,
    method: Method = "random",
    group_key: str | None = None,
    seed: int = 0,
) -> Split:
    """Divide a data set.

    Args:
        structures: without errors of `validate`.
        train: a number of structures (int) or a fraction of all (float); met exactly by random splits of structures
            without duplicates, as nearly as whole groups allow by the others.
        validation: likewise.
        method: "random" shuffles structures; "group" shuffles groups that share `info[group_key]`; "time" takes the
            structures in the order given, so that the test set lies in the future of the training set.
        group_key: for "group", e.g. "config_type".
        seed: of the shuffles.

    Raises:
        DataError: when the sizes do not fit, a structure lacks the group key, or too few groups are left for the parts.
    """
    wanted = _counts(len(structures), train, validation)
    units = _units(structures, method, group_key)
    if method != "time":
        np.random.default_rng(seed).shuffle(units)
    fill: Callable = _fill_exactly if method == "random" else _fill_in_order
    chosen = fill(units, wanted)
    _check_filled(chosen, wanted, len(units), method)
    return Split(*chosen)


def _counts(total: int, train: float | int, validation: float | int) -> tuple[int, int]:
    counts = [round(part * total) if isinstance(part, float) else int(part) for part in (train, validation)]
    if min(counts) < 0 or counts[0] == 0 or sum(counts) > total:
        raise DataError(f"cannot take {train} for training and {validation} for validation of {total} structures")
    return counts[0], counts[1]


def _units(structures: Sequence[Structure], method: Method, group_key: str | None) -> list[np.ndarray]:
    """Sets of structures that must stay together, ordered by their first member."""
    labels = duplicate_groups(structures)
    if method == "group":
        labels = _merge(labels, _group_labels(structures, group_key))
    elif method not in ("random", "time"):
        raise DataError(f"unknown split method {method!r}: use 'random', 'group' or 'time'")
    order = np.argsort(labels, kind="stable")
    units = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return sorted(units, key=lambda unit: int(unit[0]))


def _group_labels(structures: Sequence[Structure], key: str | None) -> np.ndarray:
    if key is None:
        raise DataError("a group split needs a group_key, e.g. 'config_type'")
    lacking = [s for s in structures if key not in s.info]
    if lacking:
        raise DataError(f"{lacking[0].where}: no key {key!r} to group by; {keys_beside_labels(lacking[0])}")
    return np.unique([str(s.info[key]) for s in structures], return_inverse=True)[1]


def _merge(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Labels of the finest partition in which members of a set of either partition stay together."""
    n = len(one)
    nodes = np.arange(n)
    rows, columns = np.concatenate([nodes, nodes]), np.concatenate([n + one, 2 * n + other])
    links = coo_matrix((np.ones(2 * n), (rows, columns)), shape=(3 * n, 3 * n))
    return connected_components(links, directed=False)[1][:n]


def _fill_exactly(units: Sequence[np.ndarray], wanted: Sequence[int]) -> list[np.ndarray]:
    """Parts filled one unit after another, passing over those that no longer fit; the rest is the last part."""
    rest, parts = list(units), []
    for count in wanted:
        part: list[int] = []
        left = []
        for unit in rest:
            if len(part) + len(unit) <= count:
                part.extend(unit)
            else:
                left.append(unit)
        parts.append(_ascending(part))
        rest = left
    return [*parts, _ascending([i for unit in rest for i in unit])]


def _fill_in_order(units: Sequence[np.ndarray], wanted: Sequence[int]) -> list[np.ndarray]:
    """Consecutive runs of units, each cut where its size comes nearest to what is wanted."""
    ends = np.cumsum([len(unit) for unit in units])
    cuts, target = [0], 0
    for count in wanted:
        target += count
        cuts.append(cuts[-1] + int(np.abs(np.concatenate([[0], ends])[cuts[-1] :] - target).argmin()))
    return [
        _ascending([i for unit in units[a:b] for i in unit]) for a, b in zip(cuts, [*cuts[1:], len(units)], strict=True)
    ]


def _ascending(indices: Sequence[int]) -> np.ndarray:
    return np.sort(np.array(indices, dtype=int))


def _check_filled(parts: Sequence[np.ndarray], wanted: Sequence[int], n_units: int, method: str) -> None:
    total = sum(map(len, parts))
    expected = [*wanted, total - sum(wanted)]
    for name, part, count in zip(("training", "validation", "test"), parts, expected, strict=True):
        if count > 0 and len(part) == 0:
            raise DataError(
                f"the {name} set of a {method} split stays empty: {total} structures form only {n_units} groups that "
                "must stay together; use another key or other sizes"
            )
