import warnings
from dataclasses import replace

import numpy as np
import pytest

from mekrr import DataError, KernelPotential, MekrrWarning, evaluate
from mekrr.data import Structure, as_structures
from mekrr.evaluation import unlike_remarks
from mekrr.potential import Prediction
from mekrr.potential.held_out import HeldOutErrors
from mekrr.potential.record import RefinementRecord
from support import labelled

pytest.importorskip("sevenn")


@pytest.fixture(scope="module")
def evaluation(potential, alloys):
    return evaluate(potential, alloys[30:])


def test_metrics_equal_the_formulas(potential, alloys, evaluation):
    predictions = potential.predict(alloys[30:])
    energy = [
        1000 * (p.energy - a.get_potential_energy()) / len(a) for p, a in zip(predictions, alloys[30:], strict=True)
    ]
    force = np.concatenate(
        [1000 * (p.forces - a.get_forces()).ravel() for p, a in zip(predictions, alloys[30:], strict=True)]
    )
    metrics = evaluation.metrics()
    assert metrics["energy_rmse_mev_per_atom"] == pytest.approx(np.sqrt(np.mean(np.square(energy))), rel=1e-6)
    assert metrics["energy_mae_mev_per_atom"] == pytest.approx(np.mean(np.abs(energy)), rel=1e-6)
    assert metrics["forces_rmse_mev_per_angstrom"] == pytest.approx(np.sqrt(np.mean(force**2)), rel=1e-6)
    assert metrics["n_atoms"] == sum(len(a) for a in alloys[30:])


def test_the_backbone_by_itself_is_shifted_on_the_training_data(potential, alloys):
    """On the training data the shifts are a least-squares fit: no per-element change lowers the error."""
    found = evaluate(potential, alloys[:30])
    errors = (found.backbone_energies - found.energies) / found.n_atoms
    counts = np.array([[np.sum(a.numbers == z) for z in (29, 79)] for a in alloys[:30]]) / found.n_atoms[:, None]
    assert np.abs(counts.T @ errors).max() < 1e-8


def test_removing_composition_offsets_removes_them(evaluation):
    shifted = [
        type(p)(**(vars(p) | {"energy": p.energy + 0.5 * (s.species == 79).sum()}))
        for p, s in zip(evaluation.predictions, evaluation.structures, strict=True)
    ]
    moved = type(evaluation)(evaluation.structures, shifted, None, evaluation.composition_energies)
    a, b = evaluation.metrics(), moved.metrics()
    assert b["energy_rmse_mev_per_atom"] > 5 * a["energy_rmse_mev_per_atom"]
    key = "energy_rmse_per_composition_mev_per_atom"
    assert b[key] == pytest.approx(a[key], rel=1e-6)


def test_groups_add_up(potential, alloys):
    structures = [
        Structure(s.atoms, s.energy, s.forces, info={"kind": "even" if i % 2 else "odd"})
        for i, s in enumerate(as_structures(alloys[30:]))
    ]
    found = evaluate(potential, structures, by="kind")
    groups = found.groups()
    mean = np.mean([groups[name]["energy_rmse_mev_per_atom"] ** 2 for name in ("even", "odd")])
    assert mean == pytest.approx(found.metrics()["energy_rmse_mev_per_atom"] ** 2)


def test_structures_without_forces_give_null(potential, alloys):
    structures = [Structure(s.atoms, s.energy) for s in as_structures(alloys[33:])]
    metrics = evaluate(potential, structures).metrics()
    assert metrics["forces_rmse_mev_per_angstrom"] is None
    assert metrics["backbone_forces_rmse_mev_per_angstrom"] is None


def test_forces_in_some_structures_only(potential, alloys):
    first, *rest = as_structures(alloys[32:])
    mixed = [Structure(first.atoms, first.energy), *rest]
    found = evaluate(potential, mixed)
    assert len(found.force_errors()) == 3 * sum(len(s) for s in rest)


def test_an_unlabelled_structure_is_named(potential, alloys):
    with pytest.raises(DataError, match=r"index 0 .*: no energy to compare with"):
        evaluate(potential, [Structure(alloys[0])])


