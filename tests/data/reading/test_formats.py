"""Formats x labels: whatever labels a file has are read as they were written, and those it has not are not invented."""

import itertools

import ase.db
import numpy as np
import pytest
import vasp_files
from ase.build import fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.units import GPa

from mekrr.data import LabelKeys, read_structures
from mekrr.data.reading.drawer import FOUND
from mekrr.errors import DataError

FORMATS = ["a.extxyz", "a.xyz", "a.extxyz.gz", "a.xyz.bz2", "a.extxyz.xz", "a.traj", "a.db", "a.json", "a.aselmdb"]
LABELS = ("energy", "forces", "stress")
SETS = [names for n in (1, 2, 3) for names in itertools.combinations(LABELS, n)]
PLACES = ["stored", "REF_", "dft_", "mine_"]


def labels_of(atoms, seed):
    """All labels a structure may have; a stress only where it repeats in all directions."""
    generator = np.random.default_rng(seed)
    stress = generator.normal(size=6) if atoms.pbc.all() else None
    return {"energy": float(generator.normal()), "forces": generator.normal(size=(len(atoms), 3)), "stress": stress}


def file_with(path, place, names):
    """Two structures written with some labels, as results or under names with a prefix, and what was written."""
    systems = [fcc111("Cu", (2, 2, 2), vacuum=5.0, periodic=True), molecule("H2O")]
    written = [
        {k: v for k, v in labels_of(a, i).items() if k in names and v is not None} for i, a in enumerate(systems)
    ]
    for atoms, labels in zip(systems, written, strict=True):
        atoms.info = {"w": 2.5}
        if place == "stored":
            atoms.calc = SinglePointCalculator(atoms, **labels)
            continue
        for name, value in labels.items():
            # ASE's trajectories keep no arrays but its own
            is_array = name == "forces" and path.suffix != ".traj"
            (atoms.arrays if is_array else atoms.info)[place + name] = value
    if path.suffix not in (".db", ".json", ".aselmdb"):
        write(path, systems)
        return written
    with ase.db.connect(path) as database:
        for atoms in systems:
            arrays = {k: v for k, v in atoms.arrays.items() if k.startswith(place)}
            database.write(atoms, data=atoms.info | arrays)
    return written


@pytest.mark.parametrize("names", SETS, ids="+".join)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", FORMATS)
def test_labels_are_read_as_they_were_written(tmp_path, name, place, names):
    written = file_with(tmp_path / name, place, names)
    named = {label: place + label for label in names} if place == "mine_" else {}
    keys = LabelKeys(**named, weight="w")
    structures = read_structures(tmp_path / name, keys, require_energy=False)
    for structure, labels in zip(structures, written, strict=True):
        for label in LABELS:
            found, expected = getattr(structure, label), labels.get(label)
            if expected is None:
                assert found is None, label
                continue
            if label == "stress":
                expected = expected[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)
            assert (structure.info[FOUND][label] or "").endswith(label if place == "stored" else place + label)
        assert structure.weight == 2.5


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("label", [*LABELS, "weight"])
def test_a_key_that_the_file_has_not_is_refused(tmp_path, name, label):
    file_with(tmp_path / name, "mine_", LABELS)
    with pytest.raises(DataError, match=f"no structure has the {label} key 'mine_typo'.*keys found: .*mine_energy"):
        read_structures(tmp_path / name, LabelKeys(**{label: "mine_typo"}), require_energy=False)


@pytest.mark.parametrize("name", ["OUTCAR", "vasprun.xml"])
def test_labels_of_vasp(tmp_path, name):
    text = vasp_files.outcar() if name == "OUTCAR" else vasp_files.vasprun()
    (tmp_path / name).write_text(text)
    for step, structure in enumerate(read_structures(tmp_path / name)):
        assert structure.energy == pytest.approx(vasp_files.FREE_ENERGIES[step], abs=1e-8)
        np.testing.assert_allclose(structure.forces, vasp_files.FORCES[step], atol=1e-8)
        np.testing.assert_allclose(structure.stress, -0.1 * GPa * vasp_files.STRESS_KBAR, rtol=1e-6)
    without = read_structures(tmp_path / name, LabelKeys(energy="energy"))
    assert [s.energy for s in without] == pytest.approx(vasp_files.ENERGIES, abs=1e-8)
