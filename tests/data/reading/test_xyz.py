import gzip
import warnings

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from hypothesis import given, settings
from hypothesis import strategies as st

from mekrr.data import read_structures
from mekrr.data.reading.xyz import iter_xyz
from mekrr.errors import DataError, MekrrWarning

WATER = "3\nenergy=-1\nO 0.000 0.000 0.119\nH 0.000 0.763 -0.477\nH 0.000 -0.763 -0.477"


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.tuples(*[st.booleans()] * 3), st.integers(0, 999))
def test_round_trip(tmp_path_factory, sizes, pbc, seed):
    generator = np.random.default_rng(seed)
    frames = []
    for size in sizes:
        cell = 9 * np.eye(3) + generator.normal(size=(3, 3))
        atoms = Atoms(generator.integers(1, 90, size), generator.normal(size=(size, 3)), cell=cell, pbc=pbc)
        atoms.calc = SinglePointCalculator(
            atoms, energy=generator.normal(), forces=generator.normal(size=(size, 3)), stress=generator.normal(size=6)
        )
        frames.append(atoms)
    path = tmp_path_factory.mktemp("xyz") / "a.extxyz.gz"
    write(path, frames)
    for structure, atoms in zip(read_structures(path), frames, strict=True):
        np.testing.assert_array_equal(structure.species, atoms.numbers)
        np.testing.assert_array_equal(structure.atoms.pbc, atoms.pbc)
        np.testing.assert_allclose(structure.atoms.cell.array, atoms.cell.array, atol=1e-7)
        np.testing.assert_allclose(structure.atoms.positions, atoms.positions, atol=1e-7)
        np.testing.assert_allclose(structure.forces, atoms.get_forces(), atol=1e-7)
        if all(pbc):
            np.testing.assert_allclose(structure.stress, atoms.get_stress(voigt=False), atol=1e-7)
        else:
            assert structure.stress is None


def test_a_row_with_a_number_too_many_is_refused(tmp_path):
    """ase would read it from the left: the forces behind it would be shifted by one column."""
    head = "1\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-1\n"
    (tmp_path / "a.xyz").write_text(head + "O 0 0 0 1 2 3\n" + head + "O 0 0. 5 0 1 2 3\n")
    with pytest.raises(DataError, match=r"a\.xyz, index 1: Properties= declares 7 columns, a row has 8"):
        read_structures(tmp_path / "a.xyz")


@pytest.mark.parametrize("count", ["\u00b2", "\u2461", "-3", "3.0", "9" * 24, "9" * 5000])
def test_what_counts_no_atoms_is_said(tmp_path, count):
    """A superscript is a digit to Python, yet no number; more digits than a machine counts are none either."""
    (tmp_path / "a.xyz").write_text(f"{count}\n{WATER[2:]}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.xyz, index 0: expected a number of atoms, found"):
        read_structures(tmp_path / "a.xyz")


def test_more_atoms_than_lines_are_a_truncated_frame(tmp_path):
    (tmp_path / "a.xyz").write_text(f"{'9' * 18}\n{WATER[2:]}\n")
    with pytest.raises(DataError, match=r"index 0: truncated after 2 of 9{18} atoms"):
        read_structures(tmp_path / "a.xyz")


def test_columns_that_nothing_declares_are_named_once(tmp_path):
    (tmp_path / "a.xyz").write_text("1\nPropertiesspecies:S:1:pos:R:3:forces:R:3 energy=-1\nO 0 0 0 1 2 3\n" * 3)
    with pytest.warns(MekrrWarning, match="index 0: its rows have 7 columns, and no Properties=") as caught:
        assert all(s.forces is None for s in read_structures(tmp_path / "a.xyz"))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (tmp_path / "b.xyz").write_text(WATER)
        read_structures(tmp_path / "b.xyz")


def test_no_final_newline_is_fine(tmp_path):
    (tmp_path / "a.xyz").write_text(WATER)
    assert len(list(iter_xyz(tmp_path / "a.xyz"))) == 1


