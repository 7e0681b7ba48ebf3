"""The tangent space of a training set: from a sample of its structures, through the cache."""

import hashlib
from collections.abc import Sequence

import torch

from mekrr.backbones import Backbone
from mekrr.data import Structure
from mekrr.features.cache import FeatureCache, structure_hash
from mekrr.features.tangent import TangentSpace
from mekrr.graph import build_batch

SAMPLE = 32  # structures that principal directions and scales come from
MOVES = 4  # random directions of each, along which scales are measured


def tangent_space(
    structures: Sequence[Structure], backbone: Backbone, cache: FeatureCache | None = None
) -> TangentSpace:
    """The space of some structures that stand for all, each element among them.

    Args:
        structures: of the training set.
        backbone: with an energy and linear maps.
        cache: read first; what is computed is written to it.
    """
    sample = [structures[t].atoms for t in _standing_for(structures)]
    name = space_key(structures, backbone)
    entry = None if cache is None else cache.read(name)
    if entry is not None:
        return TangentSpace.from_tensors(entry)
    graphs = [build_batch([a], backbone.cutoff, backbone.max_neighbours) for a in sample]
    generator = torch.Generator().manual_seed(0)
    moves = [torch.randn(MOVES, len(a), 3, dtype=torch.float64, generator=generator) for a in sample]
    found = TangentSpace.fit(graphs, backbone, moves)
    if cache is not None:
        cache.write(name, found.as_tensors())
    return found


def space_key(structures: Sequence[Structure], backbone: Backbone) -> str:
    """Key of the space in the cache."""
    sample = [structures[t].atoms for t in _standing_for(structures)]
    key = hashlib.sha256("".join(map(structure_hash, sample)).encode()).hexdigest()
    return FeatureCache.key(sample[0], backbone.identity, (), backbone.dtype, f"tangent space {key}")


def _standing_for(structures: Sequence[Structure]) -> list[int]:
    """Indices of a sample: evenly spaced, and one with each element that is missing from it."""
    step = max(1, -(-len(structures) // SAMPLE))
    chosen = list(range(0, len(structures), step))
    there = {int(z) for t in chosen for z in structures[t].species}
    for t, s in enumerate(structures):
        if not set(s.species.tolist()) <= there:
            chosen.append(t)
            there |= set(s.species.tolist())
    return chosen
