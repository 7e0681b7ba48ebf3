import gzip

import numpy as np
import pytest
import vasp_files
from ase.units import GPa

from mekrr.data import LabelKeys, read_structures, validate
from mekrr.errors import DataError

FILES = {"OUTCAR": vasp_files.outcar(), "vasprun.xml": vasp_files.vasprun()}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("compressed", [False, True])
def test_two_steps(tmp_path, name, compressed):
    path = tmp_path / (name + ".gz" * compressed)
    path.write_bytes(gzip.compress(FILES[name].encode()) if compressed else FILES[name].encode())
    structures = read_structures(path)
    assert [s.energy for s in structures] == pytest.approx(vasp_files.FREE_ENERGIES)
    for step, structure in enumerate(structures):
        np.testing.assert_allclose(structure.atoms.positions, vasp_files.POSITIONS[step], atol=1e-6)
        np.testing.assert_allclose(structure.forces, vasp_files.FORCES[step])
        np.testing.assert_allclose(structure.stress, -0.1 * GPa * vasp_files.STRESS_KBAR, rtol=1e-6)
    extrapolated = read_structures(path, LabelKeys(energy="energy"))
    assert [s.energy for s in extrapolated] == pytest.approx(vasp_files.ENERGIES)


def test_difference_of_the_two_energies_is_reported(tmp_path):
    (tmp_path / "OUTCAR").write_text(FILES["OUTCAR"])
    (issue,) = [i for i in validate(read_structures(tmp_path / "OUTCAR")) if i.code == "energy-choice"]
    assert issue.level == "warning"
    assert "calc:energy differs from calc:free_energy, which is read, by 10.00 meV/atom" in issue.message


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0.05, 0.3, 0.5, 0.7, 0.75, 0.9])
def test_truncated(tmp_path, name, kept):
    content = FILES[name]
    (tmp_path / name).write_text(content[: int(kept * len(content))])
    with pytest.raises(DataError, match=r"truncated|no structure"):
        read_structures(tmp_path / name)
