import pytest
import torch

from mekrr.prior import NEEDS_BACKBONE, Compositions, prior_design

COUNTS = torch.tensor([[4, 1, 0], [2, 0, 1], [0, 1, 2]], dtype=torch.float64)
MIXED = Compositions(COUNTS, (1, 6, 8))
OWN = torch.tensor([-3.0, -8.0, 2.0], dtype=torch.float64)


def test_counting():
    species = torch.tensor([1, 1, 8, 6, 8])
    found = Compositions.of(species, torch.tensor([3, 2]))
    assert found.elements == (1, 6, 8)
    assert found.counts.tolist() == [[2, 0, 1], [0, 1, 1]]
    assert found.n_atoms.tolist() == [3, 2]
    assert found.rank == 2


def test_counting_of_given_elements_leaves_others_out():
    found = Compositions.of(torch.tensor([1, 1, 8, 6, 8]), torch.tensor([3, 2]), (8, 79))
    assert found.elements == (8, 79)
    assert found.counts.tolist() == [[1, 0], [1, 0]]


def test_proportional_compositions_are_one():
    assert Compositions(torch.tensor([[1, 2], [2, 4], [5, 10]], dtype=torch.float64), (6, 8)).rank == 1


@pytest.mark.parametrize(
    ("name", "columns", "fixed", "H"),
    [
        ("none", ("mean",), 0 * OWN, COUNTS.sum(1, keepdim=True)),
        ("composition", (1, 6, 8), 0 * OWN, COUNTS),
        ("backbone", (1, 6, 8), OWN, COUNTS),
        ("backbone-scaled", (1, 6, 8, "factor"), 0 * OWN, torch.cat([COUNTS, OWN[:, None]], dim=1)),
    ],
)
def test_every_prior_is_a_regression_problem(name, columns, fixed, H):
    found = prior_design(name, MIXED, OWN)
    assert (found.name, found.columns) == (name, columns)
    assert torch.equal(found.fixed, fixed)
    assert torch.equal(found.H, H)


def test_references_are_not_fitted():
    found = prior_design("composition", MIXED, None, {6: -10.0, 79: 5.0})
    assert found.columns == (1, 8)
    assert torch.equal(found.H, COUNTS[:, [0, 2]])
    assert torch.equal(found.fixed, -10.0 * COUNTS[:, 1])


def test_unknown_priors_and_missing_energies_are_named():
    with pytest.raises(ValueError, match="unknown prior 'mean'; choose auto or one of none"):
        prior_design("mean", MIXED, None)
    for name in NEEDS_BACKBONE:
        with pytest.raises(ValueError, match=f"the prior '{name}' needs a backbone with an energy"):
            prior_design(name, MIXED, None)
