"""A prior as a combination of columns is the prior itself, and its refits are true refits."""

import pytest
import torch

from mekrr.prior import NEEDS_BACKBONE, PRIORS, Compositions, PriorColumns, fit_prior, target_columns

ELEMENTS = (1, 6, 8, 29)  # of the columns: one more than the structures have


def training_set():
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 5, (9, 3), generator=generator).double()
    counts[:, 0] += 1
    own = torch.randn(9, dtype=torch.float64, generator=generator)
    energies = counts @ torch.tensor([-3.0, -8.0, -5.0], dtype=torch.float64) + 0.7 * own
    energies = energies + 0.3 * torch.randn(9, dtype=torch.float64, generator=generator)
    weights = torch.rand(9, dtype=torch.float64, generator=generator) * 3 + 0.2
    return energies, Compositions(counts, (1, 6, 8)), own, weights


def columns_of(energies, compositions, own):
    widened = torch.cat([compositions.counts, torch.zeros(len(energies), 1, dtype=torch.float64)], dim=1)
    return target_columns(energies, own, Compositions(widened, ELEMENTS))


@pytest.mark.parametrize("references", [None, {1: -2.5, 79: 4.0}])
@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_is_a_combination_of_columns(name, references):
    energies, compositions, own, weights = training_set()
    found = PriorColumns.fit(name, energies, compositions, own, ELEMENTS, weights, references)
    prior, _, _ = fit_prior(name, energies, compositions, own, weights, references)
    shifts = torch.tensor([prior.shifts[z] for z in compositions.elements], dtype=torch.float64) + prior.everywhere
    left = energies - prior.factor * own - compositions.counts @ shifts
    columns = columns_of(energies, compositions, own)
    torch.testing.assert_close(columns @ found.coefficients, left, rtol=1e-11, atol=1e-11)
    assert found.name == name
    assert found.safe == (name in NEEDS_BACKBONE)


@pytest.mark.parametrize("references", [None, {1: -2.5}])
@pytest.mark.parametrize("name", PRIORS)
def test_refits_are_true_refits(name, references):
    energies, compositions, own, weights = training_set()
    found = PriorColumns.fit(name, energies, compositions, own, ELEMENTS, weights, references)
    for t in range(len(energies)):
        rest = torch.arange(len(energies)) != t
        part = Compositions(compositions.counts[rest], compositions.elements)
        again = PriorColumns.fit(name, energies[rest], part, own[rest], ELEMENTS, weights[rest], references)
        torch.testing.assert_close(found.without[t], again.coefficients, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PRIORS)
def test_weights_of_structures_enter(name):
    """What is left after a fit with weights is orthogonal, in energies per atom so weighted, to what was fitted."""
    energies, compositions, own, weights = training_set()
    coefficients = PriorColumns.fit(name, energies, compositions, own, ELEMENTS, weights).coefficients
    left = columns_of(energies, compositions, own) @ coefficients * weights / compositions.n_atoms**2
    fitted = {
        "none": compositions.n_atoms[:, None],
        "composition": compositions.counts,
        "backbone": compositions.counts,
    }
    H = fitted.get(name, torch.cat([compositions.counts, own[:, None]], dim=1))
    assert (left @ H).abs().max() < 1e-11
    unweighted = PriorColumns.fit(name, energies, compositions, own, ELEMENTS).coefficients
    assert not torch.allclose(coefficients, unweighted, rtol=1e-3)


def test_a_backbone_without_energies_is_a_column_of_zeros():
    energies, compositions, _, _ = training_set()
    columns = target_columns(energies, None, compositions)
    assert torch.equal(columns[:, 0], energies)
    assert not columns[:, 1].any()
    assert torch.equal(columns[:, 2:], compositions.counts)
