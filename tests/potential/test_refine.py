"""Refined networks: one step against dense least squares, and the way from labels to a checkpoint."""

import warnings

import numpy as np
import pytest
import torch

from mekrr import KernelPotential, evaluate
from mekrr.backbones import changed
from mekrr.backbones.derivatives import energy_forces_stress
from mekrr.data import as_structures
from mekrr.errors import DataError
from mekrr.features import tangent_space
from mekrr.graph import build_batch
from mekrr.potential.linearised import Linearised, common
from mekrr.potential.network import Answers
from mekrr.potential.options import FitOptions
from mekrr.potential.refine import FIRST_DAMPING, Refiner
from mekrr.solve import RowWeights

pytestmark = pytest.mark.filterwarnings("ignore::mekrr.potential.MekrrWarning")
CHOSEN = {"layers": ("interaction_1",), "length_scale": 12.0, "species_weight": 0.5, "prior": "backbone"}
CHOSEN |= {"force_weight": 1e-3, "ridge": 1e-4, "inducing": 20, "tangent_share": 0.0, "probes": 2}


@pytest.fixture(scope="module")
def refined(alloys):
    pytest.importorskip("sevenn")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return KernelPotential("sevennet-0", refine=1, **CHOSEN).fit(alloys[:20])


def energy_errors(potential, frames):
    found = zip(potential.predict(frames, forces=False), frames, strict=True)
    return np.array([abs(p.energy - a.get_potential_energy()) for p, a in found])


def test_a_step_is_the_minimum_of_both_ridges(sevennet, alloys):
    """Against a dense solution in the coordinates of the weights themselves, prior refitted alike."""
    structures = as_structures(alloys[:5])
    space = tangent_space(structures, sevennet)
    w = 0.01 * torch.randn(space.width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    here = Linearised.at(w, sevennet, structures, space, 3, 0)
    weights, ridge, damping = RowWeights(1e-3, 0.01), 1e-2, 4.0
    found = here.solve(here.factor(weights), weights, ridge, damping, "backbone")
    centre = w * damping / (1 + damping)
    data, observations = here.about(centre)
    gamma = data.prior_columns("backbone").coefficients
    X, y = [], []
    for one, d in zip(observations, here.derivatives, strict=True):
        root = one.row_weights(weights).sqrt()
        X.append(d.tangent.double().sum(1) * root[:, None])
        # what is left of the labels once the linearised network at the centre is taken off
        own = torch.cat([data.extraction.energies[len(y), None], d.own + d.tangent.double().sum(1)[1:] @ (centre - w)])
        dft = torch.cat([data.energies[len(y), None], d.dft])
        shift = torch.zeros_like(dft)
        shift[0] = float(data.columns[len(y), 2:] @ gamma[2:])
        y.append((dft - own + shift) * root)
    X, y = torch.cat(X), torch.cat(y)
    K = X @ X.T + ridge * (1 + damping) * torch.eye(len(X), dtype=torch.float64)
    expected = centre + X.T @ torch.linalg.solve(K, y)
    # rows span the basis in half precision
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-3 * float(expected.abs().max()))


