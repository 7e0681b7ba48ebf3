from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from mekrr.data import Structure, as_structures
from mekrr.errors import DataError
from mekrr.features import structure_hash
from mekrr_comparison.sets import DataSet, Sizes, across, aligned, divide, held_out, named, read_sets, union


@pytest.fixture(scope="module")
def structures(alloys):
    return [replace(s, info={"part": t // 6}) for t, s in enumerate(as_structures(alloys))]


def hashes(structures):
    return {structure_hash(s.atoms) for s in structures}


def test_what_a_method_may_see_includes_its_validation_set(structures):
    parts = divide(structures, Sizes(train=20, validation=4, test=5), seed=1)
    assert [len(p) for p in (parts.training, parts.validation, parts.test)] == [16, 4, 5]
    assert not hashes(parts.training) & hashes(parts.test)
    assert not hashes(parts.validation) & hashes(parts.training)


def test_splits_differ_between_seeds_and_repeat(structures):
    one, again, other = (divide(structures, Sizes(train=12), seed=s) for s in (3, 3, 4))
    assert [structure_hash(s.atoms) for s in one.training] == [structure_hash(s.atoms) for s in again.training]
    assert hashes(one.test) != hashes(other.test)


def test_groups_stay_whole_between_training_and_test(structures):
    parts = divide(structures, Sizes(train=10), seed=0, group="part")
    assert len(parts.training) + len(parts.validation) == 10
    trained = {s.info["part"] for s in parts.training + parts.validation}
    assert not trained & {s.info["part"] for s in parts.test}


def test_too_many_are_refused_in_words(structures):
    with pytest.raises(DataError, match="36 structures"):
        divide(structures, Sizes(train=40), seed=0)
    with pytest.raises(DataError, match="lower --train-size"):
        divide(structures, Sizes(train=30), seed=0, group="part")
    with pytest.raises(DataError, match="--validation-size"):
        held_out(structures[:4], Sizes(validation=4))


def test_across_leaves_out_of_the_test_what_was_trained_on(structures):
    one, other = DataSet("a", structures[:20]), DataSet("b", structures[15:])
    parts = across(one, other, Sizes(), seed=0)
    assert len(parts.test) == 16
    assert not hashes(parts.training + parts.validation) & hashes(parts.test)
    # Also where a random subset is trained on: the rest of the common structures are not tested on either.
    assert len(across(one, other, Sizes(train=5), seed=0).test) == 16
    with pytest.raises(DataError, match="nothing is left to test on"):
        across(one, DataSet("c", structures[:5]), Sizes(), seed=0)


def test_no_zero_is_read_off_compositions_that_are_not_determined():
    """One composition trained on: the element references are anybody's guess, and so is a difference between them."""

    def crystal(symbols, energy):
        atoms = Atoms(symbols, np.random.default_rng(len(symbols)).normal(size=(len(symbols), 3)))
        return Structure(atoms, energy)

    one = DataSet("a", [crystal(["Cu", "H"], -4.0), crystal(["Cu", "H"], -4.1)])
    other = DataSet("b", [crystal(["Cu", "Cu", "H"], -7.7)])
    kept = aligned(one, other)
    assert kept.structures is other.structures
    assert "energies not shifted" in kept.notes[0]
    determined = DataSet("c", [*one.structures, crystal(["Cu", "Cu"], -7.4)])
    assert "shifted to" in aligned(determined, DataSet("b", [crystal(["Cu", "Cu", "H"], -70.0)])).notes[0]


def test_another_zero_is_taken_out_and_said(structures):
    one = DataSet("a", structures[:18])
    moved = [replace(s, energy=s.energy + 3.0 * len(s)) for s in structures[18:]]
    back = aligned(one, DataSet("b", moved))
    assert "shifted to the composition reference of a" in back.notes[0]
    errors = [b.energy / len(b) - s.energy / len(s) for b, s in zip(back.structures, structures[18:], strict=True)]
    assert np.abs(errors).max() < 0.5
    assert np.ptp(errors) < 0.5
    assert aligned(one, DataSet("b", moved), "never").notes == ()
    assert aligned(one, DataSet("b", structures[18:])).structures is not moved
    assert aligned(one, DataSet("b", structures[18:])).notes == ()
    assert aligned(one, DataSet("b", structures[18:]), "always").notes != ()


def test_sets_are_named_divided_and_joined(alloys, tmp_path):
    for t, atoms in enumerate(alloys[:6]):
        atoms = atoms.copy()
        atoms.calc = alloys[t].calc
        atoms.info["part"] = t % 2
        write(tmp_path / ("one.extxyz" if t < 4 else "two.extxyz"), atoms, append=True)
    files = [str(tmp_path / "one.extxyz"), str(tmp_path / "two.extxyz")]
    assert [(d.name, len(d.structures)) for d in read_sets(files)] == [("one", 4), ("two", 2)]
    parts = read_sets(files, by="part")
    assert [(d.name, len(d.structures)) for d in parts] == [("0", 3), ("1", 3)]
    assert len(named(parts, "0+1").structures) == len(union(parts).structures) == 6
    assert [d.name for d in read_sets([files[0], files[0]])] == ["one-1", "one-2"]
    with pytest.raises(DataError, match="no data set is called 'x'; there are: 0, 1"):
        named(parts, "0+x")
    with pytest.raises(DataError, match="no info key 'nothing'"):
        read_sets(files, by="nothing")


def test_violent_structures_are_left_out_and_counted(alloys, tmp_path):
    write(tmp_path / "all.extxyz", alloys)
    largest = sorted(np.abs(a.get_forces()).max() for a in alloys)
    limit = (largest[-3] + largest[-4]) / 2
    data = read_sets([str(tmp_path / "all.extxyz")], max_force=limit)[0]
    assert len(data.structures) == len(alloys) - 3
    assert "3 structures" in data.notes[0]
    with pytest.raises(DataError, match="every structure"):
        read_sets([str(tmp_path / "all.extxyz")], max_force=1e-9)
