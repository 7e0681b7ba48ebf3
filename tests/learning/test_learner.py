"""From labels to a potential, without a run around."""

from dataclasses import replace

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr.learning.labels import Label
from mekrr.learning.learner import Learner
from mekrr.potential.options import FitOptions

from .conftest import FIXED

pytest.importorskip("sevenn")


def _labels(cluster, moves):
    found = []
    for number, move in enumerate(moves):
        frame = cluster.copy()
        frame.set_constraint()
        frame.positions += move
        frame.calc = EMT()
        results = {"energy": frame.get_potential_energy(), "forces": frame.get_forces()}
        frame.info = {"label": number}
        frame.calc = SinglePointCalculator(frame, **results)
        found.append(Label.of(frame, "labels", number))
    return found


def test_a_label_where_there_is_one_already_changes_nothing_and_ends_nothing(cluster, tmp_path):
    """The last steps of a relaxation are shorter than what counts as another structure."""
    generator = np.random.default_rng(0)
    moves = [generator.normal(0, 0.1, (4, 3)) for _ in range(6)]
    labels = _labels(cluster, [*moves, moves[-1] + 2e-5])
    learner = Learner(replace(FitOptions(), **FIXED), tmp_path)
    assert learner.learn(labels[:6])["how"] == "chosen"
    before = learner.potential.fitted_.model.coefficients.clone()
    assert learner.learn(labels)["how"] == "updated"
    assert learner.n_labels == 7
    assert learner.potential.fitted_.record.data.n_structures == 6
    assert np.array_equal(learner.potential.fitted_.model.coefficients, before)
