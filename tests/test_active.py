import numpy as np
import pytest
import torch
from ase.build import bulk

from mekrr import DataError, KernelPotential, MekrrWarning
from mekrr.active import METHODS, Joint, condition, farthest, select
from mekrr.features import Environments, extract

pytest.importorskip("sevenn")

FIXED = {"layers": "interaction_1", "prior": "backbone", "length_scale": 12.0, "species_weight": 0.5, "ridge": 1e-4}
FIXED |= {"tangent_share": 0.0}


@pytest.fixture(scope="module")
def sparse(alloys):
    return KernelPotential("sevennet-0", **FIXED, inducing=40, force_weight=1e-4, exact_forces=False).fit(alloys[:8])


@pytest.fixture(scope="module")
def exact(alloys):
    return KernelPotential("sevennet-0", **FIXED, solver="exact", forces=False).fit(alloys[:8])


@pytest.fixture(scope="module")
def mean(alloys):
    return KernelPotential("sevennet-0", **FIXED, embedding="mean").fit(alloys[:8])


@pytest.fixture(params=["sparse", "exact", "mean"])
def fitted(request):
    return request.getfixturevalue(request.param)


def environments(potential, atoms):
    return potential.fitted_.scaler(extract(atoms, potential.backbone, potential.fitted_.layers).environments)


def test_the_first_deviation_is_what_predict_says(fitted, alloys):
    found = select(fitted, alloys[8:20], 12)
    predicted = fitted.predict([alloys[8:20][i] for i in found.indices], forces=False, uncertainty=True)
    np.testing.assert_allclose(found.energy_std, [p.energy_std for p in predicted], rtol=1e-5)
    assert sorted(found.indices) == list(range(12))
    assert float(found.select_std[0]) == pytest.approx(float(found.energy_std[0]))
    assert bool((found.select_std <= found.energy_std * (1 + 1e-12)).all())


def test_conditional_variances_are_those_of_the_joint_gaussian(fitted, alloys):
    x = environments(fitted, alloys[8:16])
    joint = Joint.of_structures(fitted.fitted_.model, x)
    C = joint.covariance(torch.arange(8))
    torch.testing.assert_close(C, C.T)
    torch.testing.assert_close(C.diagonal(), joint.variance, rtol=1e-8, atol=1e-12)
    order, variances = condition(joint, 8)
    for k, t in enumerate(order):
        before = order[:k]
        G = C[before][:, before] + torch.diag(joint.noise[before])
        c = C[before, t]
        wanted = C[t, t] - c @ torch.linalg.solve(G, c) if k else C[t, t]
        assert float(variances[k]) == pytest.approx(float(wanted), rel=2e-2, abs=1e-3 * float(joint.noise[t]))
        scores = {
            s: float(C[s, s] - (C[before, s] @ torch.linalg.solve(G, C[before, s]) if k else 0)) for s in range(8)
        }
        left = [s for s in range(8) if s not in before]
        best = max(scores[s] / float(joint.noise[s]) for s in left)
        assert scores[t] / float(joint.noise[t]) > best - 0.02


def test_the_covariance_is_the_posterior_of_the_training_structures(exact, alloys):
    model = exact.fitted_.model
    x, training = environments(exact, alloys[8:12]), model.centres
    K = [model.kernel.gram(a, b) for a, b in ((x, x), (x, training), (training, training))]
    wanted = K[0] - K[1] @ torch.linalg.solve(K[2] + torch.diag(model.noise(training.n_atoms)), K[1].T)
    found = Joint.of_structures(model, x).covariance(torch.arange(4))
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-7)


