from functools import reduce
from operator import add

import pytest

from mekrr.shards import FAN, HERE, merge
from shards import spelled


def test_parts_come_in_the_order_of_their_shards():
    assert list(HERE.map(sum, [[1, 2], [3], []])) == [3, 3, 0]
    assert HERE.sum(list, [[1, 2], [3], [4]]) == [1, 2, 3, 4]


def test_nothing_to_sum_over_is_refused():
    with pytest.raises(ValueError, match="there are no structures to sum over"):
        HERE.sum(sum, [])


def level_by_level(parts):
    """The tree as it is described: FAN neighbours make a node of the next level."""
    while len(parts) > 1:
        parts = [reduce(add, parts[k : k + FAN]) for k in range(0, len(parts), FAN)]
    return parts[0]


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 63, 64, 65, 71, 72, 73, 513])
def test_the_tree_of_a_sum_follows_from_the_number_of_parts(n):
    parts = [spelled(k) for k in range(n)]
    assert merge(iter(parts)) == level_by_level(parts)


def test_progress_counts_shards():
    told = []
    HERE.sum(sum, [[1], [2], [3]], progress=told.append)
    assert told == [1, 2, 3]
