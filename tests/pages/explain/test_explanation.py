"""Parts add up to the whole, and far is far."""

import warnings

import numpy as np
import pytest
import torch
from ase.build import bulk

from mekrr import KernelPotential
from mekrr.pages.explain import explain
from mekrr.pages.explain.record import record
from mekrr.pages.explain.tables import (
    furthest_atoms,
    most_uncertain_atoms,
    notes,
    species_rows,
    structure_row,
    structure_rows,
)
from support import labelled

pytest.importorskip("sevenn", reason="mekrr[sevennet] is not installed")

LAYER = ("interaction_2",)
SOLVERS = {
    "exact": {"solver": "exact", "forces": False, "species_weight": 0.4, "prior": "composition"},
    "exact-backbone": {"solver": "exact", "forces": False, "species_weight": 0.4, "prior": "backbone-scaled"},
    "sparse": {"solver": "sparse", "forces": False, "species_weight": 0.4, "prior": "backbone-scaled", "inducing": 40},
}


def fitted_to(structures, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return KernelPotential("sevennet-0", layers=LAYER, **options).fit(structures)


@pytest.fixture(scope="module", params=sorted(SOLVERS))
def example(request, alloys):
    """A potential, and the explanation of twelve cells, six of them of its training set."""
    potential = fitted_to(alloys[:20], **SOLVERS[request.param])
    return potential, alloys[14:26], explain(potential, alloys[14:26])


def test_atoms_add_up_to_the_predicted_energies(example):
    potential, structures, found = example
    predicted = potential.predict(structures, forces=False, uncertainty=True)
    energies = torch.tensor([p.energy for p in predicted], dtype=torch.float64)
    torch.testing.assert_close(found.by_structure(found.energy), energies, rtol=0, atol=1e-9)
    deviations = torch.tensor([p.energy_std for p in predicted], dtype=torch.float64)
    torch.testing.assert_close(found.energy_std, deviations, rtol=1e-6, atol=0)
    atomic = torch.cat([torch.as_tensor(p.atomic_energies) for p in predicted])
    torch.testing.assert_close(found.energy, atomic, rtol=0, atol=1e-9)


def test_terms_and_contributions_add_up_to_the_kernel_part(example):
    _, _, found = example
    kernel = found.by_structure(found.kernel)
    for parts in (found.terms, found.contributions):
        rounding = 1e-11 * float(found.terms.abs().max())
        torch.testing.assert_close(parts.sum(1), kernel, rtol=0, atol=max(1e-9, rounding))


def test_species_add_up(example):
    _, _, found = example
    rows = species_rows(found)
    total = sum(row.n_atoms * row.energy.mean for row in rows)
    assert total == pytest.approx(float(found.energy.sum()), abs=1e-8)
    assert sum(row.n_atoms * (row.prior.mean + row.kernel.mean) for row in rows) == pytest.approx(total, abs=1e-8)
    if found.kernel_by_species is not None:
        torch.testing.assert_close(found.kernel_by_species.sum(1), found.kernel, rtol=0, atol=1e-7)
        assert all(sum(row.leans_on.values()) == pytest.approx(row.kernel.mean, abs=1e-7) for row in rows)


def test_values_of_the_exact_solver_are_labels_less_the_prior(example):
    potential, _, found = example
    fitted = potential.fitted_
    if fitted.model.solver != "exact" or fitted.prior.name != "composition":
        pytest.skip("labels less this prior are only at hand for the exact solver with the composition prior")
    labels = fitted.labels
    shifts = fitted.prior.shift_energies(labels.species)
    t = torch.repeat_interleave(torch.arange(len(labels.n_atoms)), labels.n_atoms)
    prior = torch.zeros(len(labels.n_atoms), dtype=torch.float64).index_add_(0, t, shifts)
    torch.testing.assert_close(found.weighing.values, labels.energies - prior, rtol=0, atol=1e-6)


def test_a_training_structure_leans_on_itself(example, alloys):
    potential, _, found = example
    if potential.fitted_.model.solver != "exact":
        pytest.skip("the sparse solver remembers no structures")
    own = torch.arange(6)
    assert (found.distance[found.structure < 6] < 1e-3).all()
    assert (found.weights[:6].abs().argmax(1) == own + 14).double().mean() > 0.5
    assert next(iter(structure_rows(found)[0].nearest)).startswith("training structure 14 ")


def test_a_squeezed_crystal_is_further_than_all_others(example, alloys):
    potential, structures, found = example
    squeezed = bulk("Cu", cubic=True, a=3.0)
    far = explain(potential, [*structures, squeezed])
    assert furthest_atoms(far)[0].where.startswith("structure, index 12")
    assert far.novelty[-4:].min() > found.novelty.max()
    if far.deviation is not None:
        assert far.deviation[-4:].min() > far.deviation[:-4].max()
        assert most_uncertain_atoms(far)[0].atom < 4


def test_deviations_of_atoms_are_the_predicted_ones(example):
    """With either solver."""
    potential, structures, found = example
    predicted = potential.predict(structures, forces=False, atomic_uncertainty=True)
    atomic = torch.cat([torch.as_tensor(p.atomic_energies_std) for p in predicted])
    torch.testing.assert_close(found.deviation, atomic, rtol=1e-6, atol=0)


def test_the_record_holds_every_atom(example):
    _, structures, found = example
    made = record(found)
    for structure, row in zip(structures, made["structures"], strict=True):
        assert row["atoms"]["species"] == structure.get_chemical_symbols()
        assert sum(row["atoms"]["energy"]) == pytest.approx(row["energy"], abs=1e-9)
        assert row["prior"] + row["kernel"] == pytest.approx(row["energy"], abs=1e-9)
    assert set(made["species"]) == {"Cu", "Au"}


def test_batches_change_nothing(example):
    potential, structures, found = example
    single = [explain(potential, [structure]) for structure in structures[:4]]
    energies = torch.cat([s.energy for s in single])
    torch.testing.assert_close(energies, found.energy[: len(energies)], rtol=0, atol=1e-5)


def test_an_element_never_seen_has_no_neighbour_and_only_the_prior(alloys):
    potential = fitted_to(alloys[:20], **SOLVERS["exact-backbone"])
    silver = labelled(bulk("Ag", cubic=True))
    with pytest.warns(match="Ag: not in the training data"):
        found = explain(potential, [alloys[3], silver])
    assert found.distance[-4:].isinf().all()
    assert furthest_atoms(found)[0].nearest is None
    assert any("only the prior speaks" in note for note in record(found)["notes"])


def test_the_mean_embedding_and_no_structures_are_refused(alloys):
    potential = fitted_to(alloys[:12], embedding="mean", forces=False)
    with pytest.raises(ValueError, match="has no atomic energies"):
        explain(potential, alloys[:2])
    with pytest.raises(ValueError, match="no structures were given"):
        explain(potential, [])


def test_a_tangent_part_is_told_apart(tangent_potential, alloys):
    found = explain(tangent_potential, alloys[20:22])
    expected = [p.energy for p in tangent_potential.predict(alloys[20:22], uncertainty=True)]
    np.testing.assert_allclose(found.by_structure(found.energy).numpy(), expected, atol=1e-5)
    stds = [p.energy_std for p in tangent_potential.predict(alloys[20:22], uncertainty=True)]
    np.testing.assert_allclose(found.energy_std.numpy(), stds, rtol=1e-6)
    rows = species_rows(found)
    assert all(row.tangent is not None for row in rows)
    row = structure_row(found, 1)
    assert row.energy == pytest.approx(row.prior + row.kernel + row.tangent, abs=1e-6)
    assert abs(row.tangent) > 1e-4
    assert any("learns twice" in note for note in notes(found))
