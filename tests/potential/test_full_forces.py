import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from mekrr import KernelPotential
from mekrr.data import as_structures
from mekrr.features import Environments, Scaler, extract, probe
from mekrr.graph import build_batch
from mekrr.kernels import Basis, GaussianKernel, JointBasis, StructureKernel
from mekrr.potential.full_forces import ForceProduct, Subset, full_solution
from mekrr.shards import HERE
from mekrr.solve import NormalEquations, Observation, RowWeights

LAYERS = ("interaction_1",)
W = 0.3
FORCE_WEIGHT = 1e-2


@pytest.fixture(scope="module")
def problem(alloys, sevennet):
    """Four weighted structures of two sizes, one without forces, and a basis of half of their atoms."""
    structures = [replace(s, weight=w) for s, w in zip(as_structures(alloys[:4]), (1.0, 2.5, 0.4, 1.0), strict=True)]
    structures[3] = replace(structures[3], forces=None)
    found = extract([s.atoms for s in structures], sevennet, LAYERS).environments
    scaler = Scaler.fit(found.features, (128,))
    x = scaler(found)
    species = x.species[::2]
    centres = Environments(x.features[::2], species, torch.ones_like(species))
    return structures, x, scaler, JointBasis(Basis.of(centres, StructureKernel.weighted(GaussianKernel(12.0), W)))


@pytest.fixture(scope="module")
def gram(problem, sevennet):
    """From the whitened rows of all 3n components of every structure."""
    structures, x, scaler, basis = problem
    store = probe(structures, sevennet, LAYERS, "all")
    found = torch.zeros(len(basis), len(basis), dtype=torch.float64)
    for t, structure in enumerate(structures):
        d = store(t)
        if d is not None:
            rows = basis.rows(x[torch.tensor([t])], scaler.derivative(d.features))[1:]
            assert len(rows) == 3 * len(structure)
            found += structure.weight * rows.T @ rows
    return found


def task_of(problem, sevennet):
    structures, _, scaler, basis = problem
    return ForceProduct(structures, sevennet, LAYERS, scaler, basis)