def test_atoms_add_up_to_structures(sparse, exact, alloys):
    for potential in (sparse, exact):
        model, x = potential.fitted_.model, environments(potential, alloys[8:11])
        atoms, structures = Joint.of_atoms(model, x), Joint.of_structures(model, x)
        C = atoms.covariance(torch.arange(len(x.species)))
        sums = [C[atoms.owner == t][:, atoms.owner == t].sum() for t in range(3)]
        torch.testing.assert_close(torch.stack(sums), structures.variance, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(C.diagonal(), atoms.variance, rtol=1e-6, atol=1e-9)


def test_a_near_copy_of_a_chosen_structure_comes_last(fitted, alloys):
    twin = alloys[20].copy()
    twin.positions += 1e-4
    twin.positions[0] += 1e-3
    found = select(fitted, [alloys[20], twin, *alloys[21:24]], 5)
    ranks = sorted(found.indices.index(i) for i in (0, 1))
    alone = float(found.energy_std[ranks[1]])
    assert float(found.select_std[ranks[1]]) < alone
    joint = Joint.of_structures(fitted.fitted_.model, environments(fitted, [alloys[20], twin]))
    _, variances = condition(joint, 2)
    assert float(variances[1]) < float(joint.noise.max()) * 1.05  # what a label's noise leaves


def test_a_label_of_a_repeated_cell_says_more_than_one_of_the_cell(exact, alloys):
    """Four times the variance at twice the noise: errors of equal atoms are shared."""
    x = environments(exact, [alloys[8], alloys[8].repeat((2, 1, 1))])
    joint = Joint.of_structures(exact.fitted_.model, x)
    assert float(joint.variance[1] / joint.variance[0]) == pytest.approx(4.0, rel=1e-3)
    assert float(joint.noise[1] / joint.noise[0]) == 2.0
    assert condition(joint, 1)[0] == [1]


def test_farthest_starts_with_a_stranger_and_spreads(exact):
    width = exact.fitted_.function.centres.features.shape[1]
    h = torch.zeros(4, width, dtype=torch.float64)
    h[0], h[1], h[2] = 500.0, 501.0, -400.0
    x = Environments(h, torch.full((4,), 29), torch.ones(4, dtype=torch.int64))
    assert farthest(exact.fitted_.model, x, 2) == [1, 2]
    strangers = Environments(h, torch.tensor([29, 29, 29, 47]), torch.ones(4, dtype=torch.int64))
    assert farthest(exact.fitted_.model, strangers, 1) == [3]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_chooses_different_structures(sparse, alloys, method):
    found = select(sparse, alloys[8:18], 6, method)
    assert len(set(found.indices)) == 6
    assert found.indices == select(sparse, alloys[8:18], 6, method).indices
    assert bool((found.select_std <= found.energy_std * (1 + 1e-9)).all())


def test_random_follows_the_seed(sparse, alloys):
    orders = {select(sparse, alloys[8:28], 6, "random", seed).indices for seed in range(4)}
    assert len(orders) == 4


def test_training_structures_and_copies_are_left_out(sparse, alloys):
    found = select(sparse, [alloys[3], alloys[10], alloys[11], alloys[10].copy()], 2)
    assert (found.skipped.training, found.skipped.repeated) == ((0,), (3,))
    assert sorted(found.indices) == [1, 2]
    with pytest.raises(DataError, match=r"only 1 of the pool of 2 can be chosen \(left out: 1 in the training set\)"):
        select(sparse, [alloys[3], alloys[10]], 2)


def test_unknown_elements_are_refused_or_left_out(sparse, alloys):
    stranger = bulk("Es", "fcc", a=5.0)
    with pytest.raises(DataError, match="Es: elements that the potential cannot treat, in 1 of 2"):
        select(sparse, [stranger, alloys[10]], 1)
    found = select(sparse, [stranger, alloys[10]], 1, skip_unknown=True)
    assert (found.indices, found.skipped.unknown) == ((1,), (0,))


def test_elements_without_training_data_are_named(sparse, alloys):
    with pytest.warns(MekrrWarning, match="Ag: not in the training data; structures with new elements have large"):
        found = select(sparse, [alloys[10], bulk("Ag")], 1)
    assert found.indices == (1,)


def test_an_element_the_prior_does_not_cover_is_unknown(alloys):
    options = FIXED | {"prior": "composition"}
    potential = KernelPotential("sevennet-0", **options, solver="exact", forces=False).fit(alloys[:8])
    with pytest.raises(DataError, match="Ag: elements that the potential cannot treat"):
        select(potential, [bulk("Ag")], 1)


def test_wrong_arguments_are_refused(sparse, mean, alloys):
    with pytest.raises(ValueError, match="unknown method 'best'; choose one of variance, atoms, farthest, random"):
        select(sparse, alloys[8:10], 1, "best")
    with pytest.raises(ValueError, match="at least one structure must be chosen; got 0"):
        select(sparse, alloys[8:10], 0)
    with pytest.raises(ValueError, match="mean embedding has no atomic energies"):
        select(mean, alloys[8:10], 1, "atoms")
