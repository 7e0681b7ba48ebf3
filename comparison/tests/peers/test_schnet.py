import dataclasses

import numpy as np
import pytest
import torch
from published_schnet import SMALL, published

from mekrr.backbones.schnet import SchNetNetwork, SchNetShape
from mekrr.data import as_structures
from mekrr_comparison.method import Setup
from mekrr_comparison.peers.schnet import SchNet, SchNetFinetuned
from mekrr_comparison.peers.schnet_model import Potential, collate, make_sample
from mekrr_comparison.peers.schnet_training import TrainerSettings, loss

QUICK = {
    "hidden_channels": 16,
    "num_filters": 16,
    "num_gaussians": 20,
    "cutoff": 4.5,
    "max_epochs": 25,
    "learning_rate": 5e-3,
}


@pytest.fixture(scope="module")
def structures(alloys):
    return as_structures(alloys[:14])


@pytest.fixture(scope="module")
def fitted(structures):
    method = SchNet(Setup(options=QUICK))
    method.fit(structures[:10], structures[10:], None)
    return method


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "schnet.pt"
    torch.save(published(SchNetNetwork(SMALL)), path)
    return path


def force_rmse(method, structures):
    predicted = method.predict([s.atoms for s in structures])
    return np.sqrt(np.mean([np.mean((p.forces - s.forces) ** 2) for p, s in zip(predicted, structures, strict=True)]))


def test_training_lowers_the_error(fitted, structures):
    untrained = SchNet(Setup(options=QUICK | {"max_epochs": 0}))
    untrained.fit(structures[:10], structures[10:], None)
    assert fitted.chosen()["best_epoch"] > 0
    assert fitted.chosen()["best_loss"] < 0.7 * untrained.chosen()["best_loss"]
    assert force_rmse(fitted, structures[:10]) < force_rmse(untrained, structures[:10])
    assert not fitted.capped


def test_same_seed_same_numbers(fitted, structures):
    again = SchNet(Setup(options=QUICK))
    again.fit(structures[:10], structures[10:], None)
    one, other = (m.predict([structures[12].atoms])[0] for m in (fitted, again))
    assert one.energy == other.energy


def test_forces_and_stress_are_derivatives_of_the_energy(fitted, structures):
    fitted._potential.double()
    atoms = structures[11].atoms
    prediction = fitted.predict([atoms])[0]
    step = 1e-4
    moved = [atoms.copy(), atoms.copy(), atoms.copy(), atoms.copy()]
    moved[0].positions[1, 0] += step
    moved[1].positions[1, 0] -= step
    for sheared, sign in zip(moved[2:], (1, -1), strict=True):
        strain = np.zeros((3, 3))
        strain[0, 1] = strain[1, 0] = sign * step / 2
        sheared.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
    energies = [p.energy for p in fitted.predict(moved)]
    fitted._potential.float()
    assert prediction.forces[1, 0] == pytest.approx(-(energies[0] - energies[1]) / (2 * step), abs=1e-6)
    slope = (energies[2] - energies[3]) / (2 * step)
    assert prediction.stress[0, 1] * atoms.get_volume() == pytest.approx(slope, abs=1e-5)


def test_cap_keeps_what_there_is(structures):
    method = SchNet(Setup(options=QUICK | {"max_epochs": 10_000, "patience_epochs": 10_000}))
    method.fit(structures[:10], structures[10:], 0.5)
    assert method.capped
    assert np.isfinite(method.predict([structures[0].atoms])[0].energy)


def test_early_stopping_counts_from_the_best_epoch(structures):
    options = QUICK | {"max_epochs": 500, "patience_epochs": 2, "learning_rate": 0.05}
    method = SchNet(Setup(options=options))
    method.fit(structures[:10], structures[10:], None)
    outcome = method.chosen()
    assert outcome["epochs"] == outcome["best_epoch"] + 2 < 500


def test_structures_without_forces_still_count(structures):
    bare = [dataclasses.replace(s, forces=None) for s in structures[:10]]
    method = SchNet(Setup(options=QUICK | {"max_epochs": 2}))
    method.fit(bare, [], None)
    assert np.isfinite(method.chosen()["best_loss"])


def test_loss_is_what_it_says(structures):
    torch.manual_seed(1)
    potential = Potential(SchNetNetwork(SchNetShape(8, 8, 1, 10, 4.0)), 1.0).double()
    pair = [make_sample(s.atoms, 4.0, None, 0.25 * k, s.forces) for k, s in enumerate(structures[:2], 1)]
    pair[1].forces[0] = np.nan
    batch = collate(pair, torch.float64, "cpu")
    settings = TrainerSettings(1e-3, 2, 1, energy_weight=2.0, force_weight=3.0)
    expected_energy, errors = 0.0, []
    for sample in pair:
        graph = collate([sample], torch.float64, "cpu").graph
        positions = graph.positions.requires_grad_(True)
        energy = potential.atomic_energies(graph, graph.edge_vectors(positions)).sum()
        forces = -torch.autograd.grad(energy, positions)[0].numpy()
        expected_energy += 2.0 * (float(energy.detach()) - sample.energy) ** 2 / len(sample.atoms) / 2
        errors.append((forces - sample.forces)[~np.isnan(sample.forces)])
    expected = expected_energy + 3.0 * np.mean(np.concatenate(errors) ** 2)
    assert float(loss(potential, batch, settings).detach()) == pytest.approx(expected)


def test_finetuning_moves_only_the_upper_layers(checkpoint, structures):
    options = {"checkpoint": str(checkpoint), "frozen_interactions": 2, "max_epochs": 3, "learning_rate": 1e-3}
    method = SchNetFinetuned(Setup(options=options))
    method.fit(structures[:10], structures[10:], None)
    before = torch.load(checkpoint, weights_only=True)["state_dict"]
    moved = {
        name
        for name, tensor in method._potential.network.state_dict().items()
        if not torch.equal(tensor, before["module.module." + name])
    }
    assert moved
    assert all(name.startswith(("interactions.2.", "lin1.", "lin2.")) for name in moved)


def test_missing_checkpoint_says_what_to_do(structures):
    if SchNetFinetuned.available():
        pytest.skip("the published checkpoint is here")
    with pytest.raises(Exception, match="mekrr backbones fetch schnet"):
        SchNetFinetuned(Setup()).fit(structures[:4], structures[4:6], None)


def test_divergence_is_said(structures):
    method = SchNet(Setup(options=QUICK | {"learning_rate": 1e6}))
    with pytest.raises(RuntimeError, match="lower learning_rate"):
        method.fit(structures[:10], structures[10:], None)


def test_unknown_option_is_refused():
    with pytest.raises(ValueError, match=r"schnet has no option learning_rat; its options are learning_rate"):
        SchNet(Setup(options={"learning_rat": 1}))


def test_a_checkpoint_of_ones_own_is_enough():
    assert SchNetFinetuned.ready({"checkpoint": "mine.pt"})
    assert SchNetFinetuned.ready({}) == SchNetFinetuned.available()
