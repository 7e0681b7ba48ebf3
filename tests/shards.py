"""Sums over structures as a process pool takes them; here, because another process must be able to import them."""

from dataclasses import dataclass

import torch

from mekrr.cluster.computing import keep_freed_memory
from mekrr.solve import Factor, NormalEquations, Observation, Residuals, RowWeights, leave_one_structure_out


@dataclass(frozen=True, eq=False)
class EquationsOf:
    """Normal equations of a shard."""

    observations: list[Observation]
    weights: RowWeights

    def __call__(self, shard) -> NormalEquations:
        return NormalEquations.of([self.observations[t] for t in shard], self.weights)


@dataclass(frozen=True, eq=False)
class ResidualsOf:
    """Leave-one-structure-out of a shard."""

    observations: list[Observation]
    weights: RowWeights
    factor: Factor
    prior: torch.Tensor
    without: torch.Tensor
    ridges: torch.Tensor

    def __call__(self, shard) -> Residuals:
        chosen = [self.observations[t] for t in shard]
        without = self.without[:, list(shard)]
        return leave_one_structure_out(self.factor, chosen, self.weights, self.prior, without, self.ridges)


class Spelled(str):
    """A sum that tells how it was made."""

    def __add__(self, other):
        return Spelled(f"({self!s}+{other!s})")


def spelled(k):
    return Spelled(str(k))


def divided(x):
    return 1 / x


def times_set(_):
    """How often the process that computes this has set what memory it keeps."""
    return keep_freed_memory.cache_info().currsize
