import re

import numpy as np
import pytest

from mekrr import KernelPotential
from mekrr.data import Structure
from mekrr.errors import DataError, MekrrWarning
from mekrr.potential import FitOptions
from mekrr.potential.advice import solver_remarks
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
    ("options", "solver", "forces", "count", "words"),
    [
        ({}, "sparse", False, 3001, "energies of 3,001 structures go to the sparse solver.*--solver exact takes it"),
        ({"solver": "exact"}, "exact", False, 20_000, "matrix of 20,000 rows and columns, 3.2 GB.*--solver sparse"),
        ({"solver": "exact"}, "exact", False, 5000, None),
        ({"solver": "sparse"}, "sparse", False, 3001, None),
        ({}, "sparse", True, 20_000, None),
        ({}, "exact", False, 3000, None),
    ],
)
def test_what_very_many_energies_mean_is_said(options, solver, forces, count, words):
    found = solver_remarks(FitOptions(**options), solver, forces, count)
    assert len(found) == (words is not None)
    assert words is None or re.search(words, found[0])


def test_a_fit_says_which_solver_it_took(molecules, checkpoint, monkeypatch):
    monkeypatch.setattr("mekrr.potential.fit.EXACT_STRUCTURES", 5)
    with pytest.warns(MekrrWarning, match="energies of 6 structures go to the sparse solver"):
        KernelPotential(f"schnet:{checkpoint}", length_scale=6.0, prior="composition").fit(
            [Structure(a, float(k)) for k, a in enumerate(molecules[:6])]
        )


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
