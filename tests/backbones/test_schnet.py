"""Our SchNet equals torch_geometric's on shared weights, and takes only the published checkpoint format."""

import pickle

import numpy as np
import pytest
import torch
from ase.build import bulk
from published_schnet import SMALL, published

from mekrr.backbones import load_backbone
from mekrr.backbones.derivatives import energy_forces_stress
from mekrr.backbones.schnet import SCHNET
from mekrr.errors import BackboneUnavailableError
from mekrr.files import sha256_of
from mekrr.graph import build_batch

CPU = torch.device("cpu")


def copper():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    return atoms


def test_equals_torch_geometric_on_shared_weights(network, small_schnet):
    geometric = pytest.importorskip("torch_geometric.nn", reason="torch_geometric is not installed")
    reference = geometric.SchNet(**vars(SMALL))
    state = network.state_dict()
    state |= {name.replace(".mlp.", ".conv.nn."): tensor for name, tensor in state.items() if ".mlp." in name}
    reference.load_state_dict(state | {"distance_expansion.offset": network.offset})
    reference.double()
    graph = build_batch([copper()], small_schnet.cutoff, small_schnet.max_neighbours)
    vectors = graph.edge_vectors().requires_grad_(True)
    lengths = vectors.norm(dim=1)
    # torch_geometric sends messages from the first row of edge_index to the second.
    edges = torch.stack([graph.neighbour, graph.centre])
    basis, hidden, tapped = reference.distance_expansion(lengths), reference.embedding(graph.species), []
    for interaction in reference.interactions:
        hidden = hidden + interaction(hidden, edges, lengths, basis)
        tapped.append(hidden)
    energies = reference.lin2(reference.act(reference.lin1(hidden))).squeeze(1)
    ours = small_schnet.forward(graph, vectors, small_schnet.layers)
    torch.testing.assert_close(ours.features, torch.cat(tapped, dim=1), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(ours.atomic_energies, 2.9 * energies, rtol=1e-6, atol=1e-7)
    (gradient,) = torch.autograd.grad(2.9 * energies.sum(), vectors)
    (our_gradient,) = torch.autograd.grad(ours.atomic_energies.sum(), vectors)
    torch.testing.assert_close(our_gradient, gradient, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
def test_reads_back_the_published_format(network, tmp_path, prefix):
    path = tmp_path / "weights.pt"
    torch.save(published(network, prefix), path)
    backbone = load_backbone(f"schnet:{path}")
    assert backbone.layers == ("interaction_0", "interaction_1", "interaction_2")
    assert backbone.layer_widths["interaction_1"] == 24
    assert backbone.cutoff == 4.5
    assert backbone.target_mean == pytest.approx(-0.75)
    assert backbone.weights_hash == sha256_of(path)
    assert backbone.spec == f"schnet:{path}"


def test_published_size_is_the_default():
    from mekrr.backbones.schnet import SchNetShape

    assert vars(SchNetShape()) == {
        "hidden_channels": 1024,
        "num_filters": 256,
        "num_interactions": 5,
        "num_gaussians": 200,
        "cutoff": 6.0,
    }
    assert SCHNET.layers == tuple(f"interaction_{depth}" for depth in range(5))


def test_numpy_metrics_are_allowed(network, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(published(network) | {"val_metrics": {"energy_mae": {"metric": np.float64(0.5)}}}, path)
    assert SCHNET.load(path, CPU, torch.float32, False).has_energy


def test_forces_are_those_of_the_energy(small_schnet):
    atoms = copper()
    forces = energy_forces_stress(small_schnet, build_batch([atoms], small_schnet.cutoff, 50)).forces
    step = 1e-4
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[2, 1] += sign * step
        energies.append(energy_forces_stress(small_schnet, build_batch([moved], small_schnet.cutoff, 50)).energies)
    assert float(forces[2, 1]) == pytest.approx(float(energies[1] - energies[0]) / (2 * step), rel=1e-5, abs=1e-7)


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (self.marker, "w"))


def test_pickled_objects_are_never_run(network, tmp_path):
    marker = tmp_path / "was_run"
    path = tmp_path / "evil.pt"
    torch.save(published(network) | {"surprise": Malicious(str(marker))}, path)
    with pytest.raises(BackboneUnavailableError, match="nothing in it was run"):
        SCHNET.load(path, CPU, torch.float32, True)
    bare = tmp_path / "bare.pt"
    bare.write_bytes(pickle.dumps(Malicious(str(marker))))
    with pytest.raises(BackboneUnavailableError):
        SCHNET.load(bare, CPU, torch.float32, True)
    assert not marker.exists()


def test_truncated_checkpoint(checkpoint):
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: len(content) // 2])
    with pytest.raises(BackboneUnavailableError, match=r"cannot be read|no checkpoint"):
        SCHNET.load(checkpoint, CPU, torch.float32, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("interactions.1.lin.bias"), r"missing \['interactions.1.lin.bias'\]"),
        (lambda state: state.update(extra=torch.zeros(1)), r"unexpected \['extra'\]"),
        (lambda state: state.update({"lin2.bias": torch.zeros(7)}), r"wrong shape \['lin2.bias'\]"),
    ],
)
def test_other_tensors_are_refused(network, tmp_path, change, message):
    content = published(network, prefix="")
    change(content["state_dict"])
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(BackboneUnavailableError, match=message):
        SCHNET.load(tmp_path / "other.pt", CPU, torch.float32, False)


def test_file_of_another_kind(tmp_path):
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(BackboneUnavailableError, match=r"no state_dict.*weights"):
        SCHNET.load(tmp_path / "other.pt", CPU, torch.float32, False)
