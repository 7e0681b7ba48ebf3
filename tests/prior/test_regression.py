import pytest
import torch

from mekrr.linalg import least_squares
from mekrr.prior import LinearPrior


def problem():
    generator = torch.Generator().manual_seed(1)
    counts = torch.randint(0, 6, (10, 3), generator=generator).double() + 1
    y = 3 * torch.randn(10, dtype=torch.float64, generator=generator)
    return counts, y, torch.rand(10, dtype=torch.float64, generator=generator) + 0.5


def designs():
    counts, _, _ = problem()
    alone = counts.clone()
    alone[:, 0] = 0.0
    alone[4, 0] = 3.0
    return {
        "full rank": counts,
        "one composition": counts[:1].repeat(10, 1),  # the shifts are the minimum-norm ones
        "an element in one structure": alone,  # leverage 1: without it, its shift is the minimum-norm one
        "nothing fitted": counts[:, :0],
    }


@pytest.mark.parametrize("name", list(designs()))
def test_refits_equal_brute_force(name):
    H, (_, y, weight) = designs()[name], problem()
    found = LinearPrior.fit(H, y, weight)
    torch.testing.assert_close(
        found.beta, torch.linalg.pinv(H * weight[:, None]) @ (y * weight), rtol=1e-10, atol=1e-10
    )
    for t in range(10):
        rest = torch.arange(10) != t
        expected = least_squares(H[rest] * weight[rest, None], y[rest] * weight[rest])[0]
        torch.testing.assert_close(found.beta_without[t], expected, rtol=1e-10, atol=1e-10)


def test_one_structure_alone_leaves_nothing():
    one = torch.ones(1, 1, dtype=torch.float64)
    found = LinearPrior.fit(2 * one, one[0] * 6, one[0])
    assert (found.beta.tolist(), found.beta_without.tolist()) == ([3.0], [[0.0]])
