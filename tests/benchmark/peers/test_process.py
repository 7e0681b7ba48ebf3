import sys
import time

import pytest

from mekrr.benchmark.peers.process import find_program, run_program, working_folder


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
