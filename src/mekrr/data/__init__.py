"""Labelled structures: readers, validation, splits and the registry of data sets."""

from mekrr.data.checking.composition import (
    CompositionReference,
    composition_matrix,
    fit_composition_reference,
    is_isolated_atom,
    isolated_atom_energies,
    outside_row_space,
)
from mekrr.data.checking.duplicates import distinct, duplicate_groups, sketches_of
from mekrr.data.checking.issues import Issue
from mekrr.data.checking.magnitudes import units_beside
from mekrr.data.checking.origins import label_remarks
from mekrr.data.checking.soundness import require_sound
from mekrr.data.checking.splits import Split, split
from mekrr.data.checking.summary import DatasetSummary, inspect_report, summary
from mekrr.data.checking.validation import Checked, check, raise_on_errors, validate
from mekrr.data.reading.drawer import OWN_RESULTS
from mekrr.data.reading.labels import LabelKeys, as_structures, from_ase
from mekrr.data.reading.readers import read_structures
from mekrr.data.reading.structure import Structure
from mekrr.data.reading.xyz import info_to_write
from mekrr.data.registry import DatasetEntry, datasets, fetch, load_dataset

__all__ = [
    "OWN_RESULTS",
    "Checked",
    "CompositionReference",
    "DatasetEntry",
    "DatasetSummary",
    "Issue",
    "LabelKeys",
    "Split",
    "Structure",
    "as_structures",
    "check",
    "composition_matrix",
    "datasets",
    "distinct",
    "duplicate_groups",
    "fetch",
    "fit_composition_reference",
    "from_ase",
    "info_to_write",
    "inspect_report",
    "is_isolated_atom",
    "isolated_atom_energies",
    "label_remarks",
    "load_dataset",
    "outside_row_space",
    "raise_on_errors",
    "read_structures",
    "require_sound",
    "sketches_of",
    "split",
    "summary",
    "units_beside",
    "validate",
]
