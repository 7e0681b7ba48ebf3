"""From labels to a potential, without a run around."""

from dataclasses import replace

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr.learning.labels import Label, stiffness
from mekrr.learning.learner import Learner, correction
from mekrr.potential import KernelPotential
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


def test_a_run_with_a_label_twice_takes_its_potential_up_as_it_was(cluster, tmp_path):
    """The file says what its deviations were multiplied by; lines of the journal count labels, not structures."""
    generator = np.random.default_rng(0)
    moves = [generator.normal(0, 0.1, (4, 3)) for _ in range(6)]
    labels = _labels(cluster, [*moves, moves[-1] + 2e-5])
    learner, lines = Learner(replace(FitOptions(), **FIXED), tmp_path / "cache"), []
    for count, times in ((6, 1.0), (7, 3.0)):
        lines.append(learner.learn(labels[:count]) | {"kind": "model", "deviations_times": times})
        learner.save(tmp_path / "model.safetensors", times)
    again = Learner(replace(FitOptions(), **FIXED), tmp_path / "cache")
    again.take_up(tmp_path / "model.safetensors", lines)
    amplitude = learner.potential.fitted_.model.energy_amplitude
    assert again.potential.fitted_.model.energy_amplitude == pytest.approx(amplitude)
    assert again.potential.fitted_.record.deviations_times == pytest.approx(1.0)


def test_what_is_saved_is_corrected_by_the_potentials_own_errors(cluster):
    """Those of a surface that is exact at the best label are smaller."""
    found = []
    for label in _labels(cluster, [np.full((4, 3), 0.01 * k) for k in range(4)]):
        one = _with_history(label, 0.1, 0.1, 1.0)
        one.frame.arrays["before_own_forces"] = label.forces + 0.3
        found.append(one)
    assert correction(found) == pytest.approx(1.0)
    assert correction(found, own=True) == pytest.approx(3.0)


def _with_history(label, error, own_deviation, corrected_by):
    """A label predicted before, off by `error`, by a potential whose deviations were multiplied."""
    frame = label.frame.copy()
    frame.calc = label.frame.calc
    frame.arrays["before_forces"] = label.forces + error
    frame.info |= {"before_force_std": corrected_by * own_deviation, "before_correction": corrected_by}
    return Label.of(frame, "labels", label.number)


def test_what_was_corrected_before_is_not_taken_for_right(cluster):
    """Deviations half as large as errors: they are doubled, and stay doubled once the doubled ones come true."""
    plain = _labels(cluster, [np.full((4, 3), 0.01 * k) for k in range(12)])
    assert correction(plain) == 1.0
    labels = [_with_history(label, 0.2, 0.1, 1.0) for label in plain[:2]]
    assert correction(labels) == pytest.approx(2.0)
    labels += [_with_history(label, 0.2, 0.1, 2.0) for label in plain[2:]]
    assert correction(labels) == pytest.approx(2.0)


def test_a_saved_potential_has_its_deviations_corrected_and_goes_on_as_it_was(cluster, tmp_path):
    generator = np.random.default_rng(0)
    labels = _labels(cluster, [generator.normal(0, 0.1, (4, 3)) for _ in range(6)])
    learner = Learner(replace(FitOptions(), **FIXED), tmp_path / "cache")
    line = learner.learn(labels) | {"kind": "model", "deviations_times": 2.0}
    learner.save(tmp_path / "model.safetensors", 2.0)
    atoms = labels[0].structure.atoms.copy()
    atoms.positions += 0.05
    atoms.positions[0] += 0.1

    def deviations(potential):
        (found,) = potential.predict([atoms.copy()], uncertainty=True, force_uncertainty=True)
        return found.energy_std, found.forces_std

    energy, forces = deviations(learner.potential)
    saved = deviations(KernelPotential.load(tmp_path / "model.safetensors"))
    assert saved[0] == pytest.approx(2.0 * energy)
    assert np.allclose(saved[1], 2.0 * forces, rtol=1e-6)
    again = Learner(replace(FitOptions(), **FIXED), tmp_path / "cache")
    again.take_up(tmp_path / "model.safetensors", [line])
    assert deviations(again.potential)[0] == pytest.approx(energy)
    assert np.allclose(deviations(again.potential)[1], forces, rtol=1e-6)


def test_atoms_of_stiff_bonds_may_be_further_off(cluster):
    labels = _labels(cluster, [np.random.default_rng(k).normal(0, 0.1, (4, 3)) for k in range(3)])
    frames = [label.frame.copy() for label in labels]
    for frame, label in zip(frames, labels, strict=True):
        frame.numbers[:1] = 6
        forces = np.ones((4, 3))
        forces[0] = 3.0
        frame.calc = SinglePointCalculator(frame, energy=label.energy, forces=forces)
    found = stiffness([Label.of(frame, "labels", k) for k, frame in enumerate(frames)])
    assert found[6] == pytest.approx(3.0 / np.sqrt((9 + 3) / 4))
    assert all(value == 1.0 for z, value in found.items() if z != 6)
    for frame in frames:
        frame.calc = SinglePointCalculator(frame, energy=0.0, forces=np.zeros((4, 3)))
    assert stiffness([Label.of(frame, "labels", k) for k, frame in enumerate(frames)]) == {}
