"""Sums over structures as pure functions of a shard: one map, one merge, whoever computes.

Everything a fit does structure by structure (features, derivatives, equations, leave-one-out, products of the
iteration) is a function of a shard that can be pickled. The cut into shards depends on the data alone, results come in
the order of the shards, and sums are made in a tree whose shape depends on their number alone: bits do not depend on
who computes, or who finishes first. Here everything is computed in this process; `mekrr.cluster` hands it to others.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, TypeVar

Part = TypeVar("Part")

FAN = 8  # parts that one node of the tree adds up, in order: few partial sums in memory, little depth


@dataclass
class Work:
    """What one worker did in one stage.

    Attributes:
        stage: of the fit.
        worker: its address.
        shards: how many.
        seconds: spent in them.
    """

    stage: str
    worker: str
    shards: int = 0
    seconds: float = 0.0


@dataclass(eq=False)
class Shards:
    """Where functions of shards are computed: here, one shard after another.

    Attributes:
        work: of others; what this process does itself is in the seconds of the stages.
    """

    work: list[Work] = field(default_factory=list)

    @property
    def elsewhere(self) -> bool:
        """Whether functions, shards and results travel to other processes."""
        return False

    def map(
        self, function: Callable[..., Part], shards: Sequence[Any], stage: str = "", state: Any = None
    ) -> Iterator[Part]:
        """What the function makes of each shard, in their order.

        Args:
            function: pure, of a shard and the state.
            shards: whatever the function takes.
            stage: what is done, in a word.
            state: of this call, the same for all shards; None where the function takes none.
        """
        for shard in shards:
            yield function(shard) if state is None else function(shard, state)

    def sum(
        self,
        function: Callable[..., Part],
        shards: Sequence[Any],
        stage: str = "",
        state: Any = None,
        progress: Callable[[int], None] | None = None,
    ) -> Part:
        """The sum over all shards, as `merge` makes it.

        Args:
            function: see `map`.
            shards: see `map`.
            stage: see `map`.
            state: see `map`.
            progress: called with the shards done.

        Raises:
            ValueError: when there are none.
        """
        return merge(_counted(self.map(function, shards, stage, state), progress))

    def status(self) -> str:
        """How far it is, in a few words, for a progress bar; empty where nobody else computes."""
        return ""


HERE = Shards()


def merge(parts: Iterable[Part]) -> Part:
    """The sum of all parts: FAN of them are added in order, then FAN such sums, and so on.

    Few partial sums are in memory at a time, and the shape of the tree follows from the number of parts.

    Raises:
        ValueError: when there is none.
    """
    levels: list[list[Any]] = []  # of each level the sum so far, and of how many
    for part in parts:
        _push(levels, 0, part)
    left = [partial for partial, count in levels if count]
    if not left:
        raise ValueError("there are no structures to sum over")
    # the last node of each level is not full; it is the last part of the node above
    return reduce(lambda below, above: above + below, left)


def _counted(parts: Iterable[Part], progress: Callable[[int], None] | None) -> Iterator[Part]:
    for done, part in enumerate(parts, 1):
        if progress is not None:
            progress(done)
        yield part


def _push(levels: list[list[Any]], level: int, part: Any) -> None:
    if level == len(levels):
        levels.append([None, 0])
    partial, count = levels[level]
    total = part if count == 0 else partial + part
    if count + 1 == FAN:
        levels[level] = [None, 0]
        _push(levels, level + 1, total)
    else:
        levels[level] = [total, count + 1]
