"""A sample of tools/kill_anywhere.py: a run after SIGKILL gives the bits of an undisturbed one."""

import runpy
from pathlib import Path

import pytest

pytest.importorskip("sevenn")


@pytest.mark.slow
@pytest.mark.parametrize("commands", ["fit", "predict", "md"])
def test_a_run_after_a_kill_gives_the_same_bits(commands):
    tool = runpy.run_path(str(Path(__file__).parents[1] / "tools" / "kill_anywhere.py"))
    assert tool["main"](["--moments", "2", "--commands", commands, "--seed", "1"]) == 0
