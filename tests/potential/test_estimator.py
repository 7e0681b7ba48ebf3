"""The manners of a scikit-learn estimator."""

import inspect
import warnings

import numpy as np
import pytest

import mekrr
from mekrr import KernelPotential
from mekrr.declared import declared
from mekrr.errors import DataError
from mekrr.potential import FitOptions, Prediction
from mekrr.potential.given import given_labels

QUIET = {"layers": ("interaction_1",), "length_scale": 12.0, "species_weight": 0.5, "ridge": 1e-4, "prior": "backbone"}


def test_the_constructor_names_every_option_with_its_default():
    named = {name: p.default for name, p in inspect.signature(KernelPotential).parameters.items()}
    options = {one.name: one.default for one in declared(FitOptions)}
    assert {name: named.get(name) for name in options} == options
    assert all(p.kind is not p.VAR_KEYWORD for p in inspect.signature(KernelPotential).parameters.values())


def test_parameters_are_read_set_and_refused():
    potential = KernelPotential("sevennet-0", prior="none", seed=3)
    assert potential.get_params()["seed"] == 3
    assert potential.set_params(seed=4, layers="interaction_0") is potential
    assert (potential.options.seed, potential.options.layers) == (4, ("interaction_0",))
    assert potential.get_params()["layers"] == "interaction_0"
    with pytest.raises(ValueError, match=r"no parameter is called sed; there are backbone, cache"):
        potential.set_params(sed=4)
    with pytest.raises(ValueError, match="unknown prior"):
        potential.set_params(prior="flat")
    assert potential.options.prior == "none"


def test_clone_and_cross_validation(alloys):
    base = pytest.importorskip("sklearn.base")
    from sklearn.model_selection import cross_val_score

    potential = KernelPotential("sevennet-0", solver="exact", **QUIET)
    again = base.clone(potential)
    assert again.get_params() == potential.get_params()
    assert not hasattr(again, "fitted_")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = cross_val_score(potential, alloys[:12], cv=3, error_score="raise")
        energies = [a.get_potential_energy() for a in alloys[:12]]
        bare = [a.copy() for a in alloys[:12]]
        beside = cross_val_score(potential, bare, np.array(energies), cv=3, error_score="raise")
    np.testing.assert_array_equal(scores, beside)
    assert scores.max() > 0.5
    assert np.isfinite(scores).all()


def test_one_structure_gives_one_prediction(potential, alloys):
    one = potential.predict(alloys[30])
    assert isinstance(one, Prediction)
    (many,) = potential.predict([alloys[30]])
    assert one.energy == many.energy
    np.testing.assert_array_equal(one.forces, many.forces)


def test_the_score_is_the_share_of_variance(potential, alloys):
    test = alloys[30:]
    y = np.array([a.get_potential_energy() / len(a) for a in test])
    found = np.array([p.energy / len(a) for p, a in zip(potential.predict(test), test, strict=True)])
    expected = 1 - np.sum((found - y) ** 2) / np.sum((y - y.mean()) ** 2)
    assert potential.score(test) == pytest.approx(expected, abs=1e-12)
    bare = test[0].copy()
    with pytest.raises(DataError, match="no energy to compare with"):
        potential.score([bare])


def test_the_text_shows_what_was_given_and_chosen(potential):
    assert repr(KernelPotential("chgnet-0.3.0", seed=2)) == "KernelPotential(backbone='chgnet-0.3.0', seed=2)"
    text = repr(potential)
    assert text.startswith(
        "KernelPotential(backbone='sevennet-0', layers=('interaction_1',), tangent_share=0.0), fitted"
    )
    assert f"prior {potential.fitted_.prior.name}" in text
    assert "30 structures of Au Cu" in text


def test_public_names_are_listed_before_they_are_imported():
    assert set(mekrr.__all__) <= set(dir(mekrr))


def test_labels_beside_the_structures(alloys):
    bare = [a.copy() for a in alloys[:4]]
    energies = [a.get_potential_energy() for a in alloys[:4]]
    forces = [a.get_forces() for a in alloys[:3]] + [None]
    found = given_labels(bare, energies, forces, [np.eye(3), np.arange(6.0), None, None])
    assert [s.energy for s in found] == energies
    np.testing.assert_array_equal(found[1].forces, forces[1])
    assert found[3].forces is None
    assert found[1].stress[0, 1] == 5.0


@pytest.mark.parametrize(
    ("labels", "error", "words"),
    [
        ({"energies": print}, TypeError, "goes by its name: progress="),
        ({"energies": [1.0, 2.0]}, ValueError, r"each of the 3 structures .* shape \(2,\)"),
        ({"energies": [1.0, np.nan, 2.0]}, ValueError, "not finite, the first at index 1"),
        ({"energies": "abc"}, TypeError, "must be numbers"),
        ({"energies": [1, 2, 3], "forces": [np.zeros((2, 3))] * 3}, ValueError, r"forces\[0\].*got \(2, 3\)"),
        ({"energies": [1, 2, 3], "forces": [None]}, ValueError, "forces must be one array for each of the 3"),
        ({"energies": [1, 2, 3], "stress": [np.zeros(5)] * 3}, ValueError, r"stress\[0\].*got \(5,\)"),
        ({"forces": [None] * 3}, TypeError, "without energies"),
    ],
)
def test_labels_that_are_none_are_named(alloys, labels, error, words):
    with pytest.raises(error, match=words):
        KernelPotential("sevennet-0").fit([a.copy() for a in alloys[:3]], **labels)
