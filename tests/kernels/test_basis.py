import pytest
import torch

from mekrr.errors import NotPositiveDefiniteError
from mekrr.features import Environments
from mekrr.kernels import Basis, GaussianKernel, StructureKernel, covariance, design_rows, whiten
from oracles import dense
from support import random_environments


@pytest.fixture(params=["structures", "atoms"])
def centres(request, groups, embedding):
    return groups if request.param == "structures" else groups.singletons()


def test_the_covariance_is_the_dense_kernel(summed, groups):
    """Of structures for either embedding; pairs of atoms are those of the sum embedding, where both agree."""
    torch.testing.assert_close(covariance(groups, summed), dense(groups, groups, summed), rtol=1e-12, atol=1e-13)
    atoms = groups.singletons()
    torch.testing.assert_close(covariance(atoms, summed), dense(atoms, atoms, summed), rtol=1e-12, atol=1e-13)
    assert Basis.of(atoms, summed).is_of_atoms
    assert not Basis.of(groups, summed).is_of_atoms


def test_whitened_rows_have_the_identity_for_their_covariance(summed, groups):
    basis = Basis.of(groups, summed)
    K = dense(groups, groups, summed) + basis.jitter * torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(basis.L @ basis.L.T, K, rtol=1e-12, atol=1e-13)
    eye = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(whiten(basis.whiten(K).T, basis.L), eye, rtol=0, atol=1e-7)
    assert len(basis) == 4


def test_rows_are_the_whitened_sum_of_the_components(summed, centres, x, derivatives):
    one = x[torch.tensor([0])]
    basis = Basis.of(centres, summed)
    phi = torch.zeros(6, len(basis), dtype=torch.float64)
    for component in summed.components:
        phi += component.mix(design_rows(one, derivatives, centres, component.pointwise, 1, summed.embedding)[0])
    found = basis.rows(one, derivatives)
    torch.testing.assert_close(found @ basis.L.T, phi, rtol=1e-9, atol=1e-10)
    assert basis.rows(one, None).shape == (1, len(basis))


def test_whitened_coefficients_are_a_function(summed, centres, x, derivatives):
    """psi . c is the energy of the function, and its derivative along each direction."""
    one = x[torch.tensor([0])]
    basis = Basis.of(centres, summed)
    c = torch.randn(len(basis), dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    found = basis.function(basis.coefficients(c))(one)
    expected = torch.cat([found.atomic_energies.sum()[None], torch.einsum("af,raf->r", found.slopes, derivatives)])
    torch.testing.assert_close(basis.rows(one, derivatives) @ c, expected, rtol=1e-8, atol=1e-8)


def test_a_known_matrix_and_a_known_jitter_are_taken(groups):
    kernel = StructureKernel.weighted(GaussianKernel(2.0), 0.5)
    K = kernel.gram(groups)
    assert torch.equal(Basis.of(groups, kernel, 4 * K).L, 2 * Basis.of(groups, kernel, K).L)
    again = Basis.of(groups, kernel, jitter=0.25)
    assert again.jitter == 0.25
    torch.testing.assert_close(again.L @ again.L.T, K + 0.25 * torch.eye(4, dtype=torch.float64))
    assert Basis.of(groups, kernel, relative=1e-14).jitter == pytest.approx(1e-14 * float(K.diagonal().mean()), abs=0.0)


def test_duplicated_environments_get_a_jitter():
    x = random_environments([10], 3, species=(29,)).features
    twice = Environments(torch.cat([x, x]), torch.full((20,), 29), torch.ones(20, dtype=torch.long))
    basis = Basis.of(twice, StructureKernel.weighted(GaussianKernel(1.0), 0.5))
    assert basis.jitter == pytest.approx(1e-10)
    assert torch.isfinite(basis.L).all()


def test_dependent_functions_are_refused_with_a_remedy(groups):
    kernel = StructureKernel.weighted(GaussianKernel(2.0), 0.5)
    K = torch.diag(torch.tensor([1.0, 1.0, 1.0, -0.1], dtype=torch.float64))
    with pytest.raises(NotPositiveDefiniteError, match=r"the 4 functions of the basis are numerically dependent"):
        Basis.of(groups, kernel, K)


def test_rounding_of_float32_tiles_does_not_break_the_basis(monkeypatch):
    """Uncentred features and a long length scale: an eigenvalue of K is as negative as its rounding is large."""
    x = random_environments([20] * 80, 16, species=(29,))
    x = x.with_features(0.05 * x.features + 20.0)
    kernel = StructureKernel.weighted(GaussianKernel(16.0), 0.0)
    monkeypatch.setattr("mekrr.kernels.tiles.FLOAT64_PAIRS", 0)
    K = kernel.gram(x)
    unit = float(K.diagonal().mean())
    assert torch.linalg.eigvalsh(K)[0] < -1e-6 * unit
    basis = Basis.of(x, kernel, K, relative=1e-14)
    assert 1e-6 * unit < basis.jitter < 2e-5 * unit
    assert torch.isfinite(basis.L).all()
