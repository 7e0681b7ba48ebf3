import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from ase.io import write

import mekrr_comparison.runner as runner_module
from forking import forked
from mekrr.data import as_structures
from mekrr.errors import DataError
from mekrr_comparison.cell import Cell
from mekrr_comparison.runner import run_cells


@pytest.fixture
def cell(alloys):
    structures = as_structures(alloys)
    return Cell(
        "comparison_methods:MeanEnergy",
        {"data": "alloys"},
        structures[:9],
        structures[9:12],
        {"test": structures[12:20]},
    )


@pytest.fixture
def quick_start():
    with forked():
        yield


def record(cell, folder, **options):
    return run_cells([cell], folder, **options)[0].record


def test_a_result_is_kept_and_not_computed_again(cell, tmp_path):
    first = run_cells([cell], tmp_path)[0]
    assert first.is_done
    assert first.record["n_training"] == 12  # it needs no validation set, so it was given that as well
    assert first.record["tests"]["test"]["n_structures"] == 8
    assert "MeanEnergy was here" in (tmp_path / "logs" / f"{first.key}.txt").read_text()
    path = tmp_path / "cells" / f"{first.key}.json"
    before = path.stat().st_mtime_ns
    assert run_cells([cell], tmp_path)[0].record == first.record
    assert path.stat().st_mtime_ns == before


def test_the_key_is_of_everything_that_matters(cell):
    energies = [replace(s, energy=s.energy + 1e-9) for s in cell.training]
    others = [
        replace(cell, training=cell.training[1:]),
        replace(cell, training=energies),
        replace(cell, validation=[]),
        replace(cell, tests={"test": cell.validation}),
        replace(cell, seed=1),
        replace(cell, options={"offset": 1.0}),
        replace(cell, cache=Path("somewhere")),
        replace(cell, method="comparison_methods:Greedy"),
        replace(cell, backbone="chgnet-0.3.0"),
    ]
    assert len({c.key for c in [cell, *others]}) == len(others) + 1
    assert replace(cell, labels={"data": "renamed"}).key == replace(cell, cap=10.0).key == cell.key


def test_a_crash_and_an_error_are_results(cell, quick_start, tmp_path):
    crashed = record(replace(cell, method="comparison_methods:Crashing"), tmp_path)
    assert (crashed["status"], crashed["message"]) == (
        "failed",
        "the process gave no result: exit code 7; it last said: about to crash",
    )
    raised = record(replace(cell, method="comparison_methods:Raising"), tmp_path)
    assert (raised["status"], raised["message"]) == ("failed", "RuntimeError: no convergence")


def test_what_failed_is_computed_again_only_when_asked(cell, quick_start, tmp_path):
    failing = replace(cell, method="comparison_methods:Raising")
    path = tmp_path / "cells" / f"{failing.key}.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"status": "failed", "message": "of old"}))
    assert record(failing, tmp_path)["message"] == "of old"
    assert record(failing, tmp_path, retry=True)["message"] == "RuntimeError: no convergence"


def test_missing_methods_say_how_to_get_them(cell, tmp_path):
    missing = record(replace(cell, method="comparison_methods:Absent"), tmp_path)
    assert missing == {"status": "missing", "message": 'not installed; run: pip install "mekrr[absent]"'}
    assert "cannot be imported" in record(replace(cell, method="no_such_module:X"), tmp_path)["message"]
    assert not list((tmp_path / "cells").iterdir())


@pytest.mark.slow
def test_seconds_memory_and_cap_are_those_of_the_fit(cell, tmp_path):
    small = record(cell, tmp_path)
    greedy = record(replace(cell, method="comparison_methods:Greedy", cap=50.0), tmp_path)
    assert greedy["seconds"]["fit"] > 0.1
    assert greedy["seconds"]["stages"] == {"training": 0.1}
    assert 250 < greedy["peak_memory_mib"] - greedy["memory_at_start_mib"] < 400
    assert small["peak_memory_mib"] - small["memory_at_start_mib"] < 100
    assert (small["capped"], greedy["capped"], greedy["n_validation"]) == (False, True, 3)


def test_what_a_cap_ended_is_computed_again_under_another_one(cell, quick_start, tmp_path):
    path = tmp_path / "cells" / f"{cell.key}.json"
    path.parent.mkdir()
    for capped, cap, message in ((True, 5.0, "of old"), (False, None, "of old"), (True, None, None)):
        described = {"cap": 5.0}
        path.write_text(
            json.dumps({"status": "failed", "message": "of old", "capped": capped, "description": described})
        )
        assert record(replace(cell, cap=cap), tmp_path).get("message") == message


@pytest.mark.slow
def test_a_method_that_ignores_its_cap_is_ended(cell, tmp_path, monkeypatch):
    monkeypatch.setattr(runner_module, "GRACE", 0.0)
    found = record(replace(cell, method="comparison_methods:Stuck", cap=2.0), tmp_path)
    assert found["status"] == "failed"
    assert "far beyond its cap" in found["message"]


def test_a_damaged_result_is_named(cell, tmp_path):
    path = tmp_path / "cells" / f"{cell.key}.json"
    path.parent.mkdir()
    path.write_text("{")
    with pytest.raises(DataError, match="delete it and run again"):
        run_cells([cell], tmp_path)


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(alloys, tmp_path):
    write(tmp_path / "data.extxyz", alloys)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    command = [
        sys.executable, "-c", "from mekrr.cli import main; main()", "benchmark", "same", str(tmp_path / "data.extxyz"),
        "-o", str(tmp_path / "run"), "--methods", "comparison_methods:MeanEnergy", "--seeds", "4", "--json",
    ]  # fmt: skip
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    cells = tmp_path / "run" / "cells"
    wait_for(lambda: cells.is_dir() and len(list(cells.glob("*.json"))) >= 2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(1.5)  # the child sees that its parent is gone
    there = {path: path.stat().st_mtime_ns for path in cells.glob("*.json")}
    assert 2 <= len(there) < 4
    assert not (tmp_path / "run" / "results.json").exists()
    again = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
    assert len(json.loads(again.stdout)["results"]) == 4
    assert len(list(cells.iterdir())) - len(list(cells.glob("*.tmp"))) == 4
    assert {path: path.stat().st_mtime_ns for path in there} == there


def wait_for(happened, seconds=120):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)