def test_structures_unlike_the_training_data_are_announced(potential, alloys):
    """A compressed and badly rattled cell is, training structures are not."""
    limit = 10 * potential.fitted_.record.leave_one_out.deviation_mev_per_atom
    found = potential.predict(alloys[:30], uncertainty=True)
    like = [a for a, p in zip(alloys[:30], found, strict=True) if 1000 * p.energy_std / len(a) < limit]
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        evaluate(potential, like)
    assert len(like) > 15
    assert not [w for w in heard if "unlike the training data" in str(w.message)]
    strange = alloys[31].copy()
    strange.set_cell(0.85 * strange.cell, scale_atoms=True)
    strange.positions += np.random.default_rng(0).normal(0, 0.3, strange.positions.shape)
    with pytest.warns(MekrrWarning, match=r"1 of \d+ structures are unlike the training data.*mekrr select"):
        evaluate(potential, [*like, labelled(strange)])


def test_a_few_violent_training_structures_do_not_raise_the_limit(potential, alloys):
    (structure,) = as_structures(alloys[:1])
    record = potential.fitted_.record
    errors = replace(record.leave_one_out, rmse_mev_per_atom=50.0, median_absolute_mev_per_atom=1.0)
    record = replace(record, leave_one_out=errors)
    assert unlike_remarks(record, [structure], [Prediction(0.0, energy_std=0.015 * len(structure))])
    assert not unlike_remarks(record, [structure], [Prediction(0.0, energy_std=0.0147 * len(structure))])


def test_a_refined_network_is_measured_by_structures_held_out(potential, alloys):
    (structure,) = as_structures(alloys[:1])
    errors = HeldOutErrors(9.0, 2.0, None)
    record = replace(potential.fitted_.record, refinement=RefinementRecord(1e-3, 1.0, (), 5, errors))
    (remark,) = unlike_remarks(record, [structure], [Prediction(0.0, energy_std=0.026 * len(structure))])
    assert "above 25 meV/atom, 10 times that of structures held out" in remark
    assert not unlike_remarks(record, [structure], [Prediction(0.0, energy_std=0.024 * len(structure))])


def test_training_structures_are_announced(potential, alloys):
    with pytest.warns(MekrrWarning, match=r"2 of 4 structures are training structures"):
        found = evaluate(potential, [*alloys[:2], *alloys[30:32]])
    assert found.metrics()["n_training_structures"] == 2
    assert any("2 of 4" in remark for remark in found.remarks)


def test_training_structures_are_known_in_other_digits_and_after_loading(potential, alloys, tmp_path):
    potential.save(tmp_path / "m.safetensors")
    moved = [a.copy() for a in alloys[:4]]
    for atoms in moved[:3]:
        atoms.positions = atoms.positions.round(5)
    moved[3].positions[0] += 0.01
    *written, near = (labelled(atoms) for atoms in moved)
    for one in (potential, KernelPotential.load(tmp_path / "m.safetensors")):
        assert one.fitted_.trained_on(as_structures([*written, near, alloys[31]])) == [True] * 3 + [False] * 2
    with pytest.warns(MekrrWarning, match=r"3 of 4 structures are training structures"):
        evaluate(potential, [*written, near])


def test_the_verdict_says_where_the_backbone_is_better(potential, alloys):
    found = evaluate(potential, alloys[30:])
    assert "better in energies" in found.verdict()
    worse = replace(found, backbone_energies=found.energies + 1e-6)
    assert "WORSE in energies" in worse.verdict()
    assert "better in forces" in worse.verdict()
    assert found.refinable
    assert "try --refine 1, which may carry further" in worse.verdict()
    assert "--refine" not in found.verdict()
    assert "--refine" not in replace(worse, refinable=False).verdict()


@pytest.mark.parametrize("label", ["energy", "forces"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_labels_that_are_not_finite_are_refused_with_the_structure(potential, alloys, label, value):
    first, second, *rest = as_structures(alloys[30:])
    forces = second.forces.copy()
    forces[0, 0] = value
    broken = replace(second, **{label: {"energy": value, "forces": forces}[label]}, source="a.extxyz", index=7)
    with pytest.raises(DataError, match=rf"a\.extxyz, index 7 .*: NaN or infinite {label}; remove the structure"):
        evaluate(potential, [first, broken, *rest])


def test_the_verdict_calls_no_number_better(evaluation):
    lost = replace(evaluation, composition_energies=evaluation.energies, backbone_energies=evaluation.energies * np.nan)
    assert "WORSE in energies" in lost.verdict()


def test_deviations_of_forces_need_forces_to_compare_with(potential, alloys):
    bare = [replace(s, forces=None) for s in as_structures(alloys[33:])]
    with pytest.raises(ValueError, match="--force-uncertainty: without effect here, since no structure has forces"):
        evaluate(potential, bare, force_uncertainty=True)
