"""Labels that are told: which ask each belongs to, and what is refused before any is taken."""

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr.data import as_structures
from mekrr.errors import DataError
from mekrr.learning import learn
from mekrr.learning.journal import read_labels
from mekrr.learning.labels import Ask
from mekrr.learning.outside import _ask_of

from .conftest import FIXED


def _labelled(atoms, shift=0.0):
    found = atoms.copy()
    found.calc = EMT()
    results = {"energy": found.get_potential_energy() + shift, "forces": found.get_forces()}
    found.calc = SinglePointCalculator(found, **results)
    return found


def test_a_label_that_is_told_twice_is_taken_once(cluster, tmp_path):
    words = {"folder": tmp_path, **FIXED}
    asked = list(learn("relax", cluster, **words))[-1].structures[0]
    rounded = asked.copy()
    rounded.positions[3] += 4e-4  # too far for the check of doubles, near enough for an ask
    with pytest.raises(DataError, match="another energy or other forces than"):
        learn("relax", cluster, tell=[_labelled(asked), _labelled(rounded, 0.1)], **words)
    assert read_labels(tmp_path) == []
    events = list(learn("relax", cluster, tell=[_labelled(asked), _labelled(asked)], **words))
    assert any("it was taken once" in event.text for event in events if event.kind == "remark")
    assert events[-1].kind == "to-label"
    assert len(read_labels(tmp_path)) == 1


def test_nothing_is_taken_when_one_has_no_forces(hop, tmp_path):
    words = {"folder": tmp_path, "images": 3, **FIXED}
    first, second = list(learn("neb", *hop, **words))[-1].structures
    second.calc = SinglePointCalculator(second, energy=1.0)
    with pytest.raises(DataError, match="it has no forces"):
        learn("neb", *hop, tell=[_labelled(first), second], **words)
    assert read_labels(tmp_path) == []


def test_a_label_in_another_cell_was_not_asked_for():
    asked = bulk("Cu", cubic=True)
    other, empty = asked.copy(), asked.copy()
    other.set_cell(other.cell * 1.01)
    empty.pbc = (True, True, False)
    wider = empty.copy()
    wider.cell[2, 2] += 5
    assert _ask_of(*as_structures([_labelled(wider)]), [Ask(3, empty, "why")]).number == 3
    with pytest.raises(DataError, match=r"was not asked for .* and the same cell"):
        _ask_of(*as_structures([_labelled(other)]), [Ask(3, asked, "why")])
