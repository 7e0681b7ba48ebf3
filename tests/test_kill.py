"""A sample of tools/kill_anywhere.py: a run after SIGKILL gives the bits of an undisturbed one."""

import runpy
from pathlib import Path

import pytest

pytest.importorskip("sevenn")


@pytest.mark.slow
@pytest.mark.parametrize(
    "commands",
    [
        "fit",
        "predict",
        # a known defect, not understood: once in four runs, on a busy machine, the resumed trajectory had other bytes
        pytest.param("md", marks=pytest.mark.xfail(reason="a resumed trajectory once differed", strict=False)),
    ],
)
def test_a_run_after_a_kill_gives_the_same_bits(commands):
    tool = runpy.run_path(str(Path(__file__).parents[1] / "tools" / "kill_anywhere.py"))
    assert tool["main"](["--moments", "2", "--commands", commands, "--seed", "1"]) == 0
