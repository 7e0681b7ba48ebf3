import gzip
import pickle
import sqlite3
from contextlib import closing

import ase.db
import lmdb
import numpy as np
import pytest
from ase.constraints import FixAtoms
from ase.io import write

from mekrr.data import LabelKeys, info_to_write, read_structures
from mekrr.data.reading.drawer import FOUND
from mekrr.errors import DataError, MekrrWarning


@pytest.mark.parametrize("name", ["a.extxyz", "a.xyz", "a.extxyz.gz", "a.traj", "a.db", "a.aselmdb", "a.json"])
def test_formats_give_the_same_structures(tmp_path, frames, name):
    path = tmp_path / name
    if name.endswith(("db", "json")):
        with ase.db.connect(path) as database:
            for atoms in frames:
                database.write(atoms, config_type=atoms.info["config_type"])
    else:
        write(path, frames)
    structures = read_structures(path)
    assert [s.index for s in structures] == [0, 1, 2, 3, 4]
    for structure, atoms in zip(structures, frames, strict=True):
        assert structure.source == str(path)
        assert structure.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
        np.testing.assert_allclose(structure.forces, atoms.get_forces(), atol=1e-7)
        np.testing.assert_array_equal(structure.atoms.pbc, atoms.pbc)
        assert structure.atoms.calc is None
        assert structure.info["config_type"] == atoms.info["config_type"]


def test_several_files_are_read_one_after_another(tmp_path, frames):
    write(tmp_path / "a.extxyz", frames[:2])
    write(tmp_path / "b.traj", frames[2:])
    structures = read_structures([tmp_path / "a.extxyz", tmp_path / "b.traj"])
    assert [s.index for s in structures] == [0, 1, 0, 1, 2]


@pytest.mark.parametrize(
    ("index", "expected"),
    [(":", [0, 1, 2, 3, 4]), ("1::2", [1, 3]), (-1, [4]), (2, [2]), ("-2:", [3, 4]), ("::-2", [4, 2, 0])],
)
def test_index_keeps_the_position_in_the_file(tmp_path, frames, index, expected):
    write(tmp_path / "a.extxyz", frames)
    assert [s.index for s in read_structures(tmp_path / "a.extxyz", index=index)] == expected


@pytest.mark.parametrize("name", ["a.traj", "a.db", "a.extxyz"])
def test_constraints_never_alter_forces(tmp_path, slab, name):
    forces = slab.get_forces()
    slab.set_constraint(FixAtoms(range(8)))
    write(tmp_path / name, slab)
    (structure,) = read_structures(tmp_path / name)
    np.testing.assert_allclose(structure.forces, forces, atol=1e-7)
    assert not structure.atoms.constraints


class Bomb:
    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path(BOMB).touch()".replace("BOMB", repr(str(self.target))),))


@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize("name", ["old.lmdb", "old.aselmdb"])
def test_pickled_lmdb_is_refused_and_never_unpickled(tmp_path, name, protocol):
    bomb = Bomb()
    bomb.target = tmp_path / "exploded"
    with (
        lmdb.open(str(tmp_path / name), subdir=False, map_size=2**20) as environment,
        environment.begin(write=True) as txn,
    ):
        txn.put(b"0", pickle.dumps(bomb, protocol))
        txn.put(b"length", pickle.dumps(1, protocol))
    with pytest.raises(DataError, match=r"pickled objects|not one written by ASE"):
        read_structures(tmp_path / name)
    assert not bomb.target.exists()


def test_truncated_lmdb(tmp_path, frames):
    path = tmp_path / "a.aselmdb"
    with ase.db.connect(path) as database:
        for atoms in frames * 10:
            database.write(atoms)
    path.write_bytes(path.read_bytes()[: 3 * 4096])
    with pytest.raises(DataError, match="truncated"):
        read_structures(path)


