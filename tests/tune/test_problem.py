import pytest
import torch

from mekrr.kernels import GaussianKernel, rounding
from mekrr.kernels.pointwise import is_ladder
from mekrr.solve import choose_inducing
from mekrr.tune import MEDIAN, OF_ENVIRONMENTS, OF_STRUCTURES, Grid
from mekrr.tune.problem import median_distance
from support import random_environments


@pytest.mark.parametrize("plan", [OF_STRUCTURES, OF_ENVIRONMENTS], ids=lambda plan: plan.solver)
def test_values_of_a_plan_are_in_order(plan):
    """A ladder costs one pass; ridges ascend."""
    assert is_ladder(GaussianKernel(plan.length_scales[0]), plan.length_scales)
    assert plan.ridges == tuple(sorted(plan.ridges))
    assert plan.of_structures == (plan.search.groups is None)


def test_structures_are_the_basis_or_chosen_environments():
    x = random_environments([5, 6, 7], 3)
    assert OF_STRUCTURES.centres(x, None, 0) is None
    for groups, count in ((7, 7), (1000, 18), (None, 18)):
        assert torch.equal(OF_ENVIRONMENTS.centres(x, groups, 3), choose_inducing(x, count, 3))


def test_the_floor_is_the_spectral_norm_of_rounding():
    x, kernel = random_environments([5] * 9, 3), GaussianKernel(3.0)
    assert OF_ENVIRONMENTS.floor(x, kernel, "sum") == 0.0
    eps = torch.finfo(torch.float64).eps
    expected = 2 * 9**0.5 * rounding(x, kernel, "sum", 1)[0] + 4 * 9 * eps
    assert OF_STRUCTURES.floor(x, kernel, "sum") == pytest.approx(expected)
    far = x.with_features(x.features + 100.0)
    assert OF_STRUCTURES.floor(far, kernel, "sum") > 10 * OF_STRUCTURES.floor(x, kernel, "sum")


def test_length_scales_are_in_units_of_the_root_of_the_features():
    h = torch.randn(20, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert Grid(length_scales=(2.0, 1.0)).scales(h) == (6.0, 3.0)
    assert Grid(length_scales=(2.0,), length_scale_fixed=True).scales(h) == (2.0,)
    assert Grid(length_scales=MEDIAN).scales(h) == (pytest.approx(float(torch.pdist(h).median())),)


def test_the_median_is_of_environments_that_differ():
    twins = torch.tensor([[0.0], [0.0], [0.0], [3.0]], dtype=torch.float64)
    assert median_distance(twins) == 3.0
    assert median_distance(twins[:3]) == 1.0
    many = torch.arange(50.0, dtype=torch.float64)[:, None] ** 2
    assert median_distance(many, sample=10) == median_distance(many, sample=10) != median_distance(many)


def test_only_what_is_not_fixed_and_has_a_ladder_extends():
    assert Grid().extends
    assert not Grid(length_scale_fixed=True).extends
    assert not Grid(kernel="linear").extends
