import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mekrr.kernels import GaussianKernel, LinearKernel, PolynomialKernel, gram, gram_diagonal
from mekrr.kernels.tiles import _pooling
from support import random_environments

KERNELS = [GaussianKernel(3.0), LinearKernel(2.0), PolynomialKernel(1.5, 3, 0.5)]


def dense(x, y, kernel, embedding, w):
    """The formulas of the paper written out over the (atoms x atoms) matrix."""
    if kernel.name == "gaussian":
        k = torch.exp(-(torch.cdist(x.features, y.features) ** 2) / (2 * kernel.length_scale**2))
    else:
        scale = kernel.length_scale**2 * x.features.shape[1]
        k = (x.features @ y.features.T / scale + kernel.offset) ** kernel.degree
    K = torch.zeros(x.n_structures, y.n_structures, dtype=torch.float64)
    for a in range(x.n_structures):
        for b in range(y.n_structures):
            i, j = x.structure == a, y.structure == b
            block = k[i][:, j]
            zi, zj = x.species[i], y.species[j]
            same = (zi[:, None] == zj[None, :]).double()
            if embedding == "sum":
                K[a, b] = (block * ((1 - w) + w * same)).sum()
                continue
            K[a, b] = (1 - w) * block.mean()
            for s in set(zi.tolist()) & set(zj.tolist()):
                K[a, b] += w * block[zi == s][:, zj == s].mean()
    return K


@pytest.mark.parametrize("embedding", ["sum", "mean"])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("w", [0.0, 0.3, 1.0])
def test_tiles_equal_the_dense_formula(monkeypatch, embedding, kernel, w):
    """Tiles of 16 atoms cut through structures; structures of one species and of 40 atoms are among them."""
    monkeypatch.setattr("mekrr.kernels.tiles.TILE", 16)
    x = random_environments([5, 1, 40, 12, 3], 6)
    y = random_environments([7, 2, 20], 6, species=(1, 8), seed=1)
    symmetric = gram(x, None, kernel, embedding, dtype=torch.float64).mix(0, w)
    torch.testing.assert_close(symmetric, dense(x, x, kernel, embedding, w), rtol=1e-12, atol=1e-13)
    cross = gram(x, y, kernel, embedding, dtype=torch.float64).mix(0, w)
    torch.testing.assert_close(cross, dense(x, y, kernel, embedding, w), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(gram_diagonal(x, kernel, embedding, w), symmetric.diagonal(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("embedding", ["sum", "mean"])
def test_ladder_equals_one_pass_a_scale(embedding):
    x = random_environments([4, 9, 6], 5)
    ladder = gram(x, None, GaussianKernel(8.0), embedding, rungs=6)
    for rung, scale in enumerate(ladder.length_scales):
        single = gram(x, None, GaussianKernel(scale), embedding)
        torch.testing.assert_close(ladder.mix(rung, 0.4), single.mix(0, 0.4), rtol=1e-12, atol=1e-13)


def test_a_kernel_without_a_ladder_says_so():
    with pytest.raises(ValueError, match="no ladder"):
        gram(random_environments([2], 3), None, LinearKernel(1.0), "sum", rungs=2)


def test_unknown_embedding_is_named():
    with pytest.raises(ValueError, match="unknown embedding 'average'"):
        gram(random_environments([2], 3), None, LinearKernel(1.0), "average")


@given(
    sizes=st.lists(st.integers(1, 8), min_size=2, max_size=6),
    w=st.floats(0, 1),
    scale=st.floats(0.5, 10),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_every_embedding_is_positive_semidefinite(sizes, w, scale, seed):
    x = random_environments(sizes, 4, seed=seed)
    for embedding in ("sum", "mean"):
        K = gram(x, None, GaussianKernel(scale), embedding).mix(0, w)
        assert torch.linalg.eigvalsh(K).min() > -1e-10 * K.diagonal().max()


def test_order_of_atoms_does_not_matter():
    x = random_environments([6, 7], 4)
    order = torch.cat([torch.randperm(6), 6 + torch.randperm(7)])
    shuffled = type(x)(x.features[order], x.species[order], x.n_atoms)
    a, b = (gram(e, None, GaussianKernel(2.0), "sum").mix(0, 0.5) for e in (x, shuffled))
    torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


def test_rounding_of_float32_tiles_is_seen():
    """The estimate is within a factor of ten of the true error, also where features are far from centred."""
    x = random_environments([20] * 12, 32)
    for shift in (0.0, 30.0):
        moved = x.with_features(x.features + shift)
        single = gram(moved, None, GaussianKernel(8.0), "sum", rungs=4, dtype=torch.float32)
        exact = gram(moved, None, GaussianKernel(8.0), "sum", rungs=4, dtype=torch.float64)
        for rung in range(4):
            error = (single.all_pairs[rung] - exact.all_pairs[rung]).square().mean().sqrt()
            true = float(error / exact.all_pairs[rung].diagonal().mean())
            assert 0.1 < single.noise[rung] / true < 10


def test_groups_are_species_of_structures():
    x = random_environments([3, 5], 2)
    pooling = _pooling(x, "sum")
    assert torch.equal(pooling.group_structure[pooling.group], x.structure)
    assert torch.equal(pooling.group_species[pooling.group], x.species)
