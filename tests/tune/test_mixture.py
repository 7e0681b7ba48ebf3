"""The tangent kernel's rows beside those of features, from the products of all pairs."""

import pytest
import torch

from mekrr.features import Derivatives
from mekrr.tune.mixture import TangentDesign
from mekrr.tune.problem import Observed
from support import random_environments

W = 0.3


@pytest.fixture(scope="module")
def case():
    """Three structures with four force rows each, their tangent rows, and rows on features."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    x = random_environments([2, 3, 2], 4)
    derivatives = [
        Derivatives(normal(4, int(n), 4), normal(4), normal(4), 0, normal(5, 2, 40).float()) for n in x.n_atoms
    ]
    psi = [normal(5, 6) for _ in derivatives]
    return Observed(x, derivatives), psi, x.n_atoms.double()


def kernel(T):
    shared, own = T.sum(1), T.flatten(1)
    return (1 - W) * shared @ shared.T + W * own @ own.T


def force_size(rows, n_atoms):
    return torch.stack([r[1:].square().sum() / (3 * n) for r, n in zip(rows, n_atoms, strict=True)]).mean()


@pytest.mark.parametrize("share", [0.25, 0.9])
def test_rows_are_those_of_the_sum_of_kernels(case, share):
    observed, psi, n_atoms = case
    design = TangentDesign.of(observed, 100, 0)
    rows, amplitude = design.beside(psi, observed.derivatives, n_atoms, W, share)
    T = torch.cat([d.tangent for d in observed.derivatives]).double()
    features, together = torch.cat(psi), torch.cat(rows)
    expected = (1 - share) * features @ features.T + share * amplitude * kernel(T)
    torch.testing.assert_close(together @ together.T, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_force_rows_of_both_are_of_one_size(case):
    observed, psi, n_atoms = case
    design = TangentDesign.of(observed, 100, 0)
    rows, _ = design.beside(psi, observed.derivatives, n_atoms, W, 0.5)
    parts = [[row[:, :6] for row in rows], [row[:, 6:] for row in rows]]
    sizes = [float(force_size(part, n_atoms)) for part in parts]
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-6)
    assert sizes[0] == pytest.approx(0.5 * float(force_size(psi, n_atoms)))


def test_without_a_share_nothing_changes(case):
    observed, psi, n_atoms = case
    rows, _ = TangentDesign.of(observed, 100, 0).beside(psi, observed.derivatives, n_atoms, W, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(rows, psi, strict=True))


def test_fewer_rows_span_a_part(case):
    observed, psi, n_atoms = case
    rows, _ = TangentDesign.of(observed, 7, 0).beside(psi, observed.derivatives, n_atoms, W, 0.5)
    assert rows[0].shape == (5, 6 + 7)
