import time
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io.jsonio import encode

from mekrr.errors import LabelError
from mekrr.learning.labeller import Labeller
from mekrr.learning.worker import _made

CALCULATORS = Path(__file__).with_name("calculators.py")


@pytest.fixture
def copper():
    atoms = bulk("Cu", cubic=True)
    atoms.positions[0] += 0.1
    return atoms


def ask(atoms, number=0):
    return {"number": number, "atoms": atoms, "stress": False}


def labeller(tmp_path, name, timeout=None):
    return Labeller(f"{CALCULATORS}:{name}", tmp_path / "calculator", timeout)


def test_labels_are_those_of_the_calculator(copper, tmp_path):
    one = labeller(tmp_path, "emt")
    found = one(ask(copper))
    one.close()
    copper.calc = EMT()
    assert found.error == ""
    assert found.results["energy"] == copper.get_potential_energy()
    np.testing.assert_array_equal(found.results["forces"], copper.get_forces())


def test_a_fault_is_a_sentence_and_the_next_structure_is_tried(copper, tmp_path):
    one = labeller(tmp_path, "faulty", timeout=6.0)
    for number, message in enumerate(
        (
            "the calculator raised RuntimeError: SCF not converged in 50 steps",
            "shape (3, 3) for 4 atoms",
            "did not converge",
            "signal SIGSEGV; the end of",
            "stopped after 6 seconds",
        )
    ):
        found = one(ask(copper, number))
        assert found.results is None
        assert message in found.error, found.error
        assert "Traceback" not in found.error
    assert one(ask(copper, 9)).error == ""
    one.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raising_factory", "RuntimeError: no pseudopotential for Cu"),
        ("no_calculator", "returned a str, which is no ASE calculator"),
        ("nothing", "has no function nothing"),
    ],
)
def test_a_factory_that_makes_no_calculator_is_a_sentence(name, message):
    with pytest.raises(LabelError if name != "raising_factory" else RuntimeError, match=message.split(": ")[-1]):
        _made(f"{CALCULATORS}:{name}")


def test_an_answer_that_nobody_read_is_found_again(copper, tmp_path):
    one = labeller(tmp_path, "emt")
    found = one(ask(copper, 7))
    one.close()
    asked, answer = labeller(tmp_path, "emt").left_behind()
    assert (asked["number"], answer.results["energy"]) == (7, found.results["energy"])


def test_a_calculation_that_goes_on_is_waited_for(copper, tmp_path, monkeypatch):
    """As after a kill of the run alone: the pipe is closed, the process goes on and leaves its answer."""
    monkeypatch.setenv("MEKRR_SLEEP", "2")
    one = labeller(tmp_path, "emt")
    process = one._running()
    (tmp_path / "calculator" / "ask.json").write_text(encode(ask(copper, 3)))
    process.stdin.write(b"label\n")
    process.stdin.close()
    process.stdout.close()
    while not one.is_busy():
        time.sleep(0.02)
    asked, answer = labeller(tmp_path, "emt").left_behind()
    process.wait()
    assert (asked["number"], answer.error) == (3, "")


@pytest.mark.parametrize("name", ["emt", "calculators.py", "missing.py:emt", "calculators.py:", "x.txt:emt"])
def test_names_that_are_no_calculator_are_refused_before_anything_runs(tmp_path, name):
    with pytest.raises(LabelError, match=r"FILE.py:function|there is no file"):
        Labeller(name, tmp_path / "calculator")
