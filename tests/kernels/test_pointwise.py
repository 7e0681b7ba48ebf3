import pytest
import torch

from mekrr.kernels import GaussianKernel, LinearKernel, PolynomialKernel, make_kernel


@pytest.mark.parametrize("kernel", [GaussianKernel(1.7), LinearKernel(0.8), PolynomialKernel(1.3, 3, 0.7)])
def test_gradient_equals_autograd(kernel):
    torch.manual_seed(0)
    h = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    u = torch.randn(7, 4, dtype=torch.float64)
    weights = torch.randn(5, 7, dtype=torch.float64)
    values = kernel.values(h, u)
    (expected,) = torch.autograd.grad((values * weights).sum(), h)
    found = kernel.gradient(h.detach(), u, values.detach(), weights)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_gaussian_value():
    h, g = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]])
    assert GaussianKernel(2.0).values(h, g).item() == pytest.approx(torch.exp(torch.tensor(-5 / 8)).item())


@pytest.mark.parametrize(
    ("name", "scale", "message"),
    [("cosine", 1.0, "unknown kernel 'cosine'"), ("gaussian", 0.0, "positive"), ("gaussian", float("nan"), "positive")],
)
def test_bad_kernels_are_refused(name, scale, message):
    with pytest.raises(ValueError, match=message):
        make_kernel(name, scale)


def test_bad_polynomials_are_refused():
    with pytest.raises(ValueError, match="degree must be at least 1"):
        PolynomialKernel(1.0, 0)
