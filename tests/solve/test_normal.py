from dataclasses import replace

import pytest
import torch

from mekrr.kernels import GaussianKernel
from mekrr.prior import Compositions, column_coefficients, fit_prior
from mekrr.solve import (
    Block,
    BlockResiduals,
    NormalEquations,
    NotPositiveDefiniteError,
    RowWeights,
    SparseFactor,
    cholesky_with_jitter,
    leave_one_structure_out,
    whiten,
)
from support import random_environments

WEIGHTS = RowWeights(force=0.03, stress=0.2)
RIDGES = torch.tensor([1e-4, 1e-1, 1e1], dtype=torch.float64)
INDUCING = 12
PRIORS = ("none", "composition", "backbone", "backbone-scaled")


@pytest.fixture(scope="module")
def compositions():
    x = random_environments([4, 6, 3, 5, 7, 2, 6, 4, 5, 3], 2, species=(1, 29))
    return Compositions.of(x.species, x.n_atoms)


@pytest.fixture(scope="module")
def blocks(compositions):
    """Different sizes and weights; with forces and stress, forces only, stress only, and energies only."""
    generator = torch.Generator().manual_seed(3)
    found = []
    for t, counts in enumerate(compositions.counts):
        n_forces, n_strains = ((5, 6), (3, 0), (0, 6), (0, 0))[t % 4]
        rows = 1 + n_forces + n_strains
        columns = torch.zeros(rows, 4, dtype=torch.float64)
        columns[:, :2] = torch.randn(rows, 2, dtype=torch.float64, generator=generator)
        columns[0, 2:] = counts
        phi = torch.randn(rows, INDUCING, dtype=torch.float64, generator=generator)
        found.append(Block(phi, columns, int(counts.sum()), n_forces, 0.5 + 0.2 * t))
    return found


def prior_on(name, blocks, compositions, chosen):
    """Combination of columns of a prior fitted to the chosen structures, and of its own leave-one-out refits."""
    energies = torch.stack([blocks[t].columns[0] for t in chosen])
    weights = torch.tensor([blocks[t].weight for t in chosen], dtype=torch.float64)
    part = Compositions(compositions.counts[chosen], compositions.elements)
    _, linear, design = fit_prior(name, energies[:, 0], part, energies[:, 1], weights)
    return (column_coefficients(design, beta, part.elements) for beta in (linear.beta, linear.beta_without))


def closed_form(blocks, compositions):
    equations = NormalEquations.of(blocks, WEIGHTS)
    priors = torch.stack([tuple(prior_on(p, blocks, compositions, list(range(len(blocks)))))[1] for p in PRIORS])
    factor = SparseFactor.of(equations.total)
    return leave_one_structure_out(factor, equations.moments, blocks, WEIGHTS, priors, RIDGES)


def refit_without(t, name, ridge, blocks, compositions):
    """Residuals of the rows of t and their variances in a least-squares fit of the rest, its prior included."""
    rest = [s for s in range(len(blocks)) if s != t]
    gamma, _ = prior_on(name, blocks, compositions, rest)
    A = torch.cat([blocks[s].phi * blocks[s].row_weights(WEIGHTS).sqrt()[:, None] for s in rest])
    b = torch.cat([blocks[s].columns @ gamma * blocks[s].row_weights(WEIGHTS).sqrt() for s in rest])
    G = A.T @ A + ridge * torch.eye(INDUCING, dtype=torch.float64)
    phi = blocks[t].phi
    residual = blocks[t].columns @ gamma - phi @ torch.linalg.solve(G, A.T @ b)
    spread = ridge * (phi @ torch.linalg.solve(G, phi.T)).diagonal()
    return residual, spread + ridge / blocks[t].row_weights(WEIGHTS)


def test_leave_one_structure_out_equals_brute_force_refits(blocks, compositions):
    found = closed_form(blocks, compositions)
    for p, name in enumerate(PRIORS):
        for r, ridge in enumerate(RIDGES.tolist()):
            for t, block in enumerate(blocks):
                residual, variance = refit_without(t, name, ridge, blocks, compositions)
                assert found.energy[p, r, t] == pytest.approx(float(residual[0]), rel=1e-8)
                assert found.energy_variance[r, t] == pytest.approx(float(variance[0]), rel=1e-8)
                rows = slice(1, 1 + block.n_forces)
                if block.n_forces:
                    norm = (residual[rows].square().sum() / (3 * block.n_atoms)).sqrt()
                    ratio = (residual[rows].square() / variance[rows]).mean()
                    assert found.force[p, r, t] == pytest.approx(float(norm), rel=1e-8)
                    assert found.force_ratio[p, r, t] == pytest.approx(float(ratio), rel=1e-8)
                else:
                    assert found.force[p, r, t].isnan()
                    assert found.force_ratio[p, r, t].isnan()


def test_leaving_out_in_shards_equals_all_at_once(blocks, compositions):
    whole = closed_form(blocks, compositions)
    equations = NormalEquations.of(blocks, WEIGHTS)
    factor = SparseFactor.of(equations.total)
    gamma = torch.stack([tuple(prior_on(p, blocks, compositions, list(range(len(blocks)))))[1] for p in PRIORS])
    parts = [
        leave_one_structure_out(factor, equations.moments, blocks[s], WEIGHTS, gamma[:, s], RIDGES)
        for s in (slice(0, 3), slice(3, 4), slice(4, 10))
    ]
    joined = BlockResiduals.concatenate(parts)
    for name, value in vars(whole).items():
        torch.testing.assert_close(getattr(joined, name), value, equal_nan=True, rtol=1e-10, atol=1e-12)


