"""Functions of shards on the workers of a Dask cluster; Dask is imported when there is one."""

from mekrr.cluster.computing import ClusterShards, shards_of
from mekrr.cluster.starting import NONE, check_where, connected

__all__ = ["NONE", "ClusterShards", "check_where", "connected", "shards_of"]
