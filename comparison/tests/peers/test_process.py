import subprocess
import sys
import time
from pathlib import Path

import pytest

from mekrr_comparison.peers.process import find_program, run_program, working_folder


def test_failure_shows_the_last_lines(tmp_path):
    script = "print('first'); import sys; print('the reason', file=sys.stderr); sys.exit(3)"
    with pytest.raises(RuntimeError, match=r"(?s)status 3.*the reason"):
        run_program([sys.executable, "-c", script], tmp_path)


def test_program_that_ends(tmp_path):
    assert run_program([sys.executable, "-c", "print('done')"], tmp_path, seconds=60)
    assert (tmp_path / "output.log").read_text() == "done\n"


def test_cap_ends_it(tmp_path):
    start = time.monotonic()
    assert not run_program([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, seconds=0.5)
    assert time.monotonic() - start < 30


NESTED = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path("pid").write_text(str(child.pid))
time.sleep(60)
"""


def is_running(pid):
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def assert_gone(path):
    """The kernel may take a moment over a killed process."""
    pid, deadline = int(path.read_text()), time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks into /proc")
def test_cap_ends_what_the_program_started_too(tmp_path):
    assert not run_program([sys.executable, "-c", NESTED], tmp_path, seconds=8)
    assert_gone(tmp_path / "pid")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks into /proc")
def test_a_killed_worker_leaves_no_program(tmp_path):
    """As the worker of a benchmark ends when its run is gone."""
    script = f"""
import os, threading, time
from pathlib import Path
from mekrr_comparison.peers.process import end_programs, run_program
def end():
    while not Path("pid").exists() or not Path("pid").read_text():
        time.sleep(0.05)
    end_programs()
    os._exit(1)
threading.Thread(target=end, daemon=True).start()
run_program([{sys.executable!r}, "-c", {NESTED!r}], Path("."))
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False, timeout=60)
    assert_gone(tmp_path / "pid")


def test_missing_program(tmp_path):
    assert find_program("no-such-program") is None
    with pytest.raises(RuntimeError, match="cannot be started"):
        run_program([str(tmp_path / "no-such-program")], tmp_path)


def test_own_folder_stays_and_temporary_goes(tmp_path):
    with working_folder(tmp_path / "mine") as mine:
        (mine / "file").write_text("kept")
    assert (tmp_path / "mine" / "file").exists()
    with working_folder(None) as temporary:
        (temporary / "file").write_text("gone")
    assert not temporary.exists()
