import gzip

import numpy as np
import pytest
import vasp_files
from ase.units import GPa

from mekrr.data import LabelKeys, read_structures, validate
from mekrr.errors import DataError, MekrrWarning

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
    named = read_structures(tmp_path / "OUTCAR", LabelKeys(energy="free_energy"))
    assert "energy-choice" not in {i.code for i in validate(named)}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0.05, 0.3, 0.5, 0.7, 0.75, 0.9])
def test_truncated(tmp_path, name, kept):
    content = FILES[name]
    (tmp_path / name).write_text(content[: int(kept * len(content))])
    with pytest.raises(DataError, match=r"truncated|no structure"):
        read_structures(tmp_path / name)


def unconverged(name: str, how: str) -> str:
    """The first of the two steps stopped at NELM."""
    text = FILES[name]
    if name == "vasprun.xml":
        scstep = text[text.index("<scstep>") : text.index("</scstep>") + len("</scstep>")]
        parameters = '<parameters><i type="int" name="NELM"> 3 </i><i name="EDIFF"> 0.0001 </i></parameters>'
        stopped = scstep + scstep.replace("-1.5 ", "-1.4 ") + scstep
        return text.replace("<parameters></parameters>", parameters).replace(scstep, stopped, 1)
    header, mark, rest = text.partition("-" * 39 + " Iteration      1(   1)")
    loop = "----- Iteration      1(   2) -----\n----- Iteration      1(   3) -----\n"
    ending = "------ aborting loop EDIFF was not reached (unconverged) ------\n" if how == "said" else ""
    reached = "------ aborting loop because EDIFF is reached ------\n"
    first, second_mark, second = rest.partition("-" * 39 + " Iteration      2(   1)")
    line, _, remainder = second.partition("\n")
    return f"{header}   NELM   =      3\n{mark}{first.replace('  in kB', loop + ending + '  in kB', 1)}" + (
        f"{second_mark}{line}\n{reached}{remainder}"
    )


CASES = [("OUTCAR", "said"), ("OUTCAR", "counted"), ("vasprun.xml", "counted")]


@pytest.mark.parametrize(("name", "how"), CASES)
def test_steps_whose_loop_stopped_are_left_out_with_a_count(tmp_path, name, how):
    path = tmp_path / name
    path.write_text(unconverged(name, how))
    with pytest.warns(MekrrWarning, match=r"1 of 2 structures stopped unconverged \(index 0\); left out"):
        (structure,) = read_structures(path)
    assert (structure.index, structure.energy) == (1, vasp_files.FREE_ENERGIES[1])
    with pytest.warns(MekrrWarning, match="kept as asked"):
        assert len(read_structures(path, LabelKeys(unconverged="keep"))) == 2
    with pytest.raises(DataError, match="leave them out with --unconverged drop"):
        read_structures(path, LabelKeys(unconverged="refuse"))
    with pytest.raises(DataError, match="unknown treatment of unconverged steps 'no'"):
        read_structures(path, LabelKeys(unconverged="no"))


def test_a_loop_that_settles_at_its_last_iteration_is_converged(tmp_path):
    text = unconverged("vasprun.xml", "counted").replace("-1.4 ", "-1.50001 ")
    (tmp_path / "vasprun.xml").write_text(text)
    assert len(read_structures(tmp_path / "vasprun.xml")) == 2


def test_steps_of_a_learned_force_field_are_no_labels(tmp_path):
    text = FILES["OUTCAR"]
    _, _, rest = text.partition("  in kB")
    step = "  in kB" + rest[: rest.index("-" * 39 + " Iteration      2(   1)")]
    learned = step.replace("  FREE ENERGIE", "  ML FREE ENERGIE").replace("(eV/Angst)", "(eV/Angst) (ML)")
    learned = learned.replace("TOTEN  =        -1.5", "ML TOTEN  =        -7.5")
    mark = "-" * 39 + " Iteration      2(   1)"
    end = " General timing"
    for changed in (
        text.replace(mark, learned + mark),
        text.replace(end, learned + end),
        text.replace(end, learned * 2),
        text.replace("-" * 39 + " Iteration      1(   1)", learned + "-" * 39 + " Iteration      1(   1)"),
    ):
        (tmp_path / "OUTCAR").write_text(changed)
        structures = read_structures(tmp_path / "OUTCAR")
        assert [s.energy for s in structures] == pytest.approx(vasp_files.FREE_ENERGIES)
        np.testing.assert_allclose(structures[1].forces, vasp_files.FORCES[1])


def test_what_follows_the_last_step_of_an_outcar_is_no_step(tmp_path):
    """Dispersion corrections print positions and forces of their own after the energies."""
    extra = " POSITION                                       van der Waals forces (eV/Angst)\n 0 0 0 0 0 0\n"
    (tmp_path / "OUTCAR").write_text(FILES["OUTCAR"].replace(" General timing", extra).partition("and accounting")[0])
    assert len(read_structures(tmp_path / "OUTCAR")) == 2
