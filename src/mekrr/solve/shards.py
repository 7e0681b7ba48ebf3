"""Sums over structures as functions of a shard, behind one map and one merge.

Every sum of a fit (equations, leave-one-out, products of the iteration) is a function of a shard that can be pickled,
mapped over shards and added up in their order, so that the result does not depend on who computed what. Here the map is
the builtin one; a process pool's `map` or a cluster's takes its place without a change elsewhere.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from operator import add
from typing import Any, TypeVar

Shard = Sequence[int]  # indices of structures
Part = TypeVar("Part")
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


def map_shards(function: Callable[[Shard], Part], shards: Sequence[Shard], mapper: Map = map) -> Iterator[Part]:
    """What the function makes of each shard, in order."""
    yield from mapper(function, shards)


def merge(parts: Iterable[Part]) -> Part:
    """The sum of all parts, in order.

    Raises:
        ValueError: when there is none.
    """
    iterator = iter(parts)
    try:
        first = next(iterator)
    except StopIteration:
        raise ValueError("there are no structures to sum over") from None
    return reduce(add, iterator, first)
