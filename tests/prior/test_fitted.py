import numpy as np
import pytest
import torch

from mekrr.prior import Compositions, fit_prior


def compositions(rows, elements=(1, 6, 8)):
    return Compositions(torch.tensor(rows, dtype=torch.float64), elements)


MIXED = compositions([[4, 1, 0], [2, 0, 1], [0, 1, 2], [4, 1, 1], [2, 2, 1]])
SHIFTS = torch.tensor([-13.6, -1030.0, -2040.0], dtype=torch.float64)


def test_composition_prior_recovers_the_shifts():
    prior, linear, _ = fit_prior("composition", MIXED.counts @ SHIFTS, MIXED, None)
    assert [prior.shifts[z] for z in (1, 6, 8)] == pytest.approx(SHIFTS.tolist())
    assert prior.undetermined == []
    assert linear.beta_without == pytest.approx(np.tile(SHIFTS, (5, 1)))


def test_backbone_priors_recover_shifts_and_factor():
    own = torch.tensor([-3.0, -8.0, 2.0, -1.0, 5.0], dtype=torch.float64)
    energies = MIXED.counts @ SHIFTS + own
    plain, _, _ = fit_prior("backbone", energies, MIXED, own)
    assert (plain.factor, plain.shifts[6]) == (1.0, pytest.approx(-1030.0))
    scaled, _, _ = fit_prior("backbone-scaled", MIXED.counts @ SHIFTS + 0.8 * own, MIXED, own)
    assert scaled.factor == pytest.approx(0.8)


def test_none_is_one_mean_energy_per_atom_everywhere():
    prior, _, _ = fit_prior("none", torch.tensor([-50.0, -30.0, -30.0, -60.0, -50.0]).double(), MIXED, None)
    assert prior.everywhere == pytest.approx(-10.0)
    assert prior.shift_energies(torch.tensor([1, 79])).tolist() == pytest.approx([-10.0, -10.0])


def test_isolated_atoms_are_kept_as_references():
    energies = MIXED.counts @ SHIFTS + 1.0
    prior, _, design = fit_prior("composition", energies, MIXED, None, references={1: -13.6, 6: -1030.0})
    assert (prior.shifts[1], prior.shifts[6]) == (-13.6, -1030.0)
    assert design.columns == (8,)


def test_one_composition_is_the_minimum_norm_solution_and_says_what_it_leaves_open():
    one = compositions([[1, 1, 2]] * 3)
    prior, _, _ = fit_prior("composition", torch.full((3,), -12.0).double(), one, None)
    assert [prior.shifts[z] for z in (1, 6, 8)] == pytest.approx([-2.0, -2.0, -4.0])
    assert not prior.leaves_open({1: 2, 6: 2, 8: 4})
    assert prior.leaves_open({6: 1, 8: 2})


def test_clean_slabs_determine_the_difference():
    """Formate slab and clean slab: removing the whole molecule is determined, removing H alone is not."""
    found = Compositions(torch.tensor([[1, 1, 2, 12], [0, 0, 0, 12]], dtype=torch.float64), (1, 6, 8, 29))
    prior, _, _ = fit_prior("composition", torch.tensor([-40.0, -24.0]).double(), found, None)
    assert not prior.leaves_open({29: 27})
    assert not prior.leaves_open({1: 1, 6: 1, 8: 2, 29: 27})
    assert prior.leaves_open({6: 1, 8: 2, 29: 12})


def test_weights_count_a_structure_as_often_as_it_weighs():
    """A structure of weight 3 is the same as three of them; energies per atom are fitted."""
    energies = MIXED.counts @ SHIFTS + torch.tensor([1.0, -2.0, 3.0, 0.5, -1.0], dtype=torch.float64)
    weights = torch.tensor([3.0, 1.0, 1.0, 2.0, 1.0], dtype=torch.float64)
    often = torch.repeat_interleave(torch.arange(5), weights.long())
    repeated = Compositions(MIXED.counts[often], MIXED.elements)
    for name in ("none", "composition"):
        weighted = fit_prior(name, energies, MIXED, None, weights)[1]
        expected = fit_prior(name, energies[often], repeated, None)[1]
        torch.testing.assert_close(weighted.beta, expected.beta, rtol=1e-9, atol=1e-9)
        assert not torch.allclose(weighted.beta, fit_prior(name, energies, MIXED, None)[1].beta, rtol=1e-4)


def test_elements_without_data_have_no_shift():
    prior, _, _ = fit_prior("composition", MIXED.counts @ SHIFTS, MIXED, None)
    assert prior.shift_energies(torch.tensor([1, 79])).tolist() == pytest.approx([-13.6, 0.0])