@pytest.mark.parametrize("shards", [[[0, 1, 2]], [[0], [1, 2]]])
def test_the_product_is_that_of_all_force_rows(problem, sevennet, gram, shards):
    a, b = torch.randn(2, len(gram), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    task = task_of(problem, sevennet)
    found_a, found_b = (HERE.sum(task, shards, state=task.point(c)).whitened(problem[3]) for c in (a, b))
    for c, found in ((a, found_a), (b, found_b)):
        torch.testing.assert_close(found, gram @ c, rtol=0, atol=1e-4 * float((gram @ c).abs().max()))
    scale = float((a @ gram @ a) * (b @ gram @ b)) ** 0.5
    assert float(b @ found_a) == pytest.approx(float(a @ found_b), abs=1e-4 * scale)
    assert float(a @ found_a) > 0


def probed_equations(problem, gram):
    """Equations whose force rows stand for a third of the components, exactly in proportion."""
    structures, x, _, basis = problem
    targets = torch.randn(len(structures), 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    observations = [
        Observation(basis.rows(x[torch.tensor([t])], None), targets[t], len(s), 0, 1.0, 1.0)
        for t, s in enumerate(structures)
    ]
    energies = NormalEquations.of(observations, RowWeights(FORCE_WEIGHT, 0.0))
    n = sum(3 * len(s) for s in structures if s.forces is not None)
    forces = torch.randn(energies.moments.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    forces *= float(energies.moments.abs().mean())
    parts = {"gram_forces": FORCE_WEIGHT * gram, "moments_forces": forces, "n_force_components": n}
    return replace(energies, **parts, n_force_rows=n // 3)


def test_the_full_solution_is_that_of_all_force_rows(problem, sevennet, gram, monkeypatch):
    """With the ridge of the probed equations times the share that was probed; energies keep theirs."""
    monkeypatch.setattr("mekrr.potential.full_forces.TOLERANCE", 1e-6)
    equations, ridge = probed_equations(problem, gram), 1e-2
    one = torch.ones(1, dtype=torch.float64)
    found, iterations = full_solution(task_of(problem, sevennet), equations, FORCE_WEIGHT, one, ridge, None)
    full = equations.gram / 3 + FORCE_WEIGHT * gram + ridge / 3 * torch.eye(len(gram), dtype=torch.float64)
    expected = torch.linalg.solve(full, (equations.moments / 3 + equations.moments_forces)[:, 0])
    assert len(iterations.residuals) <= 8
    assert float((found - expected).norm() / expected.norm()) < 0.02


def test_of_some_structures_in_some_functions_it_is_theirs(problem, sevennet, gram):
    """As if there were no others of either."""
    structures, x, scaler, basis = problem
    equations, k, one = probed_equations(problem, gram), len(gram) // 2, torch.ones(1, dtype=torch.float64)
    d = probe(structures[1:2], sevennet, LAYERS, "all")(0)
    rows = basis.rows(x[torch.tensor([1])], scaler.derivative(d.features))[1:]
    alone = FORCE_WEIGHT * structures[1].weight * rows.T @ rows
    equations = replace(equations, gram_forces=alone, n_force_components=len(rows), n_force_rows=len(rows) // 2)
    share, subset = equations.probed_share, Subset([1], k, 1e-6)
    found, _ = full_solution(task_of(problem, sevennet), equations, FORCE_WEIGHT, one, 1e-2, None, subset=subset)
    full = share * equations.gram + alone + share * 1e-2 * torch.eye(len(gram), dtype=torch.float64)
    b = (share * equations.moments + equations.moments_forces)[:k, 0]
    assert not found[k:].any()
    expected = torch.linalg.solve(full[:k, :k], b)
    assert float((found[:k] - expected).norm() / expected.norm()) < 0.02


@pytest.fixture
def counted(monkeypatch):
    """Structures whose graphs were built."""
    built = []

    def build(atoms, *arguments):
        built.extend(len(a) for a in atoms)
        return build_batch(atoms, *arguments)

    monkeypatch.setattr("mekrr.potential.full_forces.build_batch", build)
    return built


@pytest.mark.parametrize("kept", [True, False])
def test_no_graph_is_built_twice_while_there_is_room(problem, sevennet, gram, counted, monkeypatch, kept):
    """And the bits are the same without room."""

    def solution():
        equations, one = probed_equations(problem, gram), torch.ones(1, dtype=torch.float64)
        task = task_of(problem, sevennet)
        return full_solution(task, equations, FORCE_WEIGHT, one, 1e-2, None)

    monkeypatch.setattr("mekrr.potential.full_forces.BATCH_ATOMS", 12)
    expected, iterations = solution()
    once = list(counted)
    counted.clear()
    monkeypatch.setattr("mekrr.potential.full_forces.GRAPH_BYTES", 500_000_000 if kept else 0)
    found, _ = solution()
    assert len(iterations.residuals) > 1
    assert sorted(once) == [4, 4, 8]
    assert sorted(counted) == sorted(once * (1 if kept else len(iterations.residuals)))
    assert torch.equal(found, expected)


def test_exact_forces_come_nearer_to_all_directions(alloys):
    """Probed, iterated, and with every direction in the equations: all at the ridge that means the same."""
    pytest.importorskip("sevenn")
    options = {"layers": LAYERS, "length_scale": 12.0, "species_weight": W, "prior": "none", "force_weight": 1e-2}
    options |= {"tangent_share": 0.0}

    def forces(ridge, **others):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = KernelPotential("sevennet-0", inducing=20, ridge=ridge, **options, **others).fit(alloys[:6])
        return found, np.concatenate([p.forces.ravel() for p in found.predict(alloys[20:24])])

    probed_potential, probed = forces(1e-3, probes=3, exact_forces=False)
    share = probed_potential.fitted_.model.equations.probed_share
    iterated_potential, iterated = forces(1e-3, probes=3, exact_forces=True)
    _, every = forces(1e-3 * share, probes="all")
    assert 0.2 < share < 0.4
    assert iterated_potential.fitted_.record.solver.exact_forces.converged
    error_probed, error_iterated = (np.square(f - every).mean() ** 0.5 for f in (probed, iterated))
    assert error_iterated < 0.3 * error_probed
