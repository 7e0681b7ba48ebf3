"""The kernel part of a potential against the formulas written out, then the whole way through the backbone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mekrr import KernelPotential
from mekrr.features import Environments, Scaler
from mekrr.kernels import Basis, GaussianKernel, Pooling, StructureKernel, energy_noise
from mekrr.potential.model import Model
from mekrr.solve import Factor, NormalEquations, Observation, RowWeights
from support import random_environments

KERNEL, RIDGE = StructureKernel.weighted(GaussianKernel(1.3), 0.4), 1e-3
MEAN = StructureKernel.weighted(GaussianKernel(1.3), 0.4, "mean")
WEIGHTS = RowWeights(force=0.05, stress=0.01)
AMPLITUDE = 1.7
IDENTITY = Scaler(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))


def atoms_of(x, rows):
    return Environments(x.features[rows], x.species[rows], torch.ones_like(rows))


def solved(x, energies, centres, kernel=KERNEL, derivatives=None, force_labels=None):
    """The solution for given energies, prior zero; each structure of the centres is a function of the basis."""
    basis = Basis.of(centres, kernel, relative=1e-14 if centres is x else 1e-10)
    observations = []
    for t in range(x.n_structures):
        moves = None if derivatives is None else derivatives[t]
        labels = energies[t, None] if moves is None else torch.cat([energies[t, None], force_labels[t]])
        psi, n = basis.rows(x[torch.tensor([t])], moves), x.n_atoms[t, None]
        noise = float(energy_noise(n.double(), kernel.embedding))
        observations.append(Observation(psi, labels[:, None], int(n), len(psi) - 1, 1.0, noise))
    equations = NormalEquations.of(observations, WEIGHTS)
    coefficients = basis.coefficients(Factor.of(equations).solve(equations.total_moments[:, 0], RIDGE))
    solver = "exact" if centres is x else "sparse"
    force_amplitude = None if derivatives is None else 0.8
    return Model(
        solver, centres, IDENTITY, kernel, coefficients, equations, RIDGE, WEIGHTS, basis.jitter, AMPLITUDE,
        force_amplitude,
    )  # fmt: skip


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
    return solved(x, energies, atoms_of(x, torch.arange(0, 18, 2)), KERNEL, moves, labels)


@pytest.fixture
def test_set():
    return random_environments([3, 1, 6], 3, species=(1, 29), seed=7)


def evaluated(model, x):
    found = model.function(x, rows=True)
    totals = torch.zeros(x.n_structures, dtype=torch.float64).index_add_(0, x.structure, found.atomic_energies)
    return totals, model.energy_deviation(x, found.rows)


def written_out(x, energies, kernel, y):
    """Kernel ridge regression: mean and calibrated deviation of the energies of y."""

    def total(a, b):
        scales = [Pooling.of(part, kernel.embedding).scale for part in (a, b)]
        return kernel.gram(a, b) * scales[0][:, None] * scales[1]

    def noise(part):
        return RIDGE * energy_noise(part.n_atoms.double(), kernel.embedding)

    G, k = total(x, x) + torch.diag(noise(x)), total(y, x)
    variance = total(y, y).diagonal() - (k * torch.linalg.solve(G, k.T).T).sum(1) + noise(y)
    return k @ torch.linalg.solve(G, energies), (AMPLITUDE * variance).sqrt()


@pytest.mark.parametrize("case", ["structures", "structures, mean", "all atoms"])
def test_energies_alone_are_kernel_ridge_regression(x, energies, test_set, case):
    """With the structures as their own basis, and with all of their atoms, in mean and deviation."""
    kernel = MEAN if case.endswith("mean") else KERNEL
    centres = atoms_of(x, torch.arange(18)) if case == "all atoms" else x
    model = solved(x, energies, centres, kernel)
    for part in (test_set, x):
        for found, expected in zip(evaluated(model, part), written_out(x, energies, kernel, part), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_deviations_are_at_least_the_noise_and_the_prior_far_away(model, x, test_set):
    _, deviation = evaluated(model, test_set)
    assert (deviation.square() >= AMPLITUDE * RIDGE * test_set.n_atoms).all()
    far = test_set.with_features(test_set.features + 50.0)
    together = KERNEL.gram(far).diagonal() + RIDGE * far.n_atoms
    torch.testing.assert_close(evaluated(model, far)[1], (AMPLITUDE * together).sqrt())
    assert (evaluated(model, far)[1] > deviation).all()


def test_deviations_grow_away_from_the_data(model, x):
    move = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    along = [evaluated(model, x.with_features(x.features + size * move))[1] for size in (0.0, 1.5, 3.0)]
    assert (along[0] < along[1]).all()
    assert (along[1] < along[2]).all()


def test_an_atom_alone_has_the_deviation_of_its_structure(model, test_set):
    torch.testing.assert_close(model.atomic_deviation(test_set), evaluated(model, test_set.singletons())[1])


def test_the_posterior_has_the_larger_amplitude_and_the_noise_that_of_energies(model, test_set):
    """Energies and forces are of one function; of which energies may tell less."""
    own, noise = evaluated(model, test_set)[1].square(), RIDGE * test_set.n_atoms
    wider = replace(model, force_amplitude=3 * AMPLITUDE)
    expected = 3 * (own - AMPLITUDE * noise) + AMPLITUDE * noise
    torch.testing.assert_close(evaluated(wider, test_set)[1].square(), expected)
    atoms = test_set.singletons()
    torch.testing.assert_close(wider.atomic_deviation(test_set), evaluated(wider, atoms)[1])
    for narrower in (0.1 * AMPLITUDE, None):
        torch.testing.assert_close(evaluated(replace(model, force_amplitude=narrower), test_set)[1].square(), own)


def test_more_data_leave_less_open(model, x, test_set):
    doubled = replace(model, equations=model.equations + model.equations)
    assert (evaluated(doubled, test_set)[1] < evaluated(model, test_set)[1]).all()


def raw_precision(model):
    """Of the coefficients of the functions themselves: K_gg + L A L' / ridge."""
    L = model.basis.features.L
    return L @ model.equations.total @ L.T / RIDGE + L @ L.T


