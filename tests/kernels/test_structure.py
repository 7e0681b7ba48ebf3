from dataclasses import replace

import pytest
import torch

from mekrr.kernels import Component, GaussianKernel, LinearKernel, StructureKernel
from oracles import dense, pair_values
from support import random_environments


def test_a_sum_of_components_equals_the_sum_of_dense_formulas(summed, x, groups):
    torch.testing.assert_close(summed.gram(x), dense(x, x, summed), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(summed.gram(x, groups), dense(x, groups, summed), rtol=1e-12, atol=1e-13)


def test_the_diagonal_is_that_of_the_matrix(summed, x):
    torch.testing.assert_close(summed.diagonal(x), dense(x, x, summed).diagonal(), rtol=1e-12, atol=1e-13)
    single = x.singletons()
    expected = dense(single, single, summed).diagonal()
    torch.testing.assert_close(summed.diagonal(single), expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(summed.between_equal_atoms(x), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("embedding", ["sum"])
def test_variances_of_derivatives_are_those_of_finite_differences(summed, x):
    """K of a structure moved along a direction by a and by b, derived once in each."""
    directions = torch.randn(3, len(x.features), x.features.shape[1], dtype=torch.float64)
    e = 1e-3
    for t in range(3):
        one = x[torch.tensor([t])]
        u = directions[:, : len(one.features)]
        found = summed.slope_diagonal(one, u)
        for r, direction in enumerate(u):
            there, back = (replace(one, features=one.features + sign * e * direction) for sign in (1, -1))
            both = [float(summed.gram(a, b)) for a in (there, back) for b in (there, back)]
            expected = (both[0] - both[1] - both[2] + both[3]) / (4 * e**2)
            assert float(found[r]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_between_atoms_is_the_sum_over_components(summed, x, groups):
    expected = torch.zeros(len(x.species), len(groups.species), dtype=torch.float64)
    for component in summed.components:
        k = pair_values(component.pointwise, x.features, groups.features)
        for i, z in enumerate(x.species.tolist()):
            for j, other in enumerate(groups.species.tolist()):
                expected[i, j] += k[i, j] * (component.all_pairs + component.same_species * (z == other))
    torch.testing.assert_close(summed.between_atoms(x, groups), expected, rtol=1e-12, atol=1e-13)


def test_the_species_weight_is_a_choice_of_amplitudes():
    kernel = StructureKernel.weighted(GaussianKernel(2.0), 0.3, "mean")
    assert kernel == StructureKernel((Component(GaussianKernel(2.0), 0.7, 0.3),), "mean")


def test_kernels_add_up(embedding):
    first = StructureKernel.weighted(GaussianKernel(2.0), 0.3, embedding)
    second = StructureKernel.weighted(LinearKernel(1.0), 1.0, embedding)
    x = random_environments([3, 4], 5)
    torch.testing.assert_close((first + second).gram(x), first.gram(x) + second.gram(x), rtol=1e-13, atol=1e-13)


def test_kernels_of_two_embeddings_do_not_add_up():
    total, mean = (StructureKernel.weighted(GaussianKernel(2.0), 0.3, e) for e in ("sum", "mean"))
    with pytest.raises(ValueError, match="kernels of one embedding add up; received sum and mean"):
        total + mean


def test_what_is_no_kernel_is_refused():
    with pytest.raises(ValueError, match="at least one component; received none"):
        StructureKernel(())
    with pytest.raises(ValueError, match="unknown embedding 'max'; choose sum or mean"):
        StructureKernel((Component(GaussianKernel(1.0), 1.0, 0.0),), "max")


def test_records_bring_the_kernel_back(summed):
    assert StructureKernel.from_records(summed.as_records(), summed.embedding) == summed
    record = summed.as_records()[0] | {"kernel": "cosine"}
    with pytest.raises(ValueError, match="unknown kernel 'cosine'"):
        StructureKernel.from_records([record], "sum")
