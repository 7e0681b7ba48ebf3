import json
import signal
import subprocess
import sys
import time

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.constraints import FixAtoms

from mekrr.cli.app import run
from mekrr.dynamics import draw_velocities

pytest.importorskip("sevenn")


@pytest.fixture(scope="module")
def files(alloys, potential, tmp_path_factory):
    """A model and starts: bare, with a fixed atom and velocities, and of another element."""
    folder = tmp_path_factory.mktemp("md")
    potential.save(folder / "model.safetensors")
    bare = alloys[30].copy()
    ase.io.write(folder / "start.extxyz", bare)
    moving = bare.copy()
    moving.set_constraint(FixAtoms([0]))
    draw_velocities(moving, 500, seed=3)
    ase.io.write(folder / "moving.extxyz", moving)
    ase.io.write(folder / "unknown.extxyz", bulk("No", "fcc", a=4.0, cubic=True))

    (folder / "no-cell.extxyz").write_text('2\nLattice="0 0 0 0 0 0 0 0 0" pbc="T T T"\nCu 0 0 0\nCu 0 0 2\n')
    return folder


def call(capsys, *arguments):
    """Exit code, stdout and stderr of a command line."""
    capsys.readouterr()
    code = run([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, " ".join(captured.err.split())


def test_a_run_and_its_summary(capsys, files, tmp_path):
    output = tmp_path / "r.extxyz"
    code, out, err = call(
        capsys, "md", files / "model.safetensors", files / "start.extxyz", "-o", output,
        "--steps", "12", "--every", "5", "--threshold", "1000", "--json",
    )  # fmt: skip
    found = json.loads(out)
    assert code == 0
    assert (found["velocities"], found["last_step"], found["stopped_at_threshold"]) == ("drawn", 12, False)
    assert found["max_deviation_mev_per_atom"] > 0
    assert "velocities drawn, seed 0" in err
    frames = ase.io.read(output, ":")
    assert [f.info["step"] for f in frames] == [0, 5, 10, 12]
    assert {"energy_std", "time_fs", "temperature", "total_energy"} <= set(frames[0].info)
    total = [1000 * f.info["total_energy"] / len(f) for f in frames]
    assert np.ptp(total) < 5


def test_going_on_with_resume(capsys, files, tmp_path):
    output = tmp_path / "r.extxyz"
    words = ["md", files / "model.safetensors", files / "moving.extxyz", "-o", output, "--every", "2"]
    words += ["--ensemble", "langevin", "--resume", "--threshold", "1000"]
    code, _, err = call(capsys, *words, "--steps", "4")
    assert (code, "velocities of START kept" in err, "1 constraints kept" in err) == (0, True, True)
    output.write_bytes(output.read_bytes()[:-30])
    code, out, err = call(capsys, *words, "--steps", "8")
    assert (code, "cut off half a frame" in err, "continued from step 2" in err) == (0, True, True)
    assert "steps 2 to 8" in out
    frames = ase.io.read(output, ":")
    assert [f.info["step"] for f in frames] == [0, 2, 4, 6, 8]
    np.testing.assert_allclose(frames[-1].positions[0], frames[0].positions[0], atol=1e-7)
    code, _, err = call(capsys, *words, "--steps", "8")
    assert (code, "raise --steps to go on" in err) == (0, True)
    assert len(ase.io.read(output, ":")) == 5


@pytest.mark.parametrize("kept", [1, 3])
def test_a_run_cut_off_after_any_frame_goes_on_to_the_same_bytes(capsys, files, tmp_path, kept):
    whole, output = tmp_path / "whole.extxyz", tmp_path / "r.extxyz"
    words = ["md", files / "model.safetensors", files / "start.extxyz", "--every", "1", "--steps", "4"]
    words += ["--ensemble", "langevin", "--resume", "--threshold", "1000"]
    assert call(capsys, *words, "-o", whole)[0] == 0
    lines = whole.read_text().splitlines(keepends=True)
    output.write_text("".join(lines[: kept * len(lines) // 5]))
    code, _, err = call(capsys, *words, "-o", output)
    assert (code, f"continued from step {kept - 1} " in err) == (0, True)
    assert output.read_bytes() == whole.read_bytes()


def test_stopping_at_the_threshold_is_exit_code_three(capsys, files, tmp_path):
    output = tmp_path / "r.extxyz"
    code, out, _ = call(
        capsys, "md", files / "model.safetensors", files / "start.extxyz", "-o", output,
        "--threshold", "1e-6", "--on-threshold", "stop",
    )  # fmt: skip
    assert code == 3
    assert "stopped at step 0" in out
    assert len(ase.io.read(output, ":")) == 1


def test_structures_to_label_go_to_a_file_of_their_own(capsys, files, tmp_path):
    output, label = tmp_path / "r.extxyz", tmp_path / "label.extxyz"
    words = ("md", files / "model.safetensors", files / "start.extxyz", "-o", output, "--steps", "8")
    words += ("--threshold", "1e-6", "--label-every", "4", "--label-to")
    code, _, err = call(capsys, *words, tmp_path / "." / "r.extxyz")
    assert (code, "choose another file for one of them" in err, output.exists()) == (1, True, False)
    code, out, _ = call(capsys, *words, label)
    assert (code, "wrote 3 structures to label" in out) == (0, True)
    assert [frame.info["step"] for frame in ase.io.read(label, ":")] == [0, 4, 8]
    assert len(ase.io.read(output, ":")) == 2
    assert call(capsys, *words, label)[0] == 1
    words = [*words[:5], "--resume", "--steps", "16", *words[7:]]
    assert call(capsys, *words, label)[0] == 0
    assert [frame.info["step"] for frame in ase.io.read(label, ":")] == [0, 4, 8, 9, 13]


def test_no_deviations_are_computed_where_none_are_watched(capsys, files, tmp_path):
    words = ("md", files / "model.safetensors", files / "start.extxyz", "-o", tmp_path / "r.extxyz", "--steps", "2")
    code, out, err = call(capsys, *words, "--threshold", "none", "--json")
    assert (code, "no deviations are computed" in err) == (0, True)
    assert json.loads(out)["max_deviation_mev_per_atom"] is None
    assert "energy_std" not in ase.io.read(tmp_path / "r.extxyz").info


@pytest.mark.parametrize(
    ("start", "options", "message"),
    [
        ("nothing.extxyz", [], "does not exist"),
        ("start.extxyz", ["--index", "7"], "no structure at index"),
        ("start.extxyz", ["--timestep", "-1"], "timestep must be positive"),
        ("start.extxyz", ["--friction", "5"], "--ensemble langevin"),
        ("start.extxyz", ["--ensemble", "langevin", "--friction", "0"], "friction must be positive"),
        ("start.extxyz", ["--temperature", "-4"], "temperature must not be negative"),
        ("start.extxyz", ["--threshold", "much"], "it takes a number or auto or none"),
        ("unknown.extxyz", [], "No: "),
        ("no-cell.extxyz", [], "cell|vector|lattice"),
    ],
)
def test_bad_input_is_a_sentence_and_leaves_no_file(capsys, files, tmp_path, start, options, message):
    output = tmp_path / "r.extxyz"
    code, _, err = call(capsys, "md", files / "model.safetensors", files / start, "-o", output, *options)
    assert code == (2 if "--threshold" in options else 1)  # what does not parse is code 2
    assert any(part in err for part in message.split("|")), err
    assert "Traceback" not in err
    assert not output.exists()


def test_outputs_and_models_that_cannot_be_used(capsys, files, tmp_path):
    (tmp_path / "r.extxyz").write_text("precious")
    for model, output, message in (
        (files / "start.extxyz", tmp_path / "new.extxyz", "not a whole safetensors file"),
        (files / "model.safetensors", tmp_path / "r.extxyz", "exists: go on with it by --resume"),
        (files / "model.safetensors", tmp_path / "r.traj", "must be one of .extxyz, .xyz"),
        (files / "model.safetensors", tmp_path / "no" / "r.extxyz", "no such folder"),
    ):
        code, _, err = call(capsys, "md", model, files / "start.extxyz", "-o", output)
        assert (code, message in err) == (1, True), err
    assert (tmp_path / "r.extxyz").read_text() == "precious"
    assert call(capsys, "md", files / "model.safetensors", files / "start.extxyz", "-o", "x", "--index", "a")[0] == 2


@pytest.mark.slow
def test_a_killed_run_leaves_whole_frames_and_goes_on(capsys, files, tmp_path):
    """A real process, killed as soon as it has written three frames; the same command line goes on."""
    output, whole = tmp_path / "r.extxyz", tmp_path / "whole.extxyz"
    words = [str(w) for w in ("md", files / "model.safetensors", files / "start.extxyz", "--every", 1, "--resume")]
    words += ["--threads", "1"]  # left alone, as many as cores are idle: the last bits hang on it
    program = [sys.executable, "-c", "from mekrr.cli import main; main()", *words, "-o", str(output)]
    process = subprocess.Popen([*program, "--steps", "100000"], stderr=subprocess.DEVNULL)
    while not output.exists() or output.read_text().count("Lattice") < 3:
        assert process.poll() is None, "the run ended before it wrote three frames"
        time.sleep(0.005)
    code, _, err = call(capsys, *words, "-o", output, "--steps", "100000")  # while it lives
    assert (code, "another run is writing to it" in err) == (1, True)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    killed = len(ase.io.read(output, ":"))
    steps = str(killed + 5)
    assert call(capsys, *words, "-o", output, "--steps", steps)[0] == 0
    assert call(capsys, *words, "-o", whole, "--steps", steps)[0] == 0
    assert output.read_bytes() == whole.read_bytes()