def test_covariance_is_the_posterior_of_the_coefficients(model, test_set):
    """Against the inverses written out with raw rows."""
    rows = model.function(test_set, rows=True).rows
    explained, left_open = model.posterior_factors(model.basis.features.whiten(rows))
    L = model.basis.features.L
    torch.testing.assert_close(explained @ explained.T, rows @ torch.linalg.solve(L @ L.T, rows.T))
    expected = rows @ torch.linalg.solve(raw_precision(model), rows.T)
    torch.testing.assert_close(left_open @ left_open.T, expected, rtol=1e-6, atol=1e-9)
    own = KERNEL.diagonal(test_set)
    variance = own - explained.square().sum(1) + left_open.square().sum(1)
    torch.testing.assert_close(model.variance(own, model.basis.features.whiten(rows)), variance)


def test_force_draws_have_the_posterior_covariance(model, test_set):
    """Slopes over many draws against the mixed derivative of the posterior covariance function, by autograd."""
    one, draws = test_set[torch.tensor([0])], 500  # fifty at a time, each with Fourier features of its own
    L = model.basis.features.L
    R_inverse, C = torch.linalg.inv(L @ L.T), torch.linalg.inv(raw_precision(model))

    def covariance(h, g):
        h, g = one.with_features(h), one.with_features(g)
        left, right = (KERNEL.between_atoms(part, model.centres) for part in (h, g))
        return KERNEL.between_atoms(h, g) + left @ (C - R_inverse) @ right.T

    def summed_slope(h, g):
        """d/dh of the covariance between atoms i and j, as a function of g."""
        return torch.func.jacfwd(lambda a: covariance(a, g).sum())(h).flatten()

    expected = torch.func.jacfwd(lambda g: summed_slope(one.features, g))(one.features.clone()).reshape(9, 9)
    found = torch.stack([s.flatten() for seed in range(draws // 50) for s, _ in model.force_draws(one, 50, seed=seed)])
    scale = expected.diagonal().sqrt()
    error = (found.T @ found / draws - expected) / (scale[:, None] * scale[None, :])
    assert error.abs().max() < 0.2  # sqrt(2 / draws) leaves 0.063
    assert found.mean(0).abs().max() < 5 * float(scale.max()) / draws**0.5


def test_force_draws_follow_the_seed(model, test_set):
    first, same, other = (next(model.force_draws(test_set, 2, seed=seed))[0] for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.allclose(first, other, atol=1e-3)


def test_force_deviation_adds_the_noise_of_a_component(model):
    assert model.equations.probed_share == pytest.approx(15 / 54)
    found = model.force_deviation(torch.zeros(2, 3, dtype=torch.float64))
    torch.testing.assert_close(found, torch.full_like(found, (0.8 * RIDGE * 15 / 54 / 0.05) ** 0.5))
    with pytest.raises(ValueError, match="trained without forces"):
        replace(model, force_amplitude=None).force_deviation(torch.zeros(2, 3, dtype=torch.float64))


# The whole way, through the backbone.


def test_forces_are_derivatives_of_the_energy(forces_potential, alloys):
    (prediction,) = forces_potential.predict([alloys[25]])
    step = 4e-3  # float32 features: small steps drown in rounding
    for atom, axis in ((0, 0), (2, 1)):
        moved = [alloys[25].copy(), alloys[25].copy()]
        moved[0].positions[atom, axis] += step
        moved[1].positions[atom, axis] -= step
        up, down = (p.energy for p in forces_potential.predict(moved, forces=False))
        assert prediction.forces[atom, axis] == pytest.approx(-(up - down) / (2 * step), abs=6e-3)


def test_every_deviation_grows_away_from_the_data(forces_potential, alloys):
    far = alloys[0].copy()
    far.positions[0] += 0.9
    near, away = forces_potential.predict(
        [alloys[0], far], uncertainty=True, atomic_uncertainty=True, force_uncertainty=True
    )
    assert away.energy_std > 2 * near.energy_std
    assert away.atomic_energies_std[0] > 2 * near.atomic_energies_std[0]
    assert np.linalg.norm(away.forces_std) > 2 * np.linalg.norm(near.forces_std)
    assert near.atomic_energies_std.shape == (len(far),)
    assert near.forces_std.shape == (len(far), 3)


def test_saved_and_loaded_predict_the_same_bits(forces_potential, alloys, tmp_path):
    forces_potential.save(tmp_path / "m.safetensors")
    loaded = KernelPotential.load(tmp_path / "m.safetensors")
    wanted = {"uncertainty": True, "atomic_uncertainty": True, "force_uncertainty": True}
    before, after = (p.predict([alloys[33]], **wanted)[0] for p in (forces_potential, loaded))
    for name in ("energy", "energy_std", "forces", "stress", "atomic_energies", "atomic_energies_std", "forces_std"):
        assert np.array_equal(getattr(before, name), getattr(after, name)), name
