"""Every method that needs no peer, on alloys with EMT labels."""

import numpy as np
import pytest
import torch

from mekrr.backbones import load_backbone
from mekrr.data import as_structures
from mekrr.features import Scaler, extract
from mekrr_comparison.method import METHODS, Setup, check_method, method_class
from mekrr_comparison.own import UNTRAINED, Exact
from mekrr_comparison.simple import RIDGES, BackboneAsItIs, BackboneShifted, Linear
from mekrr_comparison.surface import surface_of
from mekrr_comparison.untrained import untrained

pytest.importorskip("sevenn", reason="mekrr[sevennet] is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def parts(alloys):
    structures = as_structures(alloys)
    return structures[:12], structures[20:24]


def fitted(kind, parts, **options):
    method = kind(Setup(options=options))
    method.fit(parts[0], [], None)
    return method


def finite_difference(method, atoms, atom, axis, step=0.01):
    moved = []
    for sign in (1, -1):
        copy = atoms.copy()
        copy.positions[atom, axis] += sign * step
        moved.append(copy)
    plus, minus = method.predict(moved)
    return -(plus.energy - minus.energy) / (2 * step)


@pytest.mark.parametrize("kind", [BackboneAsItIs, BackboneShifted, Linear])
def test_forces_are_derivatives_and_energies_add_up(kind, parts):
    method = fitted(kind, parts)
    atoms = parts[1][0].atoms
    prediction = method.predict([atoms])[0]
    assert prediction.energy == pytest.approx(prediction.atomic_energies.sum())
    assert prediction.stress.shape == (3, 3)
    assert prediction.forces[0, 1] == pytest.approx(finite_difference(method, atoms, 0, 1), abs=0.02)


def test_shifts_leave_the_forces_alone_and_lower_the_error(parts):
    bare, shifted = fitted(BackboneAsItIs, parts), fitted(BackboneShifted, parts)
    atoms = [s.atoms for s in parts[1]]
    for one, other in zip(bare.predict(atoms), shifted.predict(atoms), strict=True):
        np.testing.assert_allclose(one.forces, other.forces, atol=1e-12)
    assert rmse(shifted, parts[1]) < rmse(bare, parts[1])


def rmse(method, structures):
    predictions = method.predict([s.atoms for s in structures])
    errors = [(p.energy - s.energy) / len(s) for p, s in zip(predictions, structures, strict=True)]
    return float(np.sqrt(np.mean(np.square(errors))))


def test_linear_ridge_is_chosen_by_true_leave_one_out(parts):
    """Against refits without each structure, scaling and composition held fixed."""
    method = fitted(Linear, parts)
    best = method.best
    found = extract([s.atoms for s in parts[0]], method.backbone, best.layers).environments
    x = Scaler.fit(found.features, [method.backbone.layer_widths[name] for name in best.layers])(found)
    mean = torch.stack([rows.mean(0) for rows in x.features.split(x.n_atoms.tolist())])
    energies = torch.tensor([s.energy for s in parts[0]], dtype=torch.float64)
    shifts = torch.stack([method.shifts.shift_energies(torch.as_tensor(s.species)).sum() for s in parts[0]])
    y = (energies - shifts) / x.n_atoms
    penalty = best.ridge * float(torch.linalg.svdvals(mean - mean.mean(0))[0]) ** 2
    errors = []
    for t in range(len(y)):
        rest = torch.arange(len(y)) != t
        centre, offset = mean[rest].mean(0), y[rest].mean()
        A = mean[rest] - centre
        w = torch.linalg.solve(A.T @ A + penalty * torch.eye(A.shape[1]), A.T @ (y[rest] - offset))
        errors.append(float(y[t] - offset - (mean[t] - centre) @ w))
    assert best.loo_rmse == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-6)
    assert best.ridge in RIDGES


def test_untrained_features_are_other_ones_and_repeat():
    atoms = [s.atoms for s in as_structures(_water())]
    trained = load_backbone("sevennet-0")
    one, again, other = (untrained("sevennet-0", seed) for seed in (0, 0, 1))
    layers = ("interaction_1",)
    h, same, different, known = (extract(atoms, b, layers).environments.features for b in (one, again, other, trained))
    assert torch.equal(h, same)
    for features in (different, known):
        assert not torch.allclose(h, features, atol=1e-3)
    assert bool(h.isfinite().all())
    assert float(h.std()) > 1e-6
    assert not one.has_energy
    assert len({b.identity for b in (one, other, trained)}) == 3


def test_the_trained_network_stays_as_it_is():
    atoms = [s.atoms for s in as_structures(_water())]
    before = extract(atoms, load_backbone("sevennet-0"), ("interaction_2",)).environments.features
    untrained("sevennet-0", 0)
    assert torch.equal(before, extract(atoms, load_backbone("sevennet-0"), ("interaction_2",)).environments.features)


@pytest.mark.parametrize("name", ["chgnet-0.3.0"])
def test_other_networks_are_shuffled_too(name):
    pytest.importorskip("chgnet", reason="mekrr[chgnet] is not installed")
    atoms = [s.atoms for s in as_structures(_water())]
    trained = load_backbone(name)
    layers = trained.layers[1:2]
    h, known = (extract(atoms, b, layers).environments.features for b in (untrained(name, 0), trained))
    assert not torch.allclose(h, known, atol=1e-3)


def _water():
    from ase.build import molecule

    from support import labelled

    return [labelled(molecule("H2O"))]


@pytest.mark.parametrize("embedding", ["sum", "mean"])
def test_the_surface_passes_through_the_fit(embedding, parts):
    """At the chosen length scale and ridge, test and leave-one-out error are those of the potential."""
    method = fitted(Exact, parts, layers=("interaction_1",), embedding=embedding, length_scale=10.0, ridge=1e-3)
    surface = surface_of(method, parts[1])
    row = surface["length_scales"].index(surface["chosen"]["length_scale"])
    column = surface["ridges"].index(surface["chosen"]["ridge"])
    assert surface["test_rmse"][row][column] == pytest.approx(1000 * rmse(method, parts[1]), rel=1e-3)
    loo = method.chosen()["leave_one_out"]["rmse_mev_per_atom"]
    assert surface["loo_rmse"][row][column] == pytest.approx(loo, rel=1e-6)


def test_the_surface_is_for_exact_potentials(parts):
    with pytest.raises(ValueError, match="got linear"):
        surface_of(fitted(Linear, parts), parts[1])


def test_untrained_potentials_fit_and_unknown_options_are_named(parts):
    method = fitted(Exact, parts, layers=("interaction_1",), prior="composition", **{UNTRAINED: True})
    assert np.isfinite(rmse(method, parts[1]))
    assert method.settings()[UNTRAINED] is True
    with pytest.raises(ValueError, match="no fit option nonsense"):
        fitted(Exact, parts, nonsense=1)


def test_names_are_found_or_refused():
    for name in METHODS:
        if ".peers" not in METHODS[name]:
            assert method_class(name).name == name
            assert method_class(name)(Setup()).settings()
    with pytest.raises(ValueError, match="choose from mekrr"):
        check_method("nonsense")
