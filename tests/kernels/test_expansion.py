import pytest
import torch

from mekrr.kernels import Expansion, GaussianKernel, PolynomialKernel, gram
from support import random_environments


@pytest.mark.parametrize("embedding", ["sum", "mean"])
@pytest.mark.parametrize("kernel", [GaussianKernel(2.5), PolynomialKernel(1.5)], ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("w", [0.0, 0.4, 1.0])
def test_expansion_equals_kernel_times_dual(monkeypatch, embedding, kernel, w):
    """Energies are K c (times n for the mean embedding), though they are summed atom by atom in small chunks."""
    monkeypatch.setattr("mekrr.kernels.expansion.PAIRS_AT_ONCE", 100)
    train = random_environments([5, 9, 4, 7], 4)
    x = random_environments([6, 3, 1], 4, seed=3)
    c = torch.randn(4, dtype=torch.float64)
    expansion = Expansion.of_dual(train, c, kernel, w, embedding)
    found = expansion(x, cross=True)
    totals = torch.zeros(3, dtype=torch.float64).index_add_(0, x.structure, found.atomic_energies)
    K = gram(x, train, kernel, embedding).mix(0, w) * (x.n_atoms[:, None] if embedding == "mean" else 1)
    torch.testing.assert_close(totals, K @ c, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(found.cross, K, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("embedding", ["sum", "mean"])
def test_gradient_equals_finite_differences(embedding):
    train = random_environments([5, 9], 3)
    x = random_environments([4, 3], 3, seed=3)
    expansion = Expansion.of_dual(train, torch.tensor([0.7, -1.2]).double(), GaussianKernel(2.0), 0.3, embedding)
    gradient = expansion(x).slopes
    step = 1e-5
    for atom, feature in ((0, 0), (3, 2), (6, 1)):
        moved = [x.features.clone() for _ in range(2)]
        moved[0][atom, feature] += step
        moved[1][atom, feature] -= step
        up, down = (expansion(x.with_features(h), slopes=False).atomic_energies.sum() for h in moved)
        assert gradient[atom, feature] == pytest.approx(float(up - down) / (2 * step), abs=1e-8)