def test_merged_equals_whole(blocks):
    whole = NormalEquations.of(blocks, WEIGHTS)
    merged = NormalEquations.empty(INDUCING, 4)
    for part in (blocks[3:4], blocks[:3], blocks[4:]):
        merged = merged + NormalEquations.of(part, WEIGHTS)
    for name in ("gram", "gram_forces", "moments"):
        torch.testing.assert_close(getattr(merged, name), getattr(whole, name), rtol=1e-12, atol=1e-13)
    for name in ("n_structures", "n_force_rows", "n_force_components"):
        assert getattr(merged, name) == getattr(whole, name)
    assert whole.n_structures == 10
    assert whole.n_force_rows == 3 * 5 + 3 * 3
    assert whole.n_force_components == 3 * sum(b.n_atoms for b in blocks if b.n_forces)


def test_equations_are_the_weighted_sums(blocks):
    """Written out row by row, with the weights of the objective."""
    gram = torch.zeros(INDUCING, INDUCING, dtype=torch.float64)
    forces, moments = torch.zeros_like(gram), torch.zeros(INDUCING, 4, dtype=torch.float64)
    for block in blocks:
        for row, (phi, columns) in enumerate(zip(block.phi, block.columns, strict=True)):
            is_force = 1 <= row <= block.n_forces
            weight = block.weight * (WEIGHTS.force if is_force else (WEIGHTS.stress if row else 1.0) / block.n_atoms)
            (forces if is_force else gram).add_(weight * torch.outer(phi, phi))
            moments += weight * torch.outer(phi, columns)
    found = NormalEquations.of(blocks, WEIGHTS)
    torch.testing.assert_close(found.gram, gram)
    torch.testing.assert_close(found.gram_forces, forces)
    torch.testing.assert_close(found.moments, moments)
    torch.testing.assert_close(found.total, gram + forces)


def test_a_supercell_counts_as_often_as_it_holds_the_cell(blocks):
    """Twice the cell: twice the energy and strain derivatives, and every force component twice."""
    one = blocks[0]
    forces, others = slice(1, 1 + one.n_forces), [0, *range(1 + one.n_forces, len(one.phi))]
    double = Block(
        *(
            torch.cat([2 * rows[others[:1]], rows[forces], rows[forces], 2 * rows[others[1:]]])
            for rows in (one.phi, one.columns)
        ),
        2 * one.n_atoms,
        2 * one.n_forces,
        one.weight,
    )
    small, large = (NormalEquations.of([block], WEIGHTS) for block in (one, double))
    for name in ("gram", "gram_forces", "moments"):
        torch.testing.assert_close(getattr(large, name), 2 * getattr(small, name), rtol=1e-12, atol=1e-13)


def test_probed_share(blocks):
    assert NormalEquations.of(blocks[2:4], WEIGHTS).probed_share == 1.0
    full = replace(blocks[0], n_forces=11, n_atoms=3)  # more directions than components never count as more than all
    assert NormalEquations.of([full], WEIGHTS).probed_share == 1.0
    assert NormalEquations.of(blocks[:1], WEIGHTS).probed_share == pytest.approx(5 / (3 * blocks[0].n_atoms))


def test_correction_goes_to_the_moments_of_the_labels(blocks):
    equations = NormalEquations.of(blocks, WEIGHTS)
    correction = torch.arange(INDUCING, dtype=torch.float64)
    changed = equations.with_moments(correction)
    torch.testing.assert_close(changed.moments[:, 0], equations.moments[:, 0] + correction)
    assert torch.equal(changed.moments[:, 1:], equations.moments[:, 1:])


def test_factor_solves_every_ridge(blocks):
    equations = NormalEquations.of(blocks, WEIGHTS)
    factor = SparseFactor.of(equations.total)
    for ridge in RIDGES.tolist():
        G = equations.total + ridge * torch.eye(INDUCING, dtype=torch.float64)
        expected = torch.linalg.solve(G, equations.moments)
        torch.testing.assert_close(factor.solve(equations.moments, ridge), expected, rtol=1e-8, atol=1e-10)


def test_whitened_rows_have_the_identity_for_their_basis():
    u = random_environments([20], 3, species=(29,))
    K = GaussianKernel(1.0).values(u.features, u.features)
    L, jitter = cholesky_with_jitter(K)
    eye = torch.eye(20, dtype=torch.float64)
    torch.testing.assert_close(L @ L.T, K + jitter * eye, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(whiten(whiten(K + jitter * eye, L).T, L), eye, rtol=0, atol=1e-7)


def test_duplicated_environments_get_a_jitter_that_is_reported():
    u = random_environments([10], 3, species=(29,)).features
    twice = torch.cat([u, u])
    K = 7.0 * GaussianKernel(1.0).values(twice, twice)
    L, jitter = cholesky_with_jitter(K)
    assert torch.linalg.matrix_rank(K) == 10
    assert jitter == pytest.approx(7e-10, rel=1e-6)
    assert torch.isfinite(L).all()


@pytest.mark.parametrize(("negative", "jitter"), [(-5e-9, 1e-8), (-5e-7, 1e-6)])
def test_jitter_grows_until_it_is_enough(negative, jitter):
    values = torch.ones(6, dtype=torch.float64)
    values[0] = negative
    Q = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    K = (Q * values) @ Q.T
    assert cholesky_with_jitter((K + K.T) / 2)[1] == pytest.approx(jitter * float(K.diagonal().mean()))


def test_an_indefinite_matrix_is_refused_with_a_remedy():
    with pytest.raises(
        NotPositiveDefiniteError, match=r"the 3 inducing environments are numerically dependent.*--inducing"
    ):
        cholesky_with_jitter(torch.diag(torch.tensor([1.0, 1.0, -0.1], dtype=torch.float64)))


def test_equations_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="NaN or infinite"):
        SparseFactor.of(torch.full((2, 2), torch.nan, dtype=torch.float64))