def test_the_linearised_network_is_its_tangent(sevennet, alloys):
    """own + T (w - w_k) follows the energy of the changed network, to first order."""
    structures = as_structures(alloys[:3])
    space = tangent_space(structures, sevennet)
    w = torch.zeros(space.width, dtype=torch.float64)
    here = Linearised.at(w, sevennet, structures, space, 2, 0)
    step = torch.randn(space.width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    step *= 0.02 / float(step.norm())
    moved = [here.about(sign * step)[0].extraction.energies - here.data.extraction.energies for sign in (1, -1)]
    for t, s in enumerate(structures):
        graph = build_batch([s.atoms], sevennet.cutoff)
        ends = [energy_forces_stress(changed(sevennet, common(space, sign * step)), graph).energies for sign in (1, -1)]
        assert float(moved[0][t] - moved[1][t]) == pytest.approx(float(ends[0] - ends[1]), rel=0.05, abs=2e-4)


def test_errors_of_a_network(sevennet, alloys):
    structures = as_structures(alloys[:4])
    answers = Answers.of(sevennet, structures)
    prior = answers.shifts(structures)
    found = answers.errors(prior, structures)
    forces = 0.0
    for t, s in enumerate(structures):
        own = energy_forces_stress(sevennet, build_batch([s.atoms], sevennet.cutoff))
        shift = sum(prior.shifts[int(z)] for z in s.species)
        assert float(found.energy[t]) == pytest.approx(s.energy - float(own.energies[0]) - shift, abs=1e-6)
        each = np.square(s.forces - own.forces.numpy())
        assert float(found.force[t]) == pytest.approx(each.mean(), rel=1e-4)  # in single precision
        forces += 1e-3 * each.sum() + float(found.energy[t]) ** 2 / len(s)
        if s.stress is not None:
            gap = (s.stress - own.stress[0].numpy()) * s.atoms.get_volume()
            strain = (gap[np.triu_indices(3)] ** 2).sum()
            assert float(found.strain[t]) == pytest.approx(strain, rel=1e-4)
            forces += 0.01 * strain / len(s)
    assert found.objective(RowWeights(1e-3, 0.01)) == pytest.approx(forces, rel=1e-4)


def test_a_round_lowers_what_it_says_it_lowers(sevennet, alloys):
    """Objectives are of the structures asked for, shifts fitted to them, at the weights that come back."""
    structures, held = as_structures(alloys[:5]), as_structures(alloys[5:8])
    options = FitOptions(probes=2)
    refiner = Refiner(sevennet, tangent_space(structures, sevennet), options, RowWeights(1e-2, 1.0), 1e-6)
    zero = torch.zeros(refiner.space.width, dtype=torch.float64)
    start = refiner.network(zero, structures)
    moved, _ = refiner.step(start, refiner.linearise(start, structures, 0), structures, FIRST_DAMPING)
    assert refiner.objective(moved) < 0.5 * refiner.objective(start)
    there = Answers.of(changed(sevennet, common(refiner.space, moved.w)), structures)
    expected = there.errors(there.shifts(structures), structures)
    torch.testing.assert_close(moved.errors.energy, expected.energy)
    torch.testing.assert_close(moved.errors.force, expected.force)
    assert refiner.objective(moved) == pytest.approx(
        expected.objective(refiner.weights) + 1e-6 * float(moved.w.square().sum())
    )
    own = Answers.of(moved.backbone, held)  # shifts are those of the structures learnt from
    torch.testing.assert_close(moved.errors_on(held).energy, own.errors(moved.prior, held).energy)
    assert refiner.round(moved, 1e-3, moved.errors_on(held)).objective == refiner.objective(moved)


@pytest.mark.slow
def test_errors_fall_and_the_potential_is_a_network(refined, alloys):
    record = refined.fitted_.record.refinement
    first, second = record.rounds
    assert second.objective < 0.5 * first.objective
    assert second.held_out.forces_rmse_mev_per_angstrom < first.held_out.forces_rmse_mev_per_angstrom
    assert record.n_held_out == 5
    assert refined.fitted_.is_network
    assert refined.fitted_.model.tangent.change is None
    pretrained = KernelPotential("sevennet-0").backbone
    assert refined.backbone.identity != pretrained.identity
    prediction = refined.predict([alloys[30]])[0]
    own = energy_forces_stress(refined.backbone, build_batch([alloys[30]], pretrained.cutoff))
    shift = sum(refined.fitted_.prior.shifts[int(z)] for z in alloys[30].numbers)
    assert prediction.energy == pytest.approx(float(own.energies[0]) + shift, abs=1e-6)
    np.testing.assert_allclose(prediction.forces, own.forces.numpy(), atol=1e-7)
    evaluation = evaluate(refined, alloys[20:36])
    assert not evaluation.refinable
    found = evaluation.metrics()
    assert found["share_within_two_std"] > 0.5
    assert found["backbone_forces_rmse_mev_per_angstrom"] > 1.2 * found["forces_rmse_mev_per_angstrom"]
    assert found["backbone_energy_rmse_mev_per_atom"] > found["energy_rmse_mev_per_atom"]


@pytest.mark.slow
def test_saved_and_loaded_it_is_the_same(refined, alloys, tmp_path):
    refined.save(tmp_path / "m.safetensors")
    loaded = KernelPotential.load(tmp_path / "m.safetensors")
    before, after = (p.predict(alloys[28:30], uncertainty=True) for p in (refined, loaded))
    for a, b in zip(before, after, strict=True):
        assert a.energy == b.energy
        assert a.energy_std == b.energy_std
        np.testing.assert_array_equal(a.forces, b.forces)
    assert loaded.fitted_.record.refinement == refined.fitted_.record.refinement


@pytest.mark.slow
def test_an_update_adds_a_kernel_part_that_a_checkpoint_cannot_hold(refined, alloys, tmp_path):
    refined.save(tmp_path / "m.safetensors")
    loaded = KernelPotential.load(tmp_path / "m.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = energy_errors(loaded, alloys[30:33])
        after = energy_errors(loaded.update(alloys[30:33]), alloys[30:33])
    assert after.mean() < before.mean()
    assert not loaded.fitted_.is_network
    with pytest.raises(ValueError, match="kernel part beside the network"):
        loaded.export(tmp_path / "x.pth")


@pytest.mark.slow
def test_a_checkpoint_of_its_own_package(refined, alloys, tmp_path):
    from sevenn.calculator import SevenNetCalculator

    refined.export(tmp_path / "refined.pth")
    expected = refined.predict([alloys[30]])[0]
    atoms = alloys[30].copy()
    atoms.calc = SevenNetCalculator(str(tmp_path / "refined.pth"), device="cpu")
    assert atoms.get_potential_energy() == pytest.approx(expected.energy, abs=1e-5 * len(atoms))
    np.testing.assert_allclose(atoms.get_forces(), expected.forces, atol=2e-5)


def test_what_cannot_be_refined_is_said(alloys, tangent_potential, tmp_path):
    with pytest.raises(DataError, match="needs 20 at least; there are 8"):
        KernelPotential("sevennet-0", refine=1, **CHOSEN).fit(alloys[:8])
    with pytest.raises(ValueError, match="--refine: without effect here, since no forces are fitted"):
        KernelPotential("sevennet-0", refine=1, forces=False).fit(alloys[:20])
    with pytest.raises(ValueError, match="refine must be a number"):
        KernelPotential("sevennet-0", refine=-1)
    with pytest.raises(ValueError, match="kernel part beside the network; fit it with --refine auto"):
        tangent_potential.export(tmp_path / "x.pth")
