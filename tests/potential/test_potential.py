import warnings

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr import DataError, KernelPotential, MekrrWarning
from mekrr.errors import ModelFileError

QUIET = {"layers": ("interaction_1",), "length_scale": 12.0, "species_weight": 0.5, "ridge": 1e-4, "tangent_share": 0.0}

pytest.importorskip("sevenn")


def fit(structures, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return KernelPotential("sevennet-0", **(QUIET | options)).fit(structures)


def strained(atoms, i, j, size):
    deformation = np.eye(3)
    deformation[i, j] += size / 2
    deformation[j, i] += size / 2
    moved = atoms.copy()
    moved.set_cell(moved.cell.array @ deformation, scale_atoms=True)
    return moved


@pytest.mark.parametrize("embedding", ["sum", "mean"])
@pytest.mark.parametrize("prior", ["composition", "backbone", "backbone-scaled"])
def test_forces_and_stress_are_derivatives_of_the_energy(alloys, embedding, prior):
    found = fit(alloys[:8], embedding=embedding, prior=prior, **({"exact_forces": False} if embedding == "sum" else {}))
    atoms = alloys[25]
    (prediction,) = found.predict([atoms])
    step = 4e-3  # float32 features: small steps drown in rounding
    for atom, axis in ((0, 0), (2, 1)):
        moved = [atoms.copy(), atoms.copy()]
        moved[0].positions[atom, axis] += step
        moved[1].positions[atom, axis] -= step
        up, down = (p.energy for p in found.predict(moved, forces=False))
        assert prediction.forces[atom, axis] == pytest.approx(-(up - down) / (2 * step), abs=6e-3)
    for i, j in ((0, 0), (0, 1)):
        up, down = (p.energy for p in found.predict([strained(atoms, i, j, s) for s in (step, -step)], forces=False))
        expected = (up - down) / (2 * step) / atoms.get_volume()
        assert prediction.stress[i, j] == pytest.approx(expected, abs=1e-3)


def test_sum_is_size_extensive_and_splits_into_atoms(potential, alloys):
    atoms = alloys[31]
    small, large = potential.predict([atoms, atoms.repeat((2, 1, 1))])
    assert large.energy == pytest.approx(2 * small.energy, abs=1e-4)
    assert small.atomic_energies.sum() == pytest.approx(small.energy, abs=1e-9)
    np.testing.assert_allclose(large.forces[: len(atoms)], small.forces, atol=1e-4)


def test_mean_embedding_has_no_atomic_energies(alloys):
    found = fit(alloys[:8], embedding="mean")
    (prediction,) = found.predict([alloys[22]])
    assert prediction.atomic_energies is None


def test_held_out_errors_are_what_leave_one_out_promised(potential, alloys):
    predictions = potential.predict(alloys[30:], uncertainty=True)
    errors = [
        1000 * (p.energy - a.get_potential_energy()) / len(a) for p, a in zip(predictions, alloys[30:], strict=True)
    ]
    promised = potential.fitted_.record.leave_one_out
    assert np.mean(np.abs(errors)) < 3 * promised.mae_mev_per_atom  # one structure of six would rule a square
    wrong = np.concatenate([p.forces - a.get_forces() for p, a in zip(predictions, alloys[30:], strict=True)])
    assert 1000 * np.sqrt(np.mean(np.square(wrong))) < 2 * promised.forces_rmse_mev_per_angstrom
    deviations = [1000 * p.energy_std / len(a) for p, a in zip(predictions, alloys[30:], strict=True)]
    assert 0.1 < np.sqrt(np.mean(np.square(errors))) / np.mean(deviations) < 5


def test_deviation_grows_away_from_the_data(potential, alloys):
    far = alloys[0].copy()
    far.positions[0] += 0.9
    near, away = potential.predict([alloys[0], far], forces=False, uncertainty=True)
    assert away.energy_std > 3 * near.energy_std


def test_same_seed_same_bits(alloys):
    first, second = (
        fit(alloys[:7], length_scale="auto", ridge="auto"),
        fit(alloys[:7], length_scale="auto", ridge="auto"),
    )
    assert torch.equal(first.fitted_.model.coefficients, second.fitted_.model.coefficients)
    assert first.predict([alloys[13]])[0].energy == second.predict([alloys[13]])[0].energy


def test_layers_are_chosen_where_none_are_named(alloys):
    """Every layer by itself and all of them are looked at, and the best by leave-one-out is taken."""
    options = {"probes": 1, "exact_forces": False, "inducing": 20, "length_scale": 12.0, "species_weight": 0.5}
    options |= {"tangent_share": 0.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = KernelPotential("sevennet-0", prior="backbone", **options).fit(alloys[:8]).fitted_
    looked_at = {trial.layers for trial in found.record.search.screening}
    layers = tuple(f"interaction_{k}" for k in range(5))
    assert {layers[1:2], layers[2:3], layers} <= looked_at
    assert found.layers == found.record.search.best.layers
    assert found.record.search.best.score == max(trial.score for trial in found.record.search.surface)


def test_saved_and_loaded_predict_the_same_bits(potential, alloys, tmp_path):
    potential.save(tmp_path / "model.safetensors")
    loaded = KernelPotential.load(tmp_path / "model.safetensors")
    before, after = (p.predict([alloys[33]], uncertainty=True)[0] for p in (potential, loaded))
    assert before.energy == after.energy
    assert before.energy_std == after.energy_std
    assert np.array_equal(before.forces, after.forces)
    assert loaded.fitted_.record.search.best == potential.fitted_.record.search.best


def test_large_total_energies_lose_no_mev(alloys):
    """60,000 eV on top of every structure: predictions move by that and nothing else."""
    from mekrr.data import Structure, as_structures

    plain = as_structures(alloys[:8])
    shifted = [
        Structure(s.atoms, s.energy + 60_000.0 * len(s) / 4, s.forces, s.stress, s.weight, s.info, s.source, s.index)
        for s in plain
    ]
    a, b = fit(plain, prior="composition"), fit(shifted, prior="composition")
    test = alloys[20:24]
    for p, q, atoms in zip(a.predict(test), b.predict(test), test, strict=True):
        assert q.energy - p.energy == pytest.approx(15_000.0 * len(atoms), abs=1e-4)
        np.testing.assert_allclose(q.forces, p.forces, atol=1e-5)


def test_weights_pull_the_fit(alloys):
    """Two structures that contradict each other: the heavier one is fitted more closely."""
    from mekrr.data import Structure, as_structures

    base = as_structures(alloys[:5])

    def weighted(weight):
        first = base[0]
        raised = Structure(first.atoms, first.energy + 1.0, weight=weight, index=0)
        found = fit([raised, *base[1:]], ridge=1.0, exact_forces=False)
        return found.predict([first.atoms], forces=False)[0].energy

    assert weighted(100.0) > weighted(1.0) > weighted(0.01)


def test_molecules_and_crystals_in_one_fit(alloys, molecules):
    found = fit([*alloys[:10], *molecules[:12]])
    boxed = molecules[12].copy()
    boxed.center(vacuum=6.0)
    crystal, molecule, box = found.predict([alloys[11], molecules[12], boxed])
    assert crystal.stress is not None
    assert molecule.stress is None
    assert box.stress is None
    assert np.isfinite([crystal.energy, molecule.energy]).all()


def test_unknown_layers_are_named(alloys):
    with pytest.raises(ValueError, match="has no layer interaction_9; choose from interaction_0"):
        fit(alloys[:5], layers=("interaction_9",))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("species_weight", 1.5, "species_weight must lie between 0 and 1"),
        ("length_scale", "median-ish", "unknown length_scale 'median-ish'; choose one of auto, median"),
        ("prior", "mean", "unknown prior 'mean'"),
        ("embedding", "max", "unknown embedding 'max'; choose one of sum, mean"),
        ("ridge", -1.0, "ridge must lie between"),
        ("criterion", "r2", "unknown criterion"),
    ],
)
def test_bad_options_are_refused_before_anything_is_computed(option, value, message):
    with pytest.raises(ValueError, match=message):
        KernelPotential("sevennet-0", **{option: value})


