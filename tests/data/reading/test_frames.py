"""Plain frames are what ase makes of them, to types and order; all others are left to it."""

import io

import ase.io
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mekrr.data.reading.frames import plain_frame

CRYSTAL = (
    '2\nLattice="5.2 0.0 0.0 2.6 4.5 0.0 0.0 0.0 18.4" Properties=species:S:1:pos:R:3:forces:R:3:tag:I:1 energy=-31.67 '
    'n=3 stress="1.0 2 3 4 5 6 7 8 9" name=abc config_type="a b" flag=T dipole="1.5 2.5 3.5" ids="1 2 3" pbc="T T F" '
    "free_energy=-1e2\nCu 1.30 0.75 5.0 -0.03 -0.006 0.228 1\nO  1.3e0 nan 5.0 -0.03 -0.006 inf 2\n"
)
MOLECULE = (
    "3\nProperties=species:S:1:pos:R:3:momenta:R:3:initial_charges:R:1:kind:S:1 REF_energy=5 uid=12.5 "
    'virial="1 2 3 4 5 6 7 8 9.0"\nH 0 0 0 1 2 3 0.5 ab\nH 0 1 0 1 2 3 0.5 ab\nc 0 0 2 1 2 3 0.5 abc\n'
)
PIECES = [*"0123456789.eE+-\"'{}[]\\=:, \tTF_aSRIL", "nan", "inf", "_JSON ", '""', "\x1c", "\xa0", "é", "True", "1_0"]
PIECES += ["pos", "Z", "species", "pbc", "Lattice", "stress", "energy=", "n=4 "]


def assert_same(one, other):
    """Equal in type, order and memory."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        for name in one:
            assert_same(one[name], other[name])
    elif isinstance(one, np.ndarray) and one.dtype != object:
        assert (one.dtype, one.shape, one.strides) == (other.dtype, other.shape, other.strides)
        assert one.tobytes() == other.tobytes()
    elif isinstance(one, np.ndarray | list):
        assert list(one) == list(other)
    else:
        assert one == other or (one != one and other != other)


def assert_as_ase(text):
    """Whether the frame was plain."""
    found = plain_frame(text)
    if found is None:
        return False
    expected = ase.io.read(io.StringIO(text), format="extxyz", index=0)
    assert_same(found.info, expected.info)
    assert_same(found.arrays, expected.arrays)
    assert_same(found.cell.array, expected.cell.array)
    assert_same(found.pbc, expected.pbc)
    assert not expected.constraints
    assert (found.calc is None) == (expected.calc is None)
    if found.calc is not None:
        assert_same(found.calc.results, expected.calc.results)
    return True


@pytest.mark.parametrize(
    "text",
    [
        CRYSTAL,
        MOLECULE,
        CRYSTAL.removesuffix("\n"),
        CRYSTAL.replace(' pbc="T T F"', ""),
        MOLECULE.replace("uid", "pbc=T uid"),
        CRYSTAL.replace("tag:I:1", "kind:S:1").replace("forces", "magmoms"),
    ],
)
def test_plain_frames(text):
    assert assert_as_ase(text)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([CRYSTAL, MOLECULE]), st.data())
def test_changed_frames(text, data):
    head, _, rest = text.partition("\n")
    for _ in range(data.draw(st.integers(1, 3))):
        k = data.draw(st.integers(0, len(rest)))
        rest = rest[:k] + data.draw(st.sampled_from(PIECES)) + rest[k + data.draw(st.integers(0, 1)) :]
    assert_as_ase(f"{head}\n{rest}")


@pytest.mark.parametrize(
    "changed",
    [
        CRYSTAL.replace("name=abc", "name=a'b"),
        CRYSTAL.replace("name=abc", r'name="a\"b"'),
        CRYSTAL.replace("name=abc", "name={a b}"),
        CRYSTAL.replace("name=abc", "name"),
        CRYSTAL.replace("name=abc", "n=4"),
        CRYSTAL.replace("name=abc", 'name="_JSON [1]"'),
        CRYSTAL.replace("tag:I:1", "move_mask:I:1"),
        CRYSTAL.replace(" 1\nO", "\nO"),
        CRYSTAL.replace(" 1\nO", " 1 1\nO").replace("inf 2", "inf 2 2"),
        CRYSTAL.replace("tag:I:1", "tag:L:1"),
        CRYSTAL.replace("Cu 1", "Qq 1"),
        MOLECULE.replace("c 0 0 2 1 2 3 0.5 abc\n", "\n"),
        CRYSTAL + "H 0 0 0 0 0 0 1\n",
        "0\nProperties=species:S:1:pos:R:3\n",
        "1\nenergy=1\nH 0 0 0\n",
    ],
)
def test_what_is_not_plain_is_left_to_ase(changed):
    assert plain_frame(changed) is None


def test_values_are_not_shared():
    """What is remembered of one frame's line of keys must not be changed through another's."""
    for _ in range(2):
        found = plain_frame(CRYSTAL)
        np.testing.assert_array_equal(found.info["ids"], [1, 2, 3])
        found.info["ids"] += 1
