"""A small sample of tools/fuzz_readers: mutated files are read or refused, and no label changes without a word."""

import sys
from pathlib import Path

import ase.db
import pytest
import vasp_files
from ase.io import write

sys.path.insert(0, str(Path(__file__).parents[3] / "tools" / "fuzz_readers"))
import fuzz
import labels


@pytest.mark.parametrize("seed", range(4))
def test_mutated_files_are_read_or_refused(tmp_path, frames, seed):
    for atoms in frames:
        atoms.info = {"config_type": atoms.info["config_type"]}
    write(tmp_path / "a.extxyz", frames)
    write(tmp_path / "a.traj", frames)
    with ase.db.connect(tmp_path / "a.db") as database:
        for atoms in frames:
            database.write(atoms)
    originals = {name: (tmp_path / name).read_bytes() for name in ("a.extxyz", "a.traj", "a.db")}
    originals |= {"OUTCAR": vasp_files.outcar().encode(), "vasprun.xml": vasp_files.vasprun().encode()}
    (tmp_path / "mutated").mkdir()
    found, kept = fuzz.fuzz(originals, 60, seed, tmp_path / "mutated")
    assert kept == [], found


def test_label_text_is_where_the_labels_are(tmp_path, frames):
    """A digit changed within it changes a label, and each label is within it; else the check above has no teeth."""
    write(tmp_path / "a.extxyz", frames[:2])
    content = (tmp_path / "a.extxyz").read_bytes()
    spans = labels.spans_of("a.extxyz", content)
    sound = labels.Reading.of(tmp_path / "a.extxyz")
    assert len(spans) == sum(2 + len(atoms) for atoms in frames[:2])
    for first, last in spans:
        digits = [k for k in range(first, last) if content[k : k + 1].isdigit()]
        changed = bytearray(content)
        changed[digits[0]] = ord("1") if content[digits[0]] != ord("1") else ord("2")
        (tmp_path / "a.extxyz").write_bytes(changed)
        assert fuzz.outcome(tmp_path / "a.extxyz", sound) != "read, labels as they were"


def test_a_change_without_a_word_is_told_from_one_with_a_word(tmp_path, frames):
    write(tmp_path / "a.extxyz", frames)
    sound = labels.Reading.of(tmp_path / "a.extxyz")
    write(tmp_path / "a.extxyz", frames[:-1])
    assert fuzz.outcome(tmp_path / "a.extxyz", sound) == "other labels without a word"
    write(tmp_path / "a.extxyz", [*frames, frames[0]])
    assert fuzz.outcome(tmp_path / "a.extxyz", sound) == "remarked upon"
