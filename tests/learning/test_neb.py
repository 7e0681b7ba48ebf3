import numpy as np
import pytest
from ase.calculators.emt import EMT

from mekrr.errors import DataError
from mekrr.learning import learn

from .conftest import FIXED


@pytest.mark.slow
def test_the_saddle_is_one_of_the_calculator(hop, emt, tmp_path):
    found = list(
        learn("neb", *hop, folder=tmp_path, calculator=emt, images=3, fmax=0.05, vibrations=True, labels=20, **FIXED)
    )
    assert found[-1].kind == "converged", found[-1].text
    path, numbers = found[-1].structures, found[-1].numbers
    saddle = path[2].copy()
    assert abs(saddle.positions[3, 2]) < 0.1
    saddle.calc, first = EMT(), hop[0].copy()
    first.calc = EMT()
    assert np.linalg.norm(saddle.get_forces(), axis=1).max() < 0.05
    barrier = saddle.get_potential_energy() - first.get_potential_energy()
    assert numbers["barrier_ev"] == pytest.approx(barrier, abs=1e-6)
    assert numbers["imaginary_frequencies"] == 1
    assert numbers["n_labels"] <= 15


def test_ends_that_do_not_go_together_are_refused(hop, emt, tmp_path):
    start, end = hop
    other, swapped, larger = end.copy(), end.copy(), end.copy()
    other.numbers[3] = 47
    swapped.numbers[[0, 3]] = swapped.numbers[[3, 0]]
    larger.set_cell([9, 9, 9])
    for wrong, message in ((other, "other atoms than START"), (swapped, "another order"), (larger, "another cell")):
        with pytest.raises(DataError, match=message):
            learn("neb", start, wrong, folder=tmp_path / "run", calculator=emt)
    with pytest.raises(ValueError, match="a path needs an end"):
        learn("neb", start, folder=tmp_path / "run", calculator=emt)


def test_an_end_that_is_no_minimum_is_told(hop, emt, tmp_path):
    hop[1].positions[3, 2] -= 0.3
    running = learn("neb", *hop, folder=tmp_path, calculator=emt, images=3, labels=2, **FIXED)
    told = next(event.text for event in running if event.kind == "remark")
    running.close()
    assert "END is no minimum of DFT" in told
