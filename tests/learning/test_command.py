"""The command line: labels from outside, kills, what is printed, what is refused."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time

import ase.io
import pytest
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr.cli.app import run
from mekrr.learning.journal import read_labels, read_lines

from .conftest import CALCULATORS

pytest.importorskip("sevenn")

FIT = "--layer interaction_1 --length-scale 12 --species-weight 0.5 --prior backbone --force-weight 1e-3 --probes 4"
WORDS = [*FIT.split(), "--tangent-share", "0", "--fmax", "0.03"]


@pytest.fixture
def start(cluster, tmp_path):
    path = tmp_path / "start.extxyz"
    ase.io.write(path, cluster)
    return path


def call(capsys, *arguments):
    """Exit code, stdout and stderr of a command line."""
    capsys.readouterr()
    code = run([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, " ".join(captured.err.split())


def label(path, output):
    """EMT's labels for the structures of a file."""
    frames = ase.io.read(path, ":")
    for atoms in frames:
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **results)
    ase.io.write(output, frames)


def test_labels_from_outside(capsys, start, tmp_path):
    folder = tmp_path / "run"
    words = ["learn", "relax", start, "-o", folder, "--ask", "--json", "--threads", "1", *WORDS]
    code, out, _ = call(capsys, *words)
    told = json.loads(out)
    assert told["threads"] == 1
    assert (code, told["ended"], told["ask"]) == (4, "to-label", str(folder / "ask.extxyz"))
    code, _, err = call(capsys, *words, "--tell", start)
    assert (code, "was not asked for" in err or "no energy" in err) == (1, True)
    label(folder / "ask.extxyz", tmp_path / "labels.extxyz")
    code, out, _ = call(capsys, *words, "--tell", tmp_path / "labels.extxyz")
    assert (code, json.loads(out)["n_labels"]) == (4, 1)
    assert read_labels(folder)[0].force_error > 0
    code, _, err = call(capsys, *words, "--tell", tmp_path / "labels.extxyz")
    assert (code, "was not asked for (1 structures wait for labels)" in err) == (1, True)
    assert "predicted before" in (folder / "report.html").read_text()
    code, out, _ = call(capsys, "learn", "report", folder)
    assert (code, "report.html" in out) == (0, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give one of the two"),
        (["--ask", "--calculator", f"{CALCULATORS}:emt"], "give one of the two"),
        (["--calculator", "nothing.py:make"], "there is no file nothing.py"),
        (["--calculator", f"{CALCULATORS}:emt", "--fmax", "-1"], "--fmax must be positive"),
        (["--calculator", f"{CALCULATORS}:emt", "--labels", "0"], "--labels must be at least 1"),
        (["--calculator", f"{CALCULATORS}:emt", "--tell", "x.extxyz"], "add --ask"),
        (["--calculator", f"{CALCULATORS}:raising_factory"], "no pseudopotential for Cu"),
    ],
)
def test_bad_input_is_a_sentence(capsys, start, tmp_path, options, message):
    code, out, err = call(capsys, "learn", "relax", start, "-o", tmp_path / "run", *WORDS, *options)
    assert code in (1, 3)
    assert message in err + out, err
    assert "Traceback" not in err


def test_the_page_of_a_folder_without_a_run_is_refused(capsys, tmp_path):
    code, _, err = call(capsys, "learn", "report", tmp_path)
    assert (code, "no run of mekrr learn has begun there" in err) == (1, True)


def begin(start, folder, count, sleep="0", limit=None):
    """The command as a process of its own; every structure that is computed becomes a line of `count`."""
    program = [sys.executable, "-c", "from mekrr.cli import main; main()", "learn", "relax", str(start)]
    program += ["-o", str(folder), "--resume", "--calculator", f"{CALCULATORS}:emt", *WORDS]
    program += ["--threads", "1"]  # left alone, as many as cores are idle: the last bits of a fit hang on it
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}

    def limited():
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    environment = os.environ | {"MEKRR_COUNT": str(count), "MEKRR_SLEEP": sleep}
    return subprocess.Popen(program, env=environment, preexec_fn=limited, **quiet)


def finish(start, folder, count):
    process = begin(start, folder, count)
    assert process.wait(300) == 0, process.stderr.read()
    labels = read_labels(folder)
    assert read_lines(folder)[-1]["kind"] == "converged"
    assert len({one.number for one in labels}) == len(labels)
    assert len(count.read_text().splitlines()) == len(labels)
    return [one.frame.positions.tolist() for one in labels]


@pytest.mark.slow
def test_a_run_that_is_killed_while_the_calculator_works_takes_its_label(start, tmp_path):
    """Killed with SIGKILL during a calculation, which ends by itself; nothing is computed twice."""
    folder, count = tmp_path / "run", tmp_path / "count"
    process = begin(start, folder, count, sleep="1.5")
    while not count.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert read_labels(folder) == []
    finish(start, folder, count)


MOMENTS = 4  # some half a minute each


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing_and_compute_nothing_twice(start, tmp_path):
    whole = tmp_path / "whole"
    begun = time.monotonic()
    expected = finish(start, whole, tmp_path / "whole-count")
    seconds = time.monotonic() - begun
    rng = random.Random(0)
    for k in range(MOMENTS):
        folder, count = tmp_path / f"run-{k}", tmp_path / f"count-{k}"
        process = begin(start, folder, count)
        time.sleep(rng.uniform(0.2, 0.95) * seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert finish(start, folder, count) == expected


@pytest.mark.slow
def test_a_full_disk_is_a_sentence_and_the_journal_stays_whole(start, tmp_path):
    """No file may grow beyond a size that some labels reach; without the limit the run goes on."""
    folder, count = tmp_path / "run", tmp_path / "count"
    process = begin(start, folder, count, limit=4000)
    assert process.wait(300) == 1
    assert "File too large" in process.stderr.read()
    read_labels(folder), read_lines(folder)
    finish(start, folder, count)
