"""Entries of the cache, computed shard by shard, by this process or by workers that may see the same folder."""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mekrr.features.cache import FeatureCache
from mekrr.shards import Shards
from mekrr.typing import Tensor

Entry = dict[str, Tensor]
Keyed = Sequence[tuple[str, Any]]  # a shard: the key of each entry, and what it is computed from
SEEN_LATER = 60.0  # seconds until a file that another machine wrote must be seen


@dataclass(frozen=True, eq=False)
class Stored:
    """A function of a shard whose entries stay on the shared folder; where there is none, they travel.

    Attributes:
        compute: entries of the items of a shard.
        cache: the folder, as the process that asks names it.
        mark: name of a file by which a worker knows the folder again.
    """

    compute: Callable[[Sequence[Any]], list[Entry]]
    cache: FeatureCache
    mark: str

    def __call__(self, shard: Keyed) -> list[Entry] | None:
        """None where the entries stand in the cache."""
        is_shared = (self.cache.folder / self.mark).exists()
        if is_shared and all(self.cache.has(key) for key, _ in shard):
            return None  # written by a worker that died before it could say so
        entries = self.compute([item for _, item in shard])
        if not is_shared:
            return entries
        for (key, _), entry in zip(shard, entries, strict=True):
            self.cache.write(key, entry)
        return None


def computed(
    shards: Shards,
    compute: Callable[[Sequence[Any]], list[Entry]],
    keyed: Sequence[Keyed],
    cache: FeatureCache | None,
    stage: str,
) -> Iterator[tuple[list[Entry], bool]]:
    """Entries of each shard, and whether they stand in the cache already.

    Args:
        shards: who computes.
        compute: entries of the items of a shard.
        keyed: the shards.
        cache: None for none.
        stage: see Shards.map.
    """
    if cache is None or not shards.elsewhere:
        for found in shards.map(compute, [[item for _, item in shard] for shard in keyed], stage):
            yield found, False
        return
    with _marked(cache) as mark:
        for shard, entries in zip(keyed, shards.map(Stored(compute, cache, mark), keyed, stage), strict=True):
            yield ([_awaited(cache, key) for key, _ in shard], True) if entries is None else (entries, False)


@contextmanager
def _marked(cache: FeatureCache) -> Iterator[str]:
    """The name of a file in the folder, there during the block."""
    cache.folder.mkdir(parents=True, exist_ok=True)
    path = cache.folder / f".shared-{secrets.token_hex(8)}"
    path.touch()
    try:
        yield path.name
    finally:
        path.unlink(missing_ok=True)


def _awaited(cache: FeatureCache, key: str) -> Entry:
    """The entry that a worker says it wrote; a network file system may show it late.

    Raises:
        OSError: when it never appears.
    """
    end = time.monotonic() + SEEN_LATER
    while (found := cache.read(key)) is None:
        if time.monotonic() > end:
            raise OSError(f"{cache.folder}: what a worker wrote there is not to be seen here; is the folder shared?")
        time.sleep(0.2)
    return found
