"""From ase.Atoms to tensors: neighbour lists, batches and strain."""

from mekrr.graph.batch import GraphBatch
from mekrr.graph.build import assemble_batch, build_batch
from mekrr.graph.skin import SkinnedGraph

__all__ = ["GraphBatch", "SkinnedGraph", "assemble_batch", "build_batch"]
