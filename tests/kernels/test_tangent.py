"""The tangent kernel's basis against the kernel written out."""

import pytest
import torch

from mekrr.kernels import TangentBasis, drawn, joined, mix, tangent_dots
from mekrr.kernels.tangent import weighted_dots

W, AMPLITUDE = 0.3, 2.5


@pytest.fixture(scope="module")
def rows():
    """Six rows, two elements and the row of all others, which is empty."""
    found = torch.randn(6, 3, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).half().double()
    found[:, 2] = 0.0
    return found


def kernel(x, y):
    total = torch.zeros(len(x), len(y), dtype=torch.float64)
    for i in range(len(x)):
        for j in range(len(y)):
            for z in range(x.shape[1]):
                for s in range(y.shape[1]):
                    total[i, j] += ((1 - W) + W * (z == s)) * float(x[i, z] @ y[j, s])
    return AMPLITUDE * total


@pytest.fixture(scope="module")
def basis(rows):
    return TangentBasis.of(rows[:, :2], W, AMPLITUDE)


def test_all_rows_span_the_kernel(basis, rows):
    psi = basis.rows(rows)
    torch.testing.assert_close(psi @ psi.T, kernel(rows, rows), rtol=1e-6, atol=1e-3)
    torch.testing.assert_close(basis.own(rows), kernel(rows, rows).diagonal())
    torch.testing.assert_close(basis.between(rows, rows), kernel(rows, rows))


def test_products_are_split_by_pairs(rows):
    split = tangent_dots(rows, rows[:, :2])
    torch.testing.assert_close(AMPLITUDE * mix(split, W), kernel(rows, rows))


@pytest.mark.parametrize("n", [1, 6, 19])
@pytest.mark.parametrize("w", [0.0, 0.3, 1.0])
def test_products_of_rows_with_themselves(n, w):
    """Of which half is multiplied out, and nothing that has no weight."""
    x = torch.randn(n, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    found, whole = weighted_dots(x, x, w), weighted_dots(x, x.clone(), w)
    torch.testing.assert_close(found, whole)
    torch.testing.assert_close(whole, mix(tangent_dots(x, x.clone()), w))
    assert torch.equal(found, found.T)


def test_weights_are_the_function(basis):
    """Also of what is not in the basis, other elements among it."""
    c = torch.randn(len(basis), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = torch.randn(4, 3, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close((x * basis.weights(c)).sum((1, 2)), basis.rows(x) @ c)


def test_draws_have_the_kernel_as_covariance(rows):
    """Coefficients of the prior, and what three functions cannot express of it."""
    basis = TangentBasis.of(rows[:3, :2], W, AMPLITUDE)
    x = torch.randn(3, 3, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(3)
    draws = 20_000
    weights = basis.draws(torch.randn(3, draws, dtype=torch.float64, generator=generator), generator)
    values = torch.einsum("nzd,kzd->kn", x, weights)
    expected = kernel(x, x)
    torch.testing.assert_close(values.T @ values / draws, expected, rtol=0, atol=0.03 * float(expected.max()))


def test_a_draw_keeps_what_its_coefficients_say(rows):
    basis = TangentBasis.of(rows[:3, :2], W, AMPLITUDE)
    c = torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    drawn = [
        (rows[:3] * basis.draws(c[:, None], torch.Generator().manual_seed(seed))[0]).sum((1, 2)) for seed in (0, 1)
    ]
    torch.testing.assert_close(drawn[0], basis.rows(rows[:3]) @ c, rtol=0, atol=2e-2)
    torch.testing.assert_close(drawn[0], drawn[1], rtol=0, atol=2e-2)


@pytest.mark.parametrize("count", [3, 9, 10, 100])
def test_rows_drawn_structure_by_structure_are_those_drawn_of_all(count):
    T = [torch.full((n, 1, 1), float(k)) + torch.arange(n)[:, None, None] / 10 for k, n in enumerate((3, 0, 5, 2))]
    together = torch.cat(T)
    found = joined(T, count, 7)
    chosen = drawn([len(one) for one in T], count, 7)
    assert torch.equal(found, torch.cat([one[some] for one, some in zip(T, chosen, strict=True)]))
    order = torch.randperm(10, generator=torch.Generator().manual_seed(7))[: min(count, 10)].sort().values
    assert torch.equal(found, together[order])
