import itertools
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from mekrr.potential.exact_forces import ForceGram, conjugate_gradients

from mekrr import KernelPotential
from mekrr.data import as_structures
from mekrr.features import Scaler, extract, probe
from mekrr.kernels import GaussianKernel, Inducing, design_rows

LAYERS = ("interaction_1",)
W = 0.3


def random_problem(n=30, spread=3.0, seed=0):
    """A symmetric positive definite matrix over several orders of magnitude, and a right-hand side."""
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator))[0]
    A = (Q * torch.logspace(-spread / 2, spread / 2, n, dtype=torch.float64)) @ Q.T
    return (A + A.T) / 2, torch.randn(n, dtype=torch.float64, generator=generator)


def noisy_inverse(A, size, seed=1):
    """The inverse of a matrix near A, as the probed equations are near the full ones."""
    noise = torch.randn(*A.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    root = torch.linalg.cholesky(A)
    near = root @ (torch.eye(len(A), dtype=torch.float64) + size * (noise + noise.T)) @ root.T
    return torch.linalg.inv((near + near.T) / 2)


def test_conjugate_gradients_equal_a_direct_solve():
    A, b = random_problem()
    M = noisy_inverse(A, 0.02)
    x, iterations = conjugate_gradients(lambda p: A @ p, b, lambda r: M @ r, tolerance=1e-10, max_iterations=60)
    torch.testing.assert_close(x, torch.linalg.solve(A, b), rtol=1e-8, atol=1e-8)
    assert iterations.converged
    assert iterations.residuals[-1] <= 1e-10 * iterations.residuals[0]
    assert len(iterations.residuals) < 30


def test_each_iteration_comes_nearer_in_the_norm_of_the_matrix():
    A, b = random_problem()
    M, exact = noisy_inverse(A, 0.02), torch.linalg.solve(*random_problem())
    errors = []
    for count in range(1, 6):
        x, iterations = conjugate_gradients(lambda p: A @ p, b, lambda r: M @ r, 0.0, count)
        assert len(iterations.residuals) == count
        assert not iterations.converged
        errors.append(float((x - exact) @ A @ (x - exact)))
    assert all(after < before for before, after in itertools.pairwise(errors))


def test_a_perfect_preconditioner_needs_one_step():
    A, b = random_problem()
    M = torch.linalg.inv(A)
    x, _ = conjugate_gradients(lambda p: A @ p, b, lambda r: M @ r, max_iterations=1)
    torch.testing.assert_close(x, torch.linalg.solve(A, b), rtol=1e-7, atol=1e-8)


def test_nothing_to_solve_for_is_solved_at_once():
    A, b = random_problem()
    x, iterations = conjugate_gradients(lambda p: A @ p, 0 * b, lambda r: r)
    assert not x.any()
    assert iterations.residuals == ()
    assert iterations.converged


@pytest.fixture(scope="module")
def backbone():
    pytest.importorskip("sevenn")
    from mekrr.backbones import load_backbone

    return load_backbone("sevennet-0")


@pytest.fixture(scope="module")
def problem(alloys, backbone):
    """Three weighted structures of two sizes, one without forces, and inducing environments among their atoms."""
    structures = [replace(s, weight=w) for s, w in zip(as_structures(alloys[:4]), (1.0, 2.5, 0.4, 1.0), strict=True)]
    structures[3] = replace(structures[3], forces=None)
    found = extract([s.atoms for s in structures], backbone, LAYERS).environments
    scaler = Scaler.fit(found.features, (128,))
    x = scaler(found)
    inducing = Inducing(x.features[::2], x.species[::2])
    return structures, x, scaler, inducing, GaussianKernel(12.0)


def explicit_gram(problem, backbone):
    """From the rows of all 3n components of every structure."""
    structures, x, scaler, inducing, kernel = problem
    store = probe(structures, backbone, LAYERS, "all")
    gram = torch.zeros(len(inducing.species), len(inducing.species), dtype=torch.float64)
    for t, structure in enumerate(structures):
        found = store(t)
        if found is not None:
            features = found.features.double() / scaler.scale
            rows = design_rows(x[torch.tensor([t])], features, inducing, kernel)[0].mix(W)[1:]
            assert len(rows) == 3 * len(structure)
            gram += structure.weight * rows.T @ rows
    return gram


@pytest.mark.parametrize("batch_atoms", [256, 8])
def test_the_product_is_that_of_all_force_rows(problem, backbone, monkeypatch, batch_atoms):
    monkeypatch.setattr("mekrr.potential.exact_forces.BATCH_ATOMS", batch_atoms)
    structures, _, scaler, inducing, kernel = problem
    done = []
    product = ForceGram(structures, backbone, LAYERS, scaler, inducing, kernel, W, done.append)
    gram = explicit_gram(problem, backbone)
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, len(gram), dtype=torch.float64, generator=generator)
    found_a, found_b = product(a), product(b)
    for c, found in ((a, found_a), (b, found_b)):
        torch.testing.assert_close(found, gram @ c, rtol=0, atol=1e-4 * float((gram @ c).abs().max()))
    scale = float((a @ gram @ a) * (b @ gram @ b)) ** 0.5
    assert float(b @ found_a) == pytest.approx(float(a @ found_b), abs=1e-4 * scale)
    assert float(a @ found_a) > 0
    assert sum(done) == 6


def test_exact_forces_come_nearer_to_all_directions(alloys):
    """Probed, iterated, and with every direction in the equations: all at the ridge that means the same."""
    pytest.importorskip("sevenn")
    options = {"layers": LAYERS, "length_scale": 12.0, "species_weight": W, "prior": "none", "force_weight": 1e-2}

    def forces(ridge, **others):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = KernelPotential("sevennet-0", inducing=40, ridge=ridge, **options, **others).fit(alloys[:12])
        return found, np.concatenate([p.forces.ravel() for p in found.predict(alloys[20:26])])

    probed_potential, probed = forces(1e-3, probes=3, exact_forces=False)
    share = probed_potential.fitted_.model.equations.probed_share
    iterated_potential, iterated = forces(1e-3, probes=3, exact_forces=True)
    _, every = forces(1e-3 * share, probes="all")
    assert 0.2 < share < 0.4
    assert iterated_potential.fitted_.facts["solver"]["exact_forces"]["converged"]
    error_probed, error_iterated = (np.square(f - every).mean() ** 0.5 for f in (probed, iterated))
    assert error_iterated < 0.3 * error_probed
