"""How many threads a command takes, and that it is said."""

import json
import os
import subprocess
import sys

import pytest
import torch

from mekrr.cli import threads
from mekrr.cli.app import run
from mekrr.threads import idle_cores


@pytest.mark.parametrize(
    ("allowed", "idle", "count"),
    [
        (2, 2.0, 2),  # an idle laptop
        (2, 1.8, 2),  # with a browser open
        (2, 1.0, 1),  # one core busy
        (2, 0.0, 1),
        (64, 64.0, 8),  # a node
        (64, 3.2, 3),
        (4, 16.0, 4),  # OMP_NUM_THREADS=4
    ],
)
def test_the_rule(allowed, idle, count):
    assert threads.automatic(allowed, idle) == count


def test_a_core_that_another_process_keeps_busy_is_not_idle():
    if not os.path.exists("/proc/stat"):
        pytest.skip("no /proc/stat here")
    cores = len(os.sched_getaffinity(0))
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        torch.manual_seed(0)
        found = min(idle_cores() for _ in range(3))
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    assert found < 0.7 * cores


def test_waiting_threads_sleep_before_torch_is_loaded():
    code = (
        "import os, sys, mekrr.cli; sys.argv = ['mekrr', '--version']\n"
        "assert 'torch' not in sys.modules\n"
        "try: mekrr.cli.main()\nexcept SystemExit: print(os.environ['OMP_WAIT_POLICY'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    for given, kept in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        said = subprocess.run([sys.executable, "-c", code], env=environment | given, capture_output=True, text=True)
        assert said.stdout.split()[-1] == kept, said.stderr


def test_the_number_is_an_option_and_is_said(capsys, potential, alloys, tmp_path, monkeypatch):
    import ase.io

    potential.save(tmp_path / "m.safetensors")
    ase.io.write(tmp_path / "t.extxyz", alloys[30:32])
    words = ["predict", str(tmp_path / "m.safetensors"), str(tmp_path / "t.extxyz"), "-o", str(tmp_path / "p.extxyz")]
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "idle_cores", lambda: 1.0)
    for given in ([], ["--threads", "1"]):
        assert run([*words, *given, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["threads"] == 1
    features = [
        "features",
        str(tmp_path / "t.extxyz"),
        "-o",
        str(tmp_path / "f.safetensors"),
        "--no-forces",
        "--no-cache",
    ]
    assert run([*features, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["threads"] == 1
    assert torch.get_num_threads() == before
    assert run([*words, "--threads", "5000"]) == 1
    assert "threads must be from 1 to" in capsys.readouterr().err
