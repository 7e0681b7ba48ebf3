import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mekrr.features import Environments
from mekrr.kernels import GaussianKernel, LinearKernel, StructureKernel, gram, rounding
from mekrr.kernels.tiles import tile_dtype
from oracles import dense
from support import random_environments


def test_tiles_equal_the_dense_formula(monkeypatch, weighted):
    """Tiles of 16 atoms cut through structures; structures of one species and of 40 atoms are among them."""
    monkeypatch.setattr("mekrr.kernels.tiles.TILE", 16)
    x = random_environments([5, 1, 40, 12, 3], 6)
    y = random_environments([7, 2, 20], 6, species=(1, 8), seed=1)
    torch.testing.assert_close(weighted.gram(x), dense(x, x, weighted), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(weighted.gram(x, y), dense(x, y, weighted), rtol=1e-12, atol=1e-13)


def test_ladder_equals_one_pass_a_scale(embedding):
    x = random_environments([4, 9, 6], 5)
    ladder = gram(x, None, GaussianKernel(8.0), embedding, rungs=6)
    assert ladder.length_scales == pytest.approx([8.0 / 2 ** (rung / 2) for rung in range(6)])
    for rung, scale in enumerate(ladder.length_scales):
        single = gram(x, None, GaussianKernel(scale), embedding).split(0)
        split = ladder.split(rung)
        torch.testing.assert_close(split.all_pairs, single.all_pairs, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(split.same_species, single.same_species, rtol=1e-12, atol=1e-13)


def test_a_kernel_without_a_ladder_says_so():
    with pytest.raises(ValueError, match="the linear kernel has no ladder"):
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
@settings(max_examples=15, deadline=None)
def test_every_embedding_is_positive_semidefinite(sizes, w, scale, seed):
    x = random_environments(sizes, 4, seed=seed)
    for embedding in ("sum", "mean"):
        K = StructureKernel.weighted(GaussianKernel(scale), w, embedding).gram(x)
        assert torch.linalg.eigvalsh(K).min() > -1e-10 * K.diagonal().max()


def test_order_of_atoms_does_not_matter(summed):
    x = random_environments([6, 7], 4)
    generator = torch.Generator().manual_seed(0)
    order = torch.cat([torch.randperm(6, generator=generator), 6 + torch.randperm(7, generator=generator)])
    shuffled = Environments(x.features[order], x.species[order], x.n_atoms)
    torch.testing.assert_close(summed.gram(shuffled), summed.gram(x), rtol=1e-13, atol=1e-13)


def test_rounding_of_float32_tiles_is_seen():
    """The estimate is within a factor of ten of the true error, also where features are far from centred."""
    x = random_environments([20] * 12, 32)
    for shift in (0.0, 30.0):
        moved = x.with_features(x.features + shift)
        single = gram(moved, None, GaussianKernel(8.0), "sum", rungs=4, dtype=torch.float32)
        exact = gram(moved, None, GaussianKernel(8.0), "sum", rungs=4, dtype=torch.float64)
        estimates = rounding(moved, GaussianKernel(8.0), "sum", 4, torch.float32)
        for rung, estimate in enumerate(estimates):
            error = (single.all_pairs[rung] - exact.all_pairs[rung]).square().mean().sqrt()
            true = float(error / exact.all_pairs[rung].diagonal().mean())
            assert 0.1 < estimate / true < 10
            double = rounding(moved, GaussianKernel(8.0), "sum", 4, torch.float64)[rung]
            assert double == pytest.approx(estimate * 2.0**-29)


def test_tiles_are_float32_where_float64_would_take_long(monkeypatch):
    x, y = random_environments([10], 2), random_environments([7], 2)
    assert tile_dtype(x) == torch.float64
    monkeypatch.setattr("mekrr.kernels.tiles.FLOAT64_PAIRS", 60)
    assert tile_dtype(x) == torch.float64  # half of 100 pairs, by symmetry
    assert tile_dtype(x, y) == torch.float32
