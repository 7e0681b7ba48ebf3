"""Anchors: asked for no correction by features, and no data."""

import warnings

import numpy as np
import pytest
import torch

from mekrr import KernelPotential
from mekrr.data import as_structures
from mekrr.errors import DataError
from mekrr.features import probe
from mekrr.features.extraction import extract
from mekrr.files import atomic_path
from mekrr.potential.anchors import RATTLE, WEIGHT, anchor_structures

CHOSEN = {"layers": ("interaction_1",), "length_scale": 12.0, "species_weight": 0.5, "prior": "backbone"}
CHOSEN |= {"force_weight": 1e-3, "ridge": 1e-5, "inducing": 40, "probes": 4}


def fit(structures, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return KernelPotential("sevennet-0", **(CHOSEN | options)).fit(structures)


def solution(model):
    """The whitened coefficients that the stored equations have, and those of their part on features."""
    total = model.equations.total if model.anchors is None else model.equations.total + model.anchors
    return torch.linalg.inv(total + model.ridge * torch.eye(len(total), dtype=torch.float64))


def test_structures_are_rattled_and_ask_for_nothing(alloys):
    structures = as_structures(alloys[:12])
    found = anchor_structures("auto", structures, seed=3)
    again = anchor_structures("auto", structures, seed=3)
    assert len(found) == 20
    moves = []
    for one, same in zip(found, again, strict=True):
        np.testing.assert_array_equal(one.atoms.positions, same.atoms.positions)
        assert (one.energy, one.weight, one.stress) == (0.0, WEIGHT, None)
        assert not one.forces.any()
        origin = min(
            (s.atoms for s in structures if (s.species.tolist() == one.species.tolist())),
            key=lambda a: np.abs(a.positions - one.atoms.positions).max(),
        )
        moves.append((one.atoms.positions - origin.positions).ravel())
    assert np.concatenate(moves).std() == pytest.approx(RATTLE, rel=0.1)
    assert anchor_structures("none", structures, seed=3) == []


def test_a_file_of_anchors(alloys, tmp_path):
    import ase.io

    structures = as_structures(alloys[:12])
    bare = [a.copy() for a in alloys[20:23]]
    ase.io.write(tmp_path / "a.extxyz", bare)
    found = anchor_structures(str(tmp_path / "a.extxyz"), structures, seed=0)
    np.testing.assert_allclose(found[1].atoms.positions, bare[1].positions, atol=1e-7)
    bare[2].numbers[0] = 8
    ase.io.write(tmp_path / "b.extxyz", bare)
    with pytest.raises(DataError, match=r"anchor 2 has elements with atomic numbers \[8\]"):
        anchor_structures(str(tmp_path / "b.extxyz"), structures, seed=0)
    with pytest.raises(DataError, match="does not exist"):
        anchor_structures(str(tmp_path / "missing.extxyz"), structures, seed=0)


@pytest.fixture(scope="module")
def training(alloys):
    return alloys[:16:2]  # of four atoms each


@pytest.fixture(scope="module")
def anchored(training):
    pytest.importorskip("sevenn")
    return fit(training, tangent_share=0.6, exact_forces=False)


@pytest.fixture(scope="module")
def free(training):
    pytest.importorskip("sevenn")
    return fit(training, tangent_share=0.6, exact_forces=False, anchors="none")


def test_their_rows_enter_the_equations_of_the_features_alone(anchored, free, training):
    """Against rows made one by one, and the normal equations solved again."""
    model, backbone, layers = anchored.fitted_.model, anchored.backbone, anchored.fitted_.layers
    structures = anchor_structures("auto", as_structures(training), 0)
    assert anchored.fitted_.record.solver.n_anchors == len(structures) == 20
    x = model.scaler(extract([s.atoms for s in structures], backbone, layers).environments)
    store = probe(structures, backbone, layers, 4)
    features = model.basis.features
    gram = torch.zeros_like(model.anchors)
    for t, s in enumerate(structures):
        derivatives = store(t)
        psi = 0.4**0.5 * features.rows(x[torch.tensor([t])], model.scaler.derivative(derivatives.features))
        weights = torch.full((len(psi),), model.weights.force, dtype=torch.float64)
        weights[0] = 1 / len(s)
        gram[: len(features), : len(features)] += WEIGHT * psi.T @ (psi * weights[:, None])
    torch.testing.assert_close(model.anchors, gram, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(model.equations.total, free.fitted_.model.equations.total)
    prior = free.fitted_.prior
    assert anchored.fitted_.prior.shifts == prior.shifts
    gamma = torch.tensor([1.0, -prior.factor, *(-prior.shifts[z] for z in sorted(prior.shifts))], dtype=torch.float64)
    c = solution(model) @ (model.equations.total_moments @ gamma)
    torch.testing.assert_close(model.coefficients, model.basis.coefficients(c), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(model.tangent.weights, model.basis.weights(c), rtol=1e-6, atol=1e-9)


def test_the_part_on_features_shrinks_where_anchors_are_and_the_deviation_stays(anchored, free, training):
    far = [s.atoms for s in anchor_structures("auto", as_structures(training), 0)]
    sizes, widths = [], []
    for potential in (anchored, free):
        fitted = potential.fitted_
        x = fitted.scaler(extract(far, potential.backbone, fitted.layers).environments)
        sizes.append(float(fitted.function(x, slopes=False).atomic_energies.square().mean().sqrt()))
        widths.append([p.energy_std for p in potential.predict(far[:6], forces=False, uncertainty=True)])
    assert sizes[0] < 0.8 * sizes[1]
    ratio = np.array(widths[0]) / np.array(widths[1])
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-6)  # one posterior, calibrated anew
    assert 0.5 < ratio.mean() < 2.0


def test_files_and_updates_keep_them(anchored, alloys, tmp_path):
    anchored.save(tmp_path / "m.safetensors")
    loaded = KernelPotential.load(tmp_path / "m.safetensors")
    torch.testing.assert_close(loaded.fitted_.model.anchors, anchored.fitted_.model.anchors, rtol=0, atol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded.update(alloys[17:18])
    model, prior = loaded.fitted_.model, loaded.fitted_.prior
    gamma = torch.tensor([1.0, -prior.factor, *(-prior.shifts[z] for z in sorted(prior.shifts))], dtype=torch.float64)
    c = solution(model) @ (model.equations.total_moments @ gamma)
    torch.testing.assert_close(model.coefficients, model.basis.coefficients(c), rtol=1e-6, atol=1e-9)


def test_full_forces_with_anchors_change_nothing_when_updated_with_nothing(training):
    """The moments that are kept are those whose solution, anchors included, is the full one."""
    pytest.importorskip("sevenn")
    potential = fit(training[:4], tangent_share=0.6)
    model, prior = potential.fitted_.model, potential.fitted_.prior
    gamma = torch.tensor([1.0, -prior.factor, *(-prior.shifts[z] for z in sorted(prior.shifts))], dtype=torch.float64)
    c = solution(model) @ (model.equations.total_moments @ gamma)
    torch.testing.assert_close(model.coefficients, model.basis.coefficients(c), rtol=1e-5, atol=1e-8)


def test_by_default_only_beside_the_tangent_kernel_and_never_without_effect(alloys, training, tmp_path):
    pytest.importorskip("sevenn")
    assert fit(training[:4], tangent_share=0.0).fitted_.model.anchors is None
    import ase.io

    with atomic_path(tmp_path / "a.extxyz") as path:
        ase.io.write(path, [a.copy() for a in alloys[20:22]], format="extxyz")
    given = fit(training[:4], tangent_share=0.0, anchors=str(tmp_path / "a.extxyz"))
    assert given.fitted_.record.solver.n_anchors == 2
    assert float(given.fitted_.model.anchors.diagonal().min()) >= 0.0 < float(given.fitted_.model.anchors.trace())
    with pytest.raises(ValueError, match="--anchors: without effect here, since no forces are fitted"):
        KernelPotential("sevennet-0", forces=False, anchors=str(tmp_path / "a.extxyz")).fit(training)
    with pytest.raises(ValueError, match="anchors is empty"):
        KernelPotential("sevennet-0", anchors="")
