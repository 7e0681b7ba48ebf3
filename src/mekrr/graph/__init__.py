"""From ase.Atoms to tensors: neighbour lists, batches and strain."""

from mekrr.graph.batch import GraphBatch

__all__ = ["GraphBatch"]
