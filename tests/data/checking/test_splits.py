import numpy as np
import pytest
from ase.build import molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from mekrr.data import Structure, read_structures, split
from mekrr.errors import DataError


def make(labels, groups=None) -> list[Structure]:
    """Structures that are equal where their labels are."""
    structures = []
    for i, label in enumerate(labels):
        atoms = molecule("H2O")
        atoms.positions[0, 0] += 0.01 * label
        structures.append(Structure(atoms, -1.0, info={} if groups is None else {"group": groups[i]}, index=i))
    return structures


def parts(result):
    return [result.train, result.validation, result.test]


def are_disjoint(sets):
    return len(set.union(*sets)) == sum(map(len, sets))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 30), min_size=12, max_size=40),
    st.sampled_from(["random", "group", "time"]),
    st.integers(0, 100),
)
def test_parts_are_disjoint_and_duplicates_stay_together(labels, method, seed):
    groups = [f"g{i % 5}" for i in range(len(labels))]
    try:
        result = split(make(labels, groups), 0.6, 0.1, method=method, group_key="group", seed=seed)
    except DataError:
        return  # too few groups are left
    np.testing.assert_array_equal(np.sort(np.concatenate(parts(result))), np.arange(len(labels)))
    assert are_disjoint([{labels[i] for i in part} for part in parts(result)])
    if method == "group":
        assert are_disjoint([{groups[i] for i in part} for part in parts(result)])


def test_sizes_are_exact_without_duplicates():
    structures = make(range(50))
    assert [len(p) for p in parts(split(structures, 30, 5))] == [30, 5, 15]
    assert [len(p) for p in parts(split(structures, 0.5, 0.2))] == [25, 10, 15]
    assert [len(p) for p in parts(split(structures, 1.0))] == [50, 0, 0]


def test_seed_decides():
    structures = make(range(50))
    first, again, other = (split(structures, 25, seed=seed).train for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_time_keeps_the_future_for_the_test():
    result = split(make([0, 1, 2, 3, 4, 5, 6, 7, 1, 9]), 0.5, method="time")
    assert max(result.train[:-1]) < min(result.test)
    assert 8 in result.train  # it equals frame 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": 11}, "cannot take 11 for training"),
        ({"train": 0}, "cannot take 0"),
        ({"method": "group", "group_key": "colour"}, "no key 'colour' to group by; keys found: group"),
        ({"method": "group"}, "needs a group_key"),
        ({"method": "magic"}, "unknown split method 'magic'"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(DataError, match=message):
        split(make(range(10), "abcabcabca"), **arguments)


def test_a_part_must_not_stay_empty():
    with pytest.raises(DataError, match="the test set of a group split stays empty"):
        split(make(range(10), "a" * 10), 0.8, method="group", group_key="group")


def test_segments_of_real_data(real_data):
    structures = read_structures(real_data / "cu_formate" / "systematic.extxyz.gz")
    result = split(structures, 0.5, method="group", group_key="segment")
    train, test = ({structures[i].info["segment"] for i in part} for part in (result.train, result.test))
    assert train.isdisjoint(test)
