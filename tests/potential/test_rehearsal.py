"""What all force components are worth on structures held out, and that deviations follow."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from mekrr import KernelPotential
from mekrr.data import as_structures
from mekrr.features import extract, probe, tangent_space
from mekrr.kernels import TangentBasis
from mekrr.potential import FitOptions, held_out, rehearsal
from mekrr.potential.rows import make_rows
from mekrr.potential.training import TrainingSet, plan_of
from mekrr.solve import Observation
from mekrr.tune import Trial

LAYERS = ("interaction_1",)
OPTIONS = {"layers": LAYERS, "length_scale": 12.0, "species_weight": 0.5, "prior": "backbone", "force_weight": 1e-2}
OPTIONS |= {"tangent_share": 0.9, "ridge": 1e-3, "inducing": 20, "probes": 2, "anchors": "none"}


def fit(structures, **options):
    pytest.importorskip("sevenn")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return KernelPotential("sevennet-0", **(OPTIONS | options)).fit(structures)


def observed(n_atoms, n_forces, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = 1 + n_forces
    psi, columns = torch.randn(rows, 3, generator=generator), torch.randn(rows, 2, generator=generator)
    return Observation(psi.double(), columns.double(), n_atoms, n_forces, 1.0, 1.0)


def test_ratios_are_those_of_errors_in_units_of_deviations_drawn_towards_one():
    held = [observed(4, 2, 0), observed(6, 0, 1), observed(5, 3, 2)]
    prior = torch.tensor([1.0, -0.5], dtype=torch.float64)
    probed, full = torch.tensor([[0.3, 0.1, -0.2], [1.0, -0.7, 0.4]], dtype=torch.float64)
    std = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    found = held_out.Rehearsal.of(held, prior, std, probed, full)
    errors = {}
    for name, c in (("probed", probed), ("full", full)):
        e, f = [], []
        for one in held:
            residual = (one.columns @ prior - one.psi @ c).numpy()
            e.append(residual[0])
            f += [np.sqrt(np.square(residual[1:]).sum() / (3 * one.n_atoms))] if one.n_forces else []
        errors[name] = np.array(e), np.array(f)
        said = getattr(found, name)
        per_atom = 1000 * np.array(e) / np.array([4, 6, 5])
        assert said.rmse_mev_per_atom == pytest.approx(np.sqrt(np.square(per_atom).mean()))
        assert said.mae_mev_per_atom == pytest.approx(np.abs(per_atom).mean())
        assert said.forces_rmse_mev_per_angstrom == pytest.approx(1000 * np.sqrt(np.square(f).mean()))
    energy = np.abs(errors["full"][0] / std.numpy()).mean() / np.abs(errors["probed"][0] / std.numpy()).mean()
    assert found.energy_ratio == pytest.approx(energy ** (3 / 13))
    assert found.force_ratio == pytest.approx((errors["full"][1].mean() / errors["probed"][1].mean()) ** (2 / 12))
    assert held_out.Rehearsal.of(held[1:2], prior, std[1:2], probed, full).force_ratio is None


def test_those_held_out_leave_every_element_behind(alloys, molecules):
    structures = as_structures(alloys)
    few = as_structures([*molecules[:4], alloys[0]])  # its elements are nowhere else
    found = held_out.held_out(few, 0, len(few))
    assert 0 < len(found) < len(few)
    left = {int(z) for t, s in enumerate(few) if t not in found for z in s.species}
    assert left == {int(z) for s in few for z in s.species}
    assert held_out.held_out(structures, 0, 9) == sorted(held_out.held_out(structures, 0, 9))
    assert held_out.held_out(structures, 0, 9) != held_out.held_out(structures, 1, 9)


def test_a_fifth_is_held_out_where_that_says_something(alloys):
    structures = as_structures(alloys)
    assert rehearsal.to_hold_out(structures, 0) == []
    assert len(rehearsal.to_hold_out(structures + structures, 0)) == 14
    assert len(rehearsal.to_hold_out(structures * 10, 0)) == rehearsal.MOST_HELD


def test_functions_of_structures_held_out_come_last_and_change_none_before_them(alloys, sevennet):
    """The first columns of all rows are the rows in a basis without these structures."""
    structures = as_structures(alloys[:5])
    space = tangent_space(structures, sevennet)
    store = probe(structures, sevennet, LAYERS, 2, tangent=space)
    energies, weights = torch.tensor([s.energy for s in structures]).double(), torch.ones(5).double()
    extraction = extract([s.atoms for s in structures], sevennet, LAYERS)
    data = TrainingSet.of(extraction, store, energies, weights, space=space)
    nothing = (0.0,)
    tangent = {"tangent_share": 0.9, "tangent_amplitude": 2.0}
    best = Trial(LAYERS, "backbone", 12.0, 0.5, (1e-3,), nothing, nothing, nothing, force_weight=1e-2, **tangent)
    rows, _, _ = make_rows(data, plan_of("sparse"), best, FitOptions(inducing=6), held=[1, 3])
    cut, end = len(rows.basis.features), len(rows.basis) - rows.n_held_functions
    alone = TangentBasis.of(torch.cat([store(t).tangent for t in (0, 2, 4)]), 0.5, 2.0)
    assert end - cut == len(alone)
    for t in range(5):
        (one,) = rows.of([t])
        expected = 0.9**0.5 * alone.rows(store(t).tangent)
        torch.testing.assert_close(one.psi[:, cut:end], expected, rtol=1e-5, atol=1e-8 * float(expected.abs().max()))
        x = rows.scaler(extraction.environments[torch.tensor([t])])
        kernel, moves = rows.basis.kernel, data.derivatives(t, LAYERS, rows.scaler).features
        features = torch.cat([kernel.gram(x)[0], kernel.slope_diagonal(x, moves)])
        own = 0.1 * features + 0.9 * alone.own(store(t).tangent)
        torch.testing.assert_close(one.prior_variance, own, rtol=1e-9, atol=0)


@pytest.fixture(scope="module")
def rehearsed(alloys):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rehearsal, "FEWEST_HELD", 2)
        patch.setattr(rehearsal, "HELD_SHARE", 4)
        patch.setattr(rehearsal, "TOLERANCE", 0.05)
        return fit(alloys[:16])


@pytest.mark.slow
def test_deviations_are_those_of_leave_one_out_times_the_ratio(rehearsed, alloys):
    record, model = rehearsed.fitted_.record.solver, rehearsed.fitted_.model
    plain = fit(alloys[:16], exact_forces=False)
    assert plain.fitted_.record.solver.rehearsal is None
    found, before = record.rehearsal, plain.fitted_.model
    assert found.n_held_out == 4
    assert model.energy_amplitude == pytest.approx(before.energy_amplitude * found.energy_ratio**2, rel=1e-3)
    assert model.force_amplitude == pytest.approx(before.force_amplitude * found.force_ratio**2, rel=1e-3)
    assert (found.energy_ratio, found.force_ratio) != (1.0, 1.0)


@pytest.mark.slow
def test_errors_are_those_of_a_potential_that_has_not_seen_them(rehearsed, alloys):
    """Fitted to the others, it has their scaler and inducing environments; else it is the same."""
    found = rehearsed.fitted_.record.solver.rehearsal
    out = held_out.held_out(as_structures(alloys[:16]), 0, 4)
    others = [a for t, a in enumerate(alloys[:16]) if t not in out]
    for said, exact in ((found.probed, False), (found.full, True)):
        potential = fit(others, exact_forces=exact)
        seen = [alloys[t] for t in out]
        errors = [p.forces - a.get_forces() for p, a in zip(potential.predict(seen), seen, strict=True)]
        # the mean over structures of what each is wrong by, as the record has it
        rmse = 1000 * np.sqrt(np.mean([np.square(e).mean() for e in errors]))
        assert said.forces_rmse_mev_per_angstrom == pytest.approx(rmse, rel=0.35)
    assert found.full.forces_rmse_mev_per_angstrom < found.probed.forces_rmse_mev_per_angstrom


@pytest.mark.slow
def test_the_potential_itself_has_seen_everything(rehearsed, alloys):
    """The rehearsal is thrown away: without it the coefficients are the same, but for the order of functions."""
    plain = fit(alloys[:16])
    assert plain.fitted_.record.solver.rehearsal is None
    for a, b in zip(rehearsed.predict(alloys[20:23]), plain.predict(alloys[20:23]), strict=True):
        assert a.energy == pytest.approx(b.energy, abs=2e-4)
        np.testing.assert_allclose(a.forces, b.forces, atol=2e-3)


def test_a_record_keeps_it(rehearsed, tmp_path):
    rehearsed.save(tmp_path / "m.safetensors")
    loaded = KernelPotential.load(tmp_path / "m.safetensors")
    assert loaded.fitted_.record.solver.rehearsal == rehearsed.fitted_.record.solver.rehearsal
    bare = replace(loaded.fitted_.record.solver, rehearsal=None)
    assert bare != loaded.fitted_.record.solver


def test_it_is_said(rehearsed, alloys, tmp_path, capsys):
    """By the command and on the page, in the same words."""
    from mekrr import evaluate
    from mekrr.cli.fit import _print
    from mekrr.pages.report.page import render

    said = rehearsed.fitted_.record.solver.rehearsal.sentence()
    for number in ("without 4 structures", f"{rehearsed.fitted_.record.solver.rehearsal.energy_ratio:.2f} and"):
        assert number in said
    _print(rehearsed, tmp_path / "m.safetensors", tmp_path / "m.yaml", None)
    assert said in capsys.readouterr().out
    assert said[1:] in render(rehearsed.fitted_, evaluate(rehearsed, alloys[20:22]), "t")


def test_the_prior_is_refitted_without_them(alloys, monkeypatch):
    """With a ridge that leaves nothing to the kernel, errors are those of a least-squares fit to the others."""
    monkeypatch.setattr(rehearsal, "FEWEST_HELD", 2)
    monkeypatch.setattr(rehearsal, "HELD_SHARE", 4)
    potential = fit(alloys[:16], ridge=1e9, prior="composition", tangent_share=0.0, layers=("interaction_0",))
    out = held_out.held_out(as_structures(alloys[:16]), 0, 4)
    species = sorted({int(z) for a in alloys[:16] for z in a.numbers})
    shares = np.array([[np.mean(a.numbers == z) for z in species] for a in alloys[:16]])
    energies = np.array([a.get_potential_energy() / len(a) for a in alloys[:16]])
    rest = [t for t in range(16) if t not in out]
    shifts = np.linalg.lstsq(shares[rest], energies[rest], rcond=None)[0]
    errors = 1000 * (energies - shares @ shifts)[out]
    found = potential.fitted_.record.solver.rehearsal
    assert found.full.mae_mev_per_atom == pytest.approx(np.abs(errors).mean(), rel=1e-3)
