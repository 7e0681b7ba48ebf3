import numpy as np
import pytest

from mekrr.data import Structure
from mekrr.errors import DataError
from mekrr.potential import FitOptions
from mekrr.potential.fit import solver_of


def structures(molecules, forces):
    return [
        Structure(a.copy(), 0.0, np.zeros((len(a), 3)) if f else None) for a, f in zip(molecules, forces, strict=False)
    ]


@pytest.mark.parametrize(
    ("options", "forces", "expected"),
    [
        ({}, [1, 1], ("sparse", True)),
        ({}, [1, 0], ("sparse", True)),
        ({}, [0, 0], ("exact", False)),
        ({"forces": False}, [1, 1], ("exact", False)),
        ({"solver": "exact"}, [1, 1], ("exact", False)),
        ({"solver": "sparse"}, [0, 0], ("sparse", False)),
        ({"embedding": "mean"}, [1, 1], ("exact", False)),
    ],
)
def test_the_data_and_the_options_decide_the_solver(molecules, options, forces, expected):
    assert solver_of(FitOptions(**options), structures(molecules, forces)) == expected


def test_forces_that_are_not_there_are_an_error(molecules):
    with pytest.raises(DataError, match="none of the 2 structures has forces or stress; fit with --no-forces"):
        solver_of(FitOptions(forces=True), structures(molecules, [0, 0]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"solver": "exact", "forces": True}, "the exact solver fits energies only"),
        ({"solver": "sparse", "embedding": "mean"}, "the sparse solver needs the sum embedding"),
        ({"forces": True, "embedding": "mean"}, "forces need the sum embedding"),
        ({"probes": -1}, "probes must be a number from 0, or all; got -1"),
        ({"inducing": 0}, "inducing must be a positive number, or auto; got 0"),
        ({"solver": "dense"}, "unknown solver 'dense'"),
        ({"force_weight": -1.0}, "force_weight must lie between"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        FitOptions(**options)