def test_missing_folder_and_empty(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_structures(tmp_path / "no.xyz")
    with pytest.raises(DataError, match="is a folder"):
        read_structures(tmp_path)
    (tmp_path / "empty.traj").touch()
    with pytest.raises(DataError, match="is empty"):
        read_structures(tmp_path / "empty.traj")
    (tmp_path / "blank.xyz").write_text("\n\n")
    with pytest.raises(DataError, match="no structure"):
        read_structures(tmp_path / "blank.xyz")


@pytest.mark.parametrize("name", ["a.extxyz", "a.extxyz.gz", "a.traj", "a.db"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_truncated_file_is_never_read_in_silence(tmp_path, slab, name, kept):
    path = tmp_path / name
    write(path, [slab] * 12)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) - 7])
    with pytest.raises(DataError, match=str(path)):
        read_structures(path)


@pytest.mark.parametrize(
    "name",
    [
        "a.xyz",
        "a.extxyz",
        "a.xyz.gz",
        "a.traj",
        "a.db",
        "a.aselmdb",
        "OUTCAR",
        "vasprun.xml",
        "a.json",
        "a.cif",
        "noname",
    ],
)
@pytest.mark.parametrize("content", [bytes(range(256)) * 20, b"just some words\n" * 300])
def test_file_that_is_not_what_its_name_says(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        read_structures(tmp_path / name)


def test_foreign_sqlite_file_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "bookmarks.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE places (id)")
        connection.commit()
    before = path.read_bytes()
    with pytest.raises(DataError, match="its tables: places"):
        read_structures(path)
    assert path.read_bytes() == before


def test_blank_line_does_not_hide_the_rest(tmp_path, frames):
    write(tmp_path / "a.extxyz", frames[:1])
    write(tmp_path / "b.extxyz", frames[1:])
    both = (tmp_path / "a.extxyz").read_text() + "\n" + (tmp_path / "b.extxyz").read_text()
    (tmp_path / "c.extxyz").write_text(both)
    assert len(read_structures(tmp_path / "c.extxyz")) == 5


def test_malformed_frame_is_named(tmp_path, frames):
    write(tmp_path / "a.extxyz", frames)
    text = (tmp_path / "a.extxyz").read_text()
    (tmp_path / "a.extxyz").write_text(text.replace("\nO ", "\nO x", 1))
    with pytest.raises(DataError, match="index 1: this frame is malformed"):
        read_structures(tmp_path / "a.extxyz")


def test_no_energy_lists_what_there_is(tmp_path, slab):
    slab.calc = None
    slab.info["my_energy"] = -1.0
    write(tmp_path / "a.extxyz", slab)
    with pytest.raises(DataError, match=r"index 0 \(Cu12\): no energy; keys found: my_energy"):
        read_structures(tmp_path / "a.extxyz")
    assert read_structures(tmp_path / "a.extxyz", require_energy=False)[0].energy is None
    assert read_structures(tmp_path / "a.extxyz", LabelKeys(energy="my_energy"))[0].energy == -1.0


def test_bad_index_unit_and_weight_are_explained(tmp_path, frames):
    write(tmp_path / "a.extxyz", frames)
    with pytest.raises(DataError, match="no structure at index 7"):
        read_structures(tmp_path / "a.extxyz", index=7)
    with pytest.raises(DataError, match="is not a number or a slice"):
        read_structures(tmp_path / "a.extxyz", index="first")
    with pytest.raises(DataError, match="unknown unit of energy 'erg'"):
        read_structures(tmp_path / "a.extxyz", LabelKeys(energy_unit="erg"))
    with pytest.raises(DataError, match="weight key 'w'"):
        read_structures(tmp_path / "a.extxyz", LabelKeys(weight="w"))


def test_at_sign_in_a_name(tmp_path, frames):
    write(str(tmp_path / "plain.traj"), frames)
    (tmp_path / "plain.traj").rename(tmp_path / "a@b.traj")
    with gzip.open(tmp_path / "a@b.xyz.gz", "wt") as file:
        write(file, frames, format="extxyz")
    assert len(read_structures(tmp_path / "a@b.traj")) == 5
    assert len(read_structures(tmp_path / "a@b.xyz.gz")) == 5


