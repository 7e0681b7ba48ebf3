"""Per-atom features: extraction in batches, scaling and the disk cache."""

from mekrr.features.environments import Environments

__all__ = ["Environments"]
