"""Products with numbers under forward mode: right, and without the detour of a zero tangent through Python."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.profiler import ProfilerActivity, profile

from mekrr.backbones.process_state import forward_level, forward_product


def function(x):
    return 2.0 * (x.sin() * 3).mul(0.5) * x.new_tensor(2.0).item() + x * True


def test_products_with_numbers_keep_their_derivatives():
    x, t = torch.tensor([0.3, 1.1], dtype=torch.float64), torch.tensor([1.0, -2.0], dtype=torch.float64)
    value, tangent = forward_product(function, (x,), (t,))
    torch.testing.assert_close(value, 6 * x.sin() + x)
    torch.testing.assert_close(tangent, (6 * x.cos() + 1) * t)


def test_reverse_over_forward_is_right_and_takes_no_zero_tangents():
    x = torch.tensor([0.3, 1.1], dtype=torch.float64, requires_grad=True)
    t = torch.tensor([1.0, -2.0], dtype=torch.float64)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        with forward_level():
            tangent = forward_ad.unpack_dual(2.0 * forward_ad.make_dual(x, t).sin() * 3).tangent
        (gradient,) = torch.autograd.grad(tangent.sum(), x)
    torch.testing.assert_close(gradient, -6 * x.detach().sin() * t)
    assert not [event.key for event in seen.key_averages() if event.key.startswith("prims::")]


@pytest.mark.parametrize("number", [2, 2.5])
def test_products_of_integers_are_those_outside(number):
    with forward_level():
        assert torch.equal(torch.tensor([1, 2]) * number, torch.tensor([number, 2 * number]))