def test_real_data(real_data):
    assert len(read_structures(real_data / "cu_formate" / "systematic.extxyz.gz")) == 400
    assert len(read_structures(real_data / "oxide_polymorphs" / "oxides.db")) == 295
    relaxation = read_structures(real_data / "oc20_relaxations" / "random1000194.traj")
    assert len(relaxation) == 61
    assert np.abs(relaxation[0].forces).sum(1).min() > 0  # raw forces on fixed atoms too


def test_kind_that_ase_does_not_read(tmp_path):
    (tmp_path / "a.csv").write_text("energy,forces\n1,2\n")
    with pytest.raises(DataError, match="ase reads no files of this kind"):
        read_structures(tmp_path / "a.csv")


DUMP = """ITEM: TIMESTEP
0
ITEM: NUMBER OF ATOMS
2
ITEM: BOX BOUNDS pp pp pp
0 9
0 9
0 9
ITEM: ATOMS id type COLUMNx y z
1 1 0 0 0
2 2 0 0 2
"""


def test_types_of_a_lammps_dump_are_called_guesses(tmp_path):
    path = tmp_path / "a.lammpstrj"
    path.write_text(DUMP.replace("COLUMN", ""))
    with pytest.warns(MekrrWarning, match="types are guesses: type 1 is read as H"):
        read_structures(path, require_energy=False)
    path.write_text(DUMP.replace("COLUMN", "element ").replace("1 1 0", "1 1 Cu 0").replace("2 2 0", "2 2 O 0"))
    (structure,) = read_structures(path, require_energy=False)
    assert structure.species.tolist() == [29, 8]


@pytest.mark.parametrize("name", ["a.traj", "a.extxyz", "a.db"])
def test_results_beside_an_energy_in_info(tmp_path, slab, name):
    energy = slab.get_potential_energy()
    slab.info["energy"] = energy - 1.0
    if name == "a.db":
        with ase.db.connect(tmp_path / name) as database:
            database.write(slab, data={"energy": energy - 1.0, "notes": "two\nlines"})
    elif name == "a.traj":
        write(tmp_path / name, slab)
    else:
        slab.info["total_energy"] = slab.info.pop("energy")
        write(tmp_path / name, slab)
    (structure,) = read_structures(tmp_path / name)
    assert structure.energy == pytest.approx(energy)
    assert list(structure.info[FOUND]["other_energies"].values()) == [pytest.approx(energy - 1.0)]


def test_info_is_written_on_one_line_and_replaces_no_result(tmp_path, slab):
    slab.info = info_to_write({"notes": "two\nlines", "energy": -7.0, "Lattice": "x", "n": 3, "odd": [1, 2]})
    write(tmp_path / "a.extxyz", slab)
    (structure,) = read_structures(tmp_path / "a.extxyz")
    assert structure.energy == pytest.approx(slab.get_potential_energy())
    assert structure.info["n"] == 3
    assert set(structure.info) == {"notes", "n", FOUND}


def test_structures_to_predict_are_all_read(tmp_path, slab):
    """Whatever their labels are like; those that can be read are kept, and strict reading refuses as before."""
    frames = [slab, *(slab.copy() for _ in range(3))]
    frames[1].info["energy"] = "converged"
    frames[2].info |= {"dft_energy": 1.0, "dft_stress": [1.0, 2.0, 3.0]}
    frames[3].info["scf_converged"] = False
    write(tmp_path / "a.traj", frames)
    with pytest.warns(
        MekrrWarning, match=r"labels of 2 of 4 structures cannot be read.*index 1 .*'converged'"
    ) as heard:
        found = read_structures(tmp_path / "a.traj", require_energy=False, strict=False)
    assert len(heard) == 1
    assert [s.energy for s in found] == [pytest.approx(slab.get_potential_energy()), None, 1.0, None]
    with pytest.raises(DataError, match="info:energy is not numeric"):
        read_structures(tmp_path / "a.traj", require_energy=False)
