import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from mekrr.potential.dual import DualModel
from mekrr.potential.sparse import SparseModel

from mekrr import KernelPotential
from mekrr.features import Environments, Scaler
from mekrr.kernels import GaussianKernel, design_rows, gram, mixed
from mekrr.solve import Block, NormalEquations, RidgeFactor, RowWeights, SparseFactor, cholesky_with_jitter, whiten
from support import random_environments

KERNEL, W, RIDGE = GaussianKernel(1.3), 0.4, 1e-3
WEIGHTS = RowWeights(force=0.05, stress=0.01)
AMPLITUDE = 1.7
IDENTITY = Scaler(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))


def sparse_model(x, energies, rows, derivatives=None, force_labels=None):
    """The solution for given energies, prior zero, on the atoms `rows` as inducing environments."""
    u = Environments(x.features[rows], x.species[rows], torch.tensor([len(rows)]))
    K = mixed(KERNEL.values(u.features, u.features), u.species, u.species, W)
    L, jitter = cholesky_with_jitter(K)
    model = SparseModel(
        u.features, u.species, IDENTITY, KERNEL, W, RIDGE, WEIGHTS, torch.zeros(len(rows), dtype=torch.float64),
        NormalEquations.empty(len(rows), 1), jitter, AMPLITUDE, None if derivatives is None else 0.8,
    )  # fmt: skip
    blocks = []
    for t in range(x.n_structures):
        moves = None if derivatives is None else derivatives[t]
        phi = design_rows(x[torch.tensor([t])], moves, model.inducing, KERNEL)[0].mix(W)
        labels = energies[t, None] if moves is None else torch.cat([energies[t, None], force_labels[t]])
        n = int(x.n_atoms[t])
        blocks.append(Block(whiten(phi, L), labels[:, None], n, 0 if moves is None else len(moves), 1.0))
    equations = NormalEquations.of(blocks, WEIGHTS)
    solved = SparseFactor.of(equations.total).solve(equations.moments, RIDGE)
    coefficients = torch.linalg.solve_triangular(L.T, solved, upper=True)[:, 0]
    return replace(model, coefficients=coefficients, equations=equations)


@pytest.fixture(scope="module")
def x():
    return random_environments([4, 3, 5, 2, 4], 3, species=(1, 29))


@pytest.fixture(scope="module")
def energies():
    return torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def model(x, energies):
    """With forces, in a basis of half of the atoms."""
    generator = torch.Generator().manual_seed(5)
    moves = [torch.randn(3, int(n), 3, dtype=torch.float64, generator=generator) for n in x.n_atoms]
    labels = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    return sparse_model(x, energies, torch.arange(0, 18, 2), moves, labels)


@pytest.fixture
def test_set():
    return random_environments([3, 1, 6], 3, species=(1, 29), seed=7)


def evaluated(model, x):
    found = model.expansion(x, cross=True)
    totals = torch.zeros(x.n_structures, dtype=torch.float64).index_add_(0, x.structure, found.atomic_energies)
    return totals, model.energy_deviation(x, found.cross)


