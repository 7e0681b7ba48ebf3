"""Labelled structures: readers, validation, splits and the registry of data sets."""

from mekrr.data.structure import Structure

__all__ = ["Structure"]
