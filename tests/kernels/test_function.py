import pytest
import torch

from mekrr.kernels import KernelFunction, StructureKernel
from oracles import dense, total_energies


@pytest.fixture(params=["structures", "atoms"])
def centres(request, groups):
    return groups if request.param == "structures" else groups.singletons()


def function_of(centres, kernel):
    c = torch.randn(centres.n_structures, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return KernelFunction(centres, c, kernel)


def energies(found, x):
    return torch.zeros(x.n_structures, dtype=torch.float64).index_add_(0, x.structure, found.atomic_energies)


def check_values(function, x):
    found = function(x, rows=True)
    K = dense(x, function.centres, function.kernel) * total_energies(function.kernel, x)[:, None]
    torch.testing.assert_close(energies(found, x), K @ function.coefficients, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(found.rows, K, rtol=1e-11, atol=1e-12)
    bare = function(x, slopes=False)
    assert bare.slopes is bare.rows is None
    assert torch.equal(bare.atomic_energies, found.atomic_energies)


def test_values_and_rows_are_the_dense_kernel(monkeypatch, weighted, centres, x):
    """Though they are summed atom by atom in small chunks."""
    monkeypatch.setattr("mekrr.kernels.function.PAIRS_AT_ONCE", 40)
    check_values(function_of(centres, weighted), x)


def test_values_and_rows_of_a_sum_of_components(summed, centres, x):
    function = function_of(centres, summed)
    check_values(function, x)
    parts = [
        KernelFunction(centres, function.coefficients, StructureKernel((c,), summed.embedding))(x, rows=True)
        for c in summed.components
    ]
    found = function(x, rows=True)
    for name in ("atomic_energies", "slopes", "rows"):
        expected = sum(getattr(part, name) for part in parts)
        torch.testing.assert_close(getattr(found, name), expected, rtol=1e-12, atol=1e-13)


def test_slopes_equal_finite_differences(summed, centres, x):
    function = function_of(centres, summed)
    slopes = function(x).slopes
    step = 1e-5
    for atom, feature in ((0, 0), (4, 2), (7, 1), (9, 3)):
        move = torch.zeros_like(x.features)
        move[atom, feature] = step
        up, down = (function(x.with_features(x.features + s * move), slopes=False) for s in (1, -1))
        expected = float((up.atomic_energies - down.atomic_energies).sum()) / (2 * step)
        assert slopes[atom, feature] == pytest.approx(expected, rel=1e-7, abs=1e-8)