def test_all_atoms_as_inducing_environments_are_the_exact_solver(x, energies, test_set):
    """Energies only: the two solvers are then the same Gaussian process, in mean and deviation."""
    sparse = sparse_model(x, energies, torch.arange(18))
    factor = RidgeFactor.of(gram(x, None, KERNEL, "sum").mix(0, W), x.n_atoms.double())
    dual_coef = factor.solve(energies[:, None], torch.tensor([RIDGE], dtype=torch.float64))[0, :, 0]
    exact = DualModel(x, IDENTITY, KERNEL, W, "sum", RIDGE, dual_coef, factor.half_inverse(RIDGE), AMPLITUDE)
    for part in (test_set, x):
        for found, expected in zip(evaluated(sparse, part), evaluated(exact, part), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_deviations_are_at_least_the_noise_and_the_prior_far_away(model, x, test_set):
    _, deviation = evaluated(model, test_set)
    assert (deviation.square() >= AMPLITUDE * RIDGE * test_set.n_atoms).all()
    far = test_set.with_features(test_set.features + 50.0)
    together = gram(far, None, KERNEL, "sum").mix(0, W).diagonal() + RIDGE * far.n_atoms
    torch.testing.assert_close(evaluated(model, far)[1], (AMPLITUDE * together).sqrt())
    assert (evaluated(model, far)[1] > deviation).all()


def test_deviations_grow_away_from_the_data(model, x):
    move = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    along = [evaluated(model, x.with_features(x.features + size * move))[1] for size in (0.0, 1.5, 3.0)]
    assert (along[0] < along[1]).all()
    assert (along[1] < along[2]).all()


def test_an_atom_alone_has_the_deviation_of_its_structure(model, test_set):
    alone = Environments(test_set.features, test_set.species, torch.ones(10, dtype=torch.int64))
    torch.testing.assert_close(model.atomic_deviation(test_set), evaluated(model, alone)[1])


def test_more_data_leave_less_open(model, x, test_set):
    doubled = replace(model, equations=model.equations + model.equations)
    assert (evaluated(doubled, test_set)[1] < evaluated(model, test_set)[1]).all()


def test_covariance_is_the_posterior_of_the_coefficients(model, test_set):
    """Against the inverse written out: (K_mm + gram / ridge)^-1 with raw rows."""
    raw = model.L @ model.equations.total @ model.L.T / RIDGE + model.L @ model.L.T
    rows = torch.cat(
        [design_rows(test_set[torch.tensor([t])], None, model.inducing, KERNEL)[0].mix(W) for t in range(3)]
    )
    found = model.covariance(rows, rows[:2])
    torch.testing.assert_close(found, rows @ torch.linalg.solve(raw, rows[:2].T), rtol=1e-6, atol=1e-9)


def test_force_draws_have_the_posterior_covariance(model, test_set):
    """Slopes over many draws against the mixed derivative of the posterior covariance function, by autograd."""
    one = test_set[torch.tensor([0])]
    u, draws = model.inducing, 3000
    R_inverse = torch.linalg.inv(model.L @ model.L.T)
    C = torch.linalg.inv(model.L @ model.equations.total @ model.L.T / RIDGE + model.L @ model.L.T)

    def covariance(h, g):
        own = mixed(KERNEL.values(h, g), one.species, one.species, W)
        left, right = (mixed(KERNEL.values(f, u.features), one.species, u.species, W) for f in (h, g))
        return own + left @ (C - R_inverse) @ right.T

    def summed_slope(h, g):
        """d/dh of the covariance between atoms i and j, as a function of g."""
        return torch.func.jacfwd(lambda a: covariance(a, g).sum())(h).flatten()

    expected = torch.func.jacfwd(lambda g: summed_slope(one.features, g))(one.features.clone()).reshape(9, 9)
    found = torch.stack([s.flatten() for s in model.force_slopes(one, draws, seed=3)])
    scale = expected.diagonal().sqrt()
    error = (found.T @ found / draws - expected) / (scale[:, None] * scale[None, :])
    assert error.abs().max() < 0.15  # sqrt(2 / draws) and the Fourier features leave 0.04
    assert found.mean(0).abs().max() < 5 * float(scale.max()) / draws**0.5


def test_force_draws_follow_the_seed(model, test_set):
    first, same, other = (next(model.force_slopes(test_set, 2, seed)) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.allclose(first, other, atol=1e-3)


def test_force_deviation_adds_the_noise_of_a_component(model):
    assert model.equations.probed_share == pytest.approx(15 / 54)
    found = model.force_deviation(torch.zeros(2, 3, dtype=torch.float64))
    torch.testing.assert_close(found, torch.full_like(found, (0.8 * RIDGE * 15 / 54 / 0.05) ** 0.5))
    with pytest.raises(ValueError, match="trained without forces"):
        replace(model, force_amplitude=None).force_deviation(torch.zeros(2, 3, dtype=torch.float64))


def test_what_is_kept_gives_the_same_bits(model, test_set):
    restored = SparseModel.restore(model.tensors(), model.numbers(), IDENTITY, KERNEL, W, "sum")
    for a, b in zip(evaluated(model, test_set), evaluated(restored, test_set), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(*(next(m.force_slopes(test_set, 1)) for m in (model, restored)))
    assert restored.weights == WEIGHTS
    assert restored.equations.n_force_rows == model.equations.n_force_rows


# The whole way, through the backbone.


@pytest.fixture(scope="module")
def fitted(alloys):
    pytest.importorskip("sevenn")
    options = {"layers": ("interaction_1",), "length_scale": 12.0, "species_weight": 0.5, "prior": "backbone"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return KernelPotential("sevennet-0", force_weight=1e-3, ridge=1e-4, inducing=40, **options).fit(alloys[:14])


def test_forces_are_derivatives_of_the_energy(fitted, alloys):
    (prediction,) = fitted.predict([alloys[25]])
    step = 4e-3  # float32 features: small steps drown in rounding
    for atom, axis in ((0, 0), (2, 1)):
        moved = [alloys[25].copy(), alloys[25].copy()]
        moved[0].positions[atom, axis] += step
        moved[1].positions[atom, axis] -= step
        up, down = (p.energy for p in fitted.predict(moved, forces=False))
        assert prediction.forces[atom, axis] == pytest.approx(-(up - down) / (2 * step), abs=6e-3)


def test_every_deviation_grows_away_from_the_data(fitted, alloys):
    far = alloys[0].copy()
    far.positions[0] += 0.9
    near, away = fitted.predict([alloys[0], far], uncertainty=True, atomic_uncertainty=True, force_uncertainty=True)
    assert away.energy_std > 2 * near.energy_std
    assert away.atomic_energies_std[0] > 2 * near.atomic_energies_std[0]
    assert np.linalg.norm(away.forces_std) > 2 * np.linalg.norm(near.forces_std)
    assert near.atomic_energies_std.shape == (len(far),)
    assert near.forces_std.shape == (len(far), 3)


def test_saved_and_loaded_predict_the_same_bits(fitted, alloys, tmp_path):
    fitted.save(tmp_path / "m.safetensors")
    loaded = KernelPotential.load(tmp_path / "m.safetensors")
    wanted = {"uncertainty": True, "atomic_uncertainty": True, "force_uncertainty": True}
    before, after = (p.predict([alloys[33]], **wanted)[0] for p in (fitted, loaded))
    for name in ("energy", "energy_std", "forces", "stress", "atomic_energies", "atomic_energies_std", "forces_std"):
        assert np.array_equal(getattr(before, name), getattr(after, name)), name