def test_end_within_a_number(tmp_path):
    (tmp_path / "a.xyz").write_text(WATER[:-1])
    with pytest.raises(DataError, match="index 0: truncated after 2 of 3 atoms"):
        list(iter_xyz(tmp_path / "a.xyz"))


def test_text_that_is_no_xyz(tmp_path):
    (tmp_path / "a.xyz").write_text(f"{WATER}\nloose end\n")
    with pytest.raises(DataError, match="index 1: expected a number of atoms, found 'loose end'"):
        list(iter_xyz(tmp_path / "a.xyz"))


def test_name_that_claims_compression(tmp_path):
    (tmp_path / "a.xyz.gz").write_text(WATER)
    with pytest.raises(DataError, match="Not a gzipped file"):
        read_structures(tmp_path / "a.xyz.gz")
    (tmp_path / "b.xyz").write_bytes(gzip.compress(WATER.encode()))
    with pytest.raises(DataError, match="not UTF-8 text"):
        read_structures(tmp_path / "b.xyz")


def test_unknown_symbol_is_named(tmp_path):
    (tmp_path / "a.xyz").write_text(WATER.replace("O 0", "Qq 0"))
    with pytest.raises(DataError, match="index 0: this frame is malformed: unknown symbol or key 'Qq'"):
        read_structures(tmp_path / "a.xyz")


def test_key_without_a_value_is_no_energy(tmp_path):
    (tmp_path / "a.xyz").write_text(WATER.replace("energy=-1", "energy"))
    with pytest.raises(DataError, match="calc:energy is not numeric, it holds 'True'"):
        read_structures(tmp_path / "a.xyz")


LABELLED = (
    '1\nLattice="9 0 0 0 8 0 0 0 7" Properties=species:S:1:pos:R:3:forces:R:3 pbc="T T F" energy=-1\nH 0 0 0 .1 .2 .3\n'
)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("Lattice=", "lattice="),
        ("Lattice=", "LATTICE="),
        ("Lattice=", "Latice="),
        ("Lattice=", "cell="),
        ("Properties=", "properties="),
        ("Properties=", "Propertys="),
        ("Properties=", "columns="),
        ("pbc=", "PBC="),
    ],
)
def test_a_misspelt_structural_key_is_named(tmp_path, right, wrong):
    (tmp_path / "a.xyz").write_text(LABELLED)
    (structure,) = read_structures(tmp_path / "a.xyz")
    np.testing.assert_allclose(structure.atoms.cell.lengths(), [9, 8, 7])
    (tmp_path / "a.xyz").write_text(LABELLED.replace(right, wrong))
    with pytest.raises(DataError, match=f"index 0: {wrong}.* is spelled {right}"):
        read_structures(tmp_path / "a.xyz")


def test_keys_that_only_resemble_structural_ones_are_kept(tmp_path):
    (tmp_path / "a.xyz").write_text(LABELLED.replace("energy=-1", "energy=-1 lattice_a=3.6 cell_type=fcc property=x"))
    (structure,) = read_structures(tmp_path / "a.xyz")
    assert {"lattice_a", "cell_type", "property"} <= set(structure.info)


def test_byte_order_mark(tmp_path):
    (tmp_path / "a.xyz").write_text(LABELLED, encoding="utf-8-sig")
    assert len(read_structures(tmp_path / "a.xyz")) == 1


@pytest.mark.parametrize("key", ["stress", "REF_stress", "virial", "REF_virial"])
def test_six_numbers_in_voigt_order(tmp_path, key):
    energy = "REF_energy" if key.startswith("REF") else "energy"
    text = LABELLED.replace("energy=-1", f'{energy}=-1 {key}="1 2 3 4 5 6"').replace("T T F", "T T T")
    (tmp_path / "a.xyz").write_text(text)
    (structure,) = read_structures(tmp_path / "a.xyz")
    expected = np.array([[1, 6, 5], [6, 2, 4], [5, 4, 3]])
    scale = -1 / (9 * 8 * 7) if "virial" in key else 1
    np.testing.assert_allclose(structure.stress, scale * expected)