def test_unseen_elements_are_an_error_or_a_warning_by_prior(alloys, potential):
    silver = bulk("Ag", cubic=True)
    with pytest.raises(DataError, match="Ag: not in the training data, and the prior 'composition' does not cover"):
        fit(alloys[:4], prior="composition").predict([silver])
    with pytest.warns(MekrrWarning, match="Ag: not in the training data; their energies are the backbone's own"):
        fit(alloys[:4], prior="backbone").predict([silver])
    scaled = fit(alloys[:4], prior="backbone-scaled")
    factor = scaled.fitted_.prior.factor
    with pytest.warns(MekrrWarning, match=f"Ag: .* the backbone's own times {factor:.3g}, unshifted"):
        scaled.predict([silver])


def test_a_composition_the_data_do_not_determine_warns(alloys):
    same = [a for a in alloys if a.get_chemical_formula() == alloys[0].get_chemical_formula()]
    found = fit(same, prior="composition")
    with pytest.warns(MekrrWarning, match=r"outside those of the training data \(Cu4 differs from \w+ by"):
        found.predict([bulk("Cu", cubic=True)])


def test_exact_duplicates_are_fitted_once_and_said(alloys):
    with pytest.warns(MekrrWarning, match="equals"):
        found = KernelPotential("sevennet-0", **QUIET).fit([*alloys[:8], alloys[3]])
    assert len(found.fitted_.labels.energies) == 8


def test_copies_in_other_digits_are_fitted_once_with_all_labels_that_there_are(alloys):
    """Leave-one-out would find each structure again in its copy; the copy without forces comes first here."""
    bare = [a.copy() for a in alloys[:6]]
    for atoms, labelled in zip(bare, alloys, strict=False):
        atoms.positions = atoms.positions.round(5)
        atoms.calc = SinglePointCalculator(atoms, energy=labelled.get_potential_energy())
    with pytest.warns(MekrrWarning, match="and one of them has more labels"):
        found = KernelPotential("sevennet-0", **QUIET).fit([*bare, *alloys[:8]])
    alone = fit(alloys[:8])
    data = found.fitted_.record.data
    assert (data.n_structures, data.n_force_components) == (8, alone.fitted_.record.data.n_force_components)
    assert data.n_force_components > 0
    assert found.fitted_.labels.loo_residuals.abs().max() > 0.2 * alone.fitted_.labels.loo_residuals.abs().max()


def test_too_few_structures_are_refused(alloys):
    with pytest.raises(DataError, match="leave-one-out needs at least 3"):
        fit(alloys[:2])


def test_predicting_before_fitting_says_what_to_do(alloys):
    with pytest.raises(ValueError, match="has not been fitted"):
        KernelPotential("sevennet-0").predict(alloys[:1])


def test_a_model_of_another_backbone_is_refused(potential, tmp_path):
    from dataclasses import replace

    record = potential.fitted_.record
    strange = replace(record, backbone=replace(record.backbone, identity="sevennet-0:00ff"))
    other = replace(potential.fitted_, record=strange)
    from mekrr.potential.archive import save_fitted

    save_fitted(other, tmp_path / "m.safetensors")
    with pytest.raises(ModelFileError, match="was fitted with sevennet-0:00ff"):
        _ = KernelPotential.load(tmp_path / "m.safetensors").backbone
