"""Labelled structures: readers, validation, splits and the registry of data sets."""

from mekrr.data.labels import LabelKeys, as_structures, from_ase
from mekrr.data.readers import read_structures
from mekrr.data.structure import Structure

__all__ = ["LabelKeys", "Structure", "as_structures", "from_ase", "read_structures"]
