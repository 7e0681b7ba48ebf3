import pytest
import torch

from mekrr.features import Environments
from mekrr.kernels import GaussianKernel, Pooling, design_rows, gram, make_designs, make_kernel
from support import random_environments

LADDER = (4.0, 4.0 / 2**0.5, 2.0)


def copied(x):
    """The same environments, as centres beside them."""
    return Environments(x.features, x.species, x.n_atoms)


@pytest.mark.parametrize(
    ("kernel", "scales"),
    [("gaussian", LADDER), ("gaussian", (5.0, 1.0)), ("gaussian", (3.0,)), ("linear", (2.0, 1.0))],
)
def test_the_structures_as_their_own_basis_are_a_shortcut(kernel, scales, embedding):
    x = random_environments([5, 2, 1, 4], 4)
    own = make_designs(x, [None] * 4, x, kernel, scales, embedding)
    other = make_designs(x, [None] * 4, copied(x), kernel, scales, embedding)
    assert tuple(d.length_scale for d in own) == tuple(d.length_scale for d in other) == scales
    for a, b in zip(own, other, strict=True):
        for name in ("all_pairs", "same_species"):
            torch.testing.assert_close(getattr(a.gram, name), getattr(b.gram, name), rtol=1e-12, atol=1e-13)
            assert len(a.rows) == len(b.rows) == 4
            for left, right in zip(a.rows, b.rows, strict=True):
                torch.testing.assert_close(getattr(left, name), getattr(right, name), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("of_atoms", [True, False])
@pytest.mark.parametrize(("kernel", "scales"), [("gaussian", LADDER), ("gaussian", (5.0, 1.0)), ("linear", (2.0, 1.0))])
def test_designs_are_rows_and_covariances_one_by_one(kernel, scales, of_atoms, embedding):
    x, centres = random_environments([5, 2, 4], 4), random_environments([3, 1, 2], 4, seed=1)
    centres = centres.singletons() if of_atoms else centres
    generator = torch.Generator().manual_seed(0)
    moves = [torch.randn(3, n, 4, dtype=torch.float64, generator=generator) for n in (5, 2, 4)]
    derivatives = [moves[0], None, moves[2]]
    for design, scale in zip(make_designs(x, derivatives, centres, kernel, scales, embedding), scales, strict=True):
        pointwise = make_kernel(kernel, scale)
        K = gram(centres, None, pointwise, embedding).split(0)
        torch.testing.assert_close(design.gram.all_pairs, K.all_pairs, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(design.gram.same_species, K.same_species, rtol=1e-12, atol=1e-13)
        for t, d in enumerate(derivatives):
            expected = design_rows(x[torch.tensor([t])], d, centres, pointwise, 1, embedding)[0]
            torch.testing.assert_close(design.rows[t].all_pairs, expected.all_pairs, rtol=1e-12, atol=1e-13)
            torch.testing.assert_close(design.rows[t].same_species, expected.same_species, rtol=1e-12, atol=1e-13)


def test_rows_of_the_mean_embedding_are_total_energies():
    x = random_environments([5, 2], 4)
    (design,) = make_designs(x, [None] * 2, x, "gaussian", (2.0,), "mean")
    K = gram(x, None, GaussianKernel(2.0), "mean").split(0).all_pairs
    assert Pooling.of(x, "mean").scale.tolist() == [5, 2]
    torch.testing.assert_close(design.rows[0].all_pairs[0], 5 * K[0])
    torch.testing.assert_close(design.rows[1].all_pairs[0], 2 * K[1])


def test_progress_ends_where_the_work_does():
    x, calls = random_environments([5, 2], 4), []
    make_designs(x, [None] * 2, copied(x), "gaussian", LADDER, progress=lambda *now: calls.append(now))
    assert calls == [(1, 2), (2, 2)]
    make_designs(x, [None] * 2, x, "gaussian", LADDER, progress=lambda *now: calls.append(now))
    assert calls[2:] == [(1, 1)]
