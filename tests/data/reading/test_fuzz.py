"""A small sample of tools/fuzz_readers: mutated files are read or refused, never worse."""

import sys
from pathlib import Path

import ase.db
import pytest
import vasp_files
from ase.io import write

sys.path.insert(0, str(Path(__file__).parents[3] / "tools" / "fuzz_readers"))
import fuzz


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
