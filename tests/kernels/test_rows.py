import pytest
import torch

from mekrr.features import Environments
from mekrr.kernels import Expansion, GaussianKernel, Inducing, LinearKernel, PolynomialKernel, design_rows, make_kernel
from support import random_environments

KERNELS = [GaussianKernel(1.7), LinearKernel(0.8), PolynomialKernel(1.3, 3, 0.7)]


@pytest.fixture
def x():
    return random_environments([6], 4)


@pytest.fixture
def basis():
    u = random_environments([9], 4, seed=1)
    return Inducing(u.features, u.species)


@pytest.fixture
def derivatives():
    return torch.randn(5, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def expansion_of(basis, kernel, w, coefficients):
    ones = torch.ones(len(basis.species), dtype=torch.float64)
    groups = torch.arange(len(basis.species))
    return Expansion(basis.features, basis.species, groups, coefficients, ones, ones, kernel, w, "sum")


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("w", [0.0, 0.3, 1.0])
def test_rows_are_the_expansion_and_its_derivatives(kernel, w, x, basis, derivatives):
    """Each column is the expansion with one coefficient 1: its energy, and autograd's derivative along a direction."""
    rows = design_rows(x, derivatives, basis, kernel)[0].mix(w)
    assert rows.shape == (6, 9)
    for m in range(9):
        h = x.features.clone().requires_grad_(True)
        expansion = expansion_of(basis, kernel, w, torch.eye(9, dtype=torch.float64)[m])
        energy = expansion(Environments(h, x.species, x.n_atoms), slopes=False).atomic_energies.sum()
        (slope,) = torch.autograd.grad(energy, h)
        expected = torch.cat([energy.detach()[None], torch.einsum("af,raf->r", slope, derivatives)])
        torch.testing.assert_close(rows[:, m], expected, rtol=1e-11, atol=1e-12)


def test_rungs_equal_single_kernels(x, basis, derivatives):
    ladder = design_rows(x, derivatives, basis, GaussianKernel(4.0), 4)
    assert len(ladder) == 4
    for rung, rows in enumerate(ladder):
        alone = design_rows(x, derivatives, basis, GaussianKernel(4.0 / 2 ** (rung / 2)))[0]
        torch.testing.assert_close(rows.all_pairs, alone.all_pairs, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(rows.same_species, alone.same_species, rtol=1e-12, atol=1e-14)


def test_species_weights_mix_all_pairs_and_same_species(x, basis, derivatives):
    rows = design_rows(x, derivatives, basis, GaussianKernel(2.0))[0]
    assert torch.equal(rows.mix(0.0), rows.all_pairs)
    assert torch.equal(rows.mix(1.0), rows.same_species)
    torch.testing.assert_close(rows.mix(0.25), 0.75 * rows.all_pairs + 0.25 * rows.same_species)
    strangers = Environments(x.features, torch.full_like(x.species, 99), x.n_atoms)
    assert not design_rows(strangers, derivatives, basis, GaussianKernel(2.0))[0].same_species.any()


def test_the_basis_gram_is_the_energy_row_of_single_atoms(basis):
    for name in ("gaussian", "linear", "polynomial"):
        kernel = make_kernel(name, 1.5)
        K = basis.gram(kernel, 0.4)
        for m in range(9):
            atom = Environments(basis.features[m : m + 1], basis.species[m : m + 1], torch.tensor([1]))
            row = design_rows(atom, None, basis, kernel)[0].mix(0.4)
            assert row.shape == (1, 9)
            torch.testing.assert_close(row[0], K[m], rtol=1e-12, atol=1e-13)


def test_derivatives_are_not_changed(x, basis, derivatives):
    before = derivatives.clone()
    design_rows(x, derivatives, basis, GaussianKernel(2.0), 3)
    assert torch.equal(derivatives, before)


@pytest.mark.parametrize("kernel", KERNELS[1:], ids=lambda kernel: kernel.name)
def test_a_ladder_of_a_kernel_without_one_is_refused(kernel, x, basis):
    with pytest.raises(ValueError, match=f"the {kernel.name} kernel has no ladder"):
        design_rows(x, None, basis, kernel, 2)
