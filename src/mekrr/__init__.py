"""Interatomic potentials from little data, by kernel ridge regression on frozen graph-neural-network features."""

from mekrr._version import __version__

__all__ = ["__version__"]
