"""A potential with a tangent part, through the real network."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from mekrr import KernelPotential
from mekrr.data import as_structures
from mekrr.features import look, probe
from mekrr.graph import build_batch
from mekrr.kernels import JointBasis
from mekrr.potential import MekrrWarning, evaluate
from mekrr.potential.full_forces import ForceProduct
from mekrr.shards import HERE

pytestmark = pytest.mark.filterwarnings("ignore::mekrr.potential.MekrrWarning")


def energy(potential, atoms):
    return potential.predict([atoms])[0].energy


def test_it_is_there_and_matters(tangent_potential, alloys):
    fitted = tangent_potential.fitted_
    assert fitted.tangent_share == 0.6
    without = replace(fitted, model=replace(fitted.model, tangent=None))
    graph = build_batch(alloys[20:22], tangent_potential.backbone.cutoff)
    part = fitted.model.tangent
    seen = look(graph, tangent_potential.backbone, fitted.layers, change=part.change)
    with_it = [p.energy for p in tangent_potential.predict(alloys[20:22])]
    kernel = without.function(fitted.scaler(seen.environments), slopes=False).atomic_energies
    own = fitted.prior.factor * seen.atomic_energies + fitted.prior.shift_energies(graph.species)
    parts = graph.sum_atoms(kernel + own + seen.tangent.double())
    np.testing.assert_allclose(with_it, parts.numpy(), atol=1e-9)
    assert float(seen.tangent.abs().sum()) > 1e-3


def test_both_kernels_have_force_rows_of_one_size_and_one_species_weight(tangent_potential, alloys):
    """What the search found of the amplitude reaches the solution."""
    fitted, backbone = tangent_potential.fitted_, tangent_potential.backbone
    model, structures = fitted.model, as_structures(alloys[:6])
    store = probe(structures, backbone, fitted.layers, 4, tangent=model.tangent.space)
    sizes = torch.zeros(2, dtype=torch.float64)
    for t, s in enumerate(structures):
        d = store(t)
        x = fitted.scaler(look(build_batch([s.atoms], backbone.cutoff), backbone, fitted.layers).environments)
        psi = model.basis.rows(x, fitted.scaler.derivative(d.features), d.tangent)[1 : 1 + d.n_forces]
        cut = len(model.basis.features)
        parts = psi[:, :cut].square().sum() / 0.4, psi[:, cut:].square().sum() / 0.6
        sizes += torch.stack(parts) / (3 * len(s))
    assert float(sizes[0] / sizes[1]) == pytest.approx(1.0, rel=0.1)
    assert model.tangent.basis.species_weight == fitted.species_weight == 0.5


def test_forces_and_stress_are_derivatives_of_the_energy(tangent_potential, alloys):
    atoms = alloys[21].copy()
    found = tangent_potential.predict([atoms])[0]
    for i, axis in ((0, 0), (2, 1)):
        ends = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[i, axis] += sign * 0.01
            ends.append(energy(tangent_potential, moved))
        assert found.forces[i, axis] == pytest.approx((ends[1] - ends[0]) / 0.02, abs=3e-3)
    ends = []
    for sign in (1, -1):
        strained = atoms.copy()
        strained.set_cell(atoms.cell @ np.diag([1 + sign * 0.002, 1, 1]), scale_atoms=True)
        ends.append(energy(tangent_potential, strained))
    assert found.stress[0, 0] * atoms.get_volume() == pytest.approx((ends[0] - ends[1]) / 0.004, abs=0.05)


def test_saved_and_loaded_predict_the_same_bits(tangent_potential, alloys, tmp_path):
    tangent_potential.save(tmp_path / "m.safetensors")
    loaded = KernelPotential.load(tmp_path / "m.safetensors")
    wanted = {"uncertainty": True, "atomic_uncertainty": True, "force_uncertainty": True}
    before, after = (p.predict(alloys[20:21], **wanted) for p in (tangent_potential, loaded))
    for a, b in zip(before, after, strict=True):
        assert (a.energy, a.energy_std) == (b.energy, b.energy_std)
        assert (a.forces == b.forces).all()
        assert (a.forces_std == b.forces_std).all()
        assert (a.atomic_energies_std == b.atomic_energies_std).all()


def test_the_deviation_is_that_of_the_rows_written_out(tangent_potential, alloys):
    """Posterior in the weights of both kernels, and what the bases leave out; from the design rows alone."""
    fitted, backbone = tangent_potential.fitted_, tangent_potential.backbone
    model, atoms = fitted.model, alloys[25]
    graph = build_batch([atoms], backbone.cutoff)
    x = fitted.scaler(look(graph, backbone, fitted.layers).environments)
    T = model.tangent.space.of(backbone, graph)
    psi = model.basis.rows(x, None, T)
    A = model.equations.total
    inside = psi @ torch.linalg.solve(A / model.ridge + torch.eye(len(A), dtype=torch.float64), psi.T)
    prior = 0.4 * model.kernel.diagonal(x) + 0.6 * model.tangent.basis.own(T)
    variance = model.amplitude * (prior - psi @ psi.T + inside) + model.energy_amplitude * model.ridge * len(atoms)
    expected = float(variance.sqrt())
    assert tangent_potential.predict([atoms], uncertainty=True)[0].energy_std == pytest.approx(expected, rel=1e-6)


def test_the_product_of_all_forces_is_that_of_all_rows(tangent_potential, alloys):
    fitted, backbone = tangent_potential.fitted_, tangent_potential.backbone
    model, structures = fitted.model, as_structures(alloys[:2])
    store = probe(structures, backbone, fitted.layers, "all", tangent=model.tangent.space)
    gram = torch.zeros(len(model.basis), len(model.basis), dtype=torch.float64)
    for t, s in enumerate(structures):
        d = store(t)
        x = fitted.scaler(look(build_batch([s.atoms], backbone.cutoff), backbone, fitted.layers).environments)
        rows = model.basis.rows(x, fitted.scaler.derivative(d.features), d.tangent)[1 : 1 + d.n_forces]
        gram += rows.T @ rows
    c = torch.randn(len(gram), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    task = ForceProduct(structures, backbone, fitted.layers, fitted.scaler, model.basis, model.tangent.space)
    found = HERE.sum(task, [[0], [1]], state=task.point(c)).whitened(model.basis)
    torch.testing.assert_close(found, gram @ c, rtol=0, atol=1e-3 * float((gram @ c).abs().max()))


@pytest.mark.parametrize("at_once", [1, 3])
def test_deviations_of_forces_hang_on_no_batch(tangent_potential, alloys, monkeypatch, at_once):
    """Draws one by one, or some in a batch of copies and fewer in the last one."""
    (together,) = tangent_potential.predict(alloys[:1], force_uncertainty=True)
    monkeypatch.setattr(evaluate, "BATCH_ATOMS", at_once * len(alloys[0]))
    (apart,) = tangent_potential.predict(alloys[:1], force_uncertainty=True)
    np.testing.assert_allclose(apart.forces_std, together.forces_std, rtol=1e-4)
    assert np.ptp(together.forces_std) > 0.01 * together.forces_std.mean()


def test_an_update_with_a_tangent_part(alloys):
    """New structures are learned from, and the rest is kept."""
    few, new = alloys[:10:2], alloys[10:18:2]  # of four atoms each
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen = {"layers": ("interaction_1",), "length_scale": 12.0, "species_weight": 0.5, "prior": "backbone"}
        chosen |= {"force_weight": 1e-3, "ridge": 1e-5, "inducing": 40, "tangent_share": 0.6, "probes": 4}
        again = KernelPotential("sevennet-0", **chosen, exact_forces=False).fit(few)
        before = np.array([p.energy for p in again.predict(new)])
        again.predict(new[:1], force_uncertainty=True)
        assert again.fitted_.model.drawn
        again.update(new)
        assert not again.fitted_.model.drawn  # draws of the old posterior are not those of the new one
    after = np.array([p.energy for p in again.predict(new)])
    labels = np.array([a.get_potential_energy() for a in new])
    assert np.abs(after - labels).mean() < 0.7 * np.abs(before - labels).mean()


def test_what_cannot_be_had_is_said(alloys):
    with pytest.raises(ValueError, match=r"tangent_share must lie between 0 and 0\.999"):
        KernelPotential("sevennet-0", tangent_share=1.0)
    with pytest.raises(ValueError, match=r"--tangent-share: without effect here, since no forces are fitted"):
        KernelPotential("sevennet-0", tangent_share=0.5, forces=False, layers="interaction_1").fit(alloys[:4])


def test_a_network_without_linear_maps_keeps_the_features(alloys, sevennet, monkeypatch):
    chosen = {"layers": ("interaction_1",), "length_scale": 12.0, "species_weight": 0.5, "prior": "backbone"}
    chosen |= {"force_weight": 1e-3, "ridge": 1e-5, "inducing": 40, "exact_forces": False}
    found = KernelPotential("sevennet-0", **chosen)
    monkeypatch.setattr(found.backbone, "linear_maps", ())
    with pytest.warns(MekrrWarning, match="names no linear maps, so the kernel is that on features alone"):
        found.fit(alloys[:5])
    assert found.fitted_.tangent_share == 0.0
    asked = KernelPotential("sevennet-0", **chosen, tangent_share=0.5)
    monkeypatch.setattr(asked.backbone, "linear_maps", ())
    with pytest.raises(ValueError, match="names no linear maps"):
        asked.fit(alloys[:5])


def test_a_joint_basis_asks_for_what_it_needs(tangent_potential):
    basis = tangent_potential.fitted_.model.basis
    assert isinstance(basis, JointBasis)
    with pytest.raises(ValueError, match="need T of each structure"):
        basis.join(torch.zeros(1, len(basis.features), dtype=torch.float64), None)


def test_the_share_is_chosen_by_leave_one_out(alloys):
    chosen = {"layers": ("interaction_1",), "length_scale": 12.0, "prior": "backbone", "force_weight": 1e-3}
    found = (
        KernelPotential("sevennet-0", **chosen, probes=3, exact_forces=False, inducing=20).fit(alloys[:12:2]).fitted_
    )
    record = found.record.search
    shares = {trial.tangent_share for trial in record.mixing}
    assert {0.0, 0.5} < shares
    best = max(record.mixing, key=lambda trial: trial.score)
    near = [(t.species_weight, t.tangent_share) for t in record.mixing if t.score > best.score - 0.05]
    assert (found.species_weight, found.tangent_share) == max(near)
    assert all(trial.tangent_share == 0.0 for trial in record.surface)
    assert record.best.tangent_share == found.tangent_share
