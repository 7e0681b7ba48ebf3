"""The public check passes for every installed backbone, and fails for backbones with one fault each."""

import dataclasses

import pytest
import torch
from ase.build import bulk
from charged import Charged

from mekrr.backbones import LinearMap, available_backbones, load_backbone, tapped
from mekrr.backbones.schnet import SchNet
from mekrr.graph import build_batch
from mekrr.testing import check_backbone

SLOW = {"sevennet-l3i5", "sevennet-mf-0", "chgnet-r2scan", "hienet"}


def packaged():
    listed = [listing for listing in available_backbones() if listing.weights.startswith("inside")]
    return [
        pytest.param(
            listing.name,
            marks=[pytest.mark.slow] * (listing.name in SLOW)
            + [pytest.mark.skipif(not listing.installed, reason=f"not installed; {listing.install}")],
        )
        for listing in listed
    ]


@pytest.mark.parametrize("name", packaged())
def test_packaged_backbone_conforms(name):
    check_backbone(load_backbone(name))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_schnet_conforms(checkpoint, dtype):
    check_backbone(load_backbone(f"schnet:{checkpoint}", dtype=dtype), seed=3)


def test_a_network_that_reads_the_charge_conforms(small_schnet):
    check_backbone(Charged(small_schnet))


def test_a_charge_that_is_no_number_is_refused_by_who_reads_it(small_schnet):
    atoms = bulk("Cu")
    atoms.info["charge"] = "positive"
    graph = build_batch([bulk("Cu"), atoms], small_schnet.cutoff)
    small_schnet.forward(graph, graph.edge_vectors(), small_schnet.layers)
    with pytest.raises(ValueError, match=r"reads the charge of a structure, and structure 1 of .* correct info"):
        Charged(small_schnet).forward(graph, graph.edge_vectors(), small_schnet.layers)


def test_unknown_species_are_refused(small_schnet):
    with pytest.raises(ValueError, match="not trained on Li"):
        check_backbone(small_schnet, species=[3])


class Faulty(SchNet):
    """A SchNet with one fault."""

    def __init__(self, sound, fault):
        vars(self).update(vars(sound))
        self.fault = fault
        self.calls = 0
        if fault == "wrong widths":
            self.layer_widths = dict.fromkeys(self.layers, 23)
        if fault == "a charge that is named and not read":
            self.reads = ("charge",)
        if fault == "the charge of the first structure":
            self.reads = ("charge",)
        if fault == "a map that nobody meets":
            self.linear_maps = (*self.linear_maps, LinearMap("ghost", 2, 2, 1))

    def forward(self, graph, edge_vectors, layers, energies=True):
        if self.fault == "no checks":
            layers = [layer for layer in layers if layer in self.layers] or list(self.layers)
            graph = dataclasses.replace(graph, species=graph.species.clamp(max=92))
        if self.fault == "detached":
            edge_vectors = edge_vectors.detach()
        if self.fault == "writes to its input":
            edge_vectors.data.mul_(1.0000001)
        output = super().forward(graph, edge_vectors, layers)
        features, atomic = output.features, output.atomic_energies
        self.calls += 1
        if self.fault == "other features without energies" and not energies:
            features = features + 1
        changed = {
            "state": features + 0.01 * self.calls,
            "positions": features + graph.positions[:, :1],
            "batch mean": features - features.mean(dim=0),
            "order": features * torch.linspace(1, 2, len(features))[:, None],
            "orientation": features + _summed(graph, edge_vectors)[:, :1],
            "not a number": features / (_degree(graph) > 0)[:, None],
            "a spin that is not named": features + 0.1 * (graph.spin[graph.structure, None] - 1),
            "the charge of the first structure": features + 0.1 * graph.charge[0],
        }.get(self.fault, features)
        if self.fault == "intensive energy":
            atomic = atomic / graph.n_atoms[graph.structure]
        if self.fault == "energy with a constant part":
            atomic = atomic + 1.0 / graph.n_atoms[graph.structure]
        if self.fault == "weights that reach nothing":
            with tapped(None):
                plain = super().forward(graph, edge_vectors, layers).atomic_energies
            atomic = atomic.detach() + plain - plain.detach()
        if self.fault == "detached energy":
            atomic = atomic.detach() + 0 * edge_vectors.sum()
        return dataclasses.replace(output, features=changed, atomic_energies=atomic)


def _summed(graph, edge_vectors):
    return edge_vectors.new_zeros(len(graph.species), 3).index_add(0, graph.centre, edge_vectors)


def _degree(graph):
    return torch.bincount(graph.centre, minlength=len(graph.species))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("wrong widths", "layer_widths"),
        ("no checks", "passes; begin forward with self.prepare"),
        ("detached", "differ from finite differences|does not require grad"),
        ("writes to its input", "changes its input"),
        ("state", "keep no state|among all"),
        ("other features without energies", "leave out only what lies deeper"),
        ("positions", "one by one|translated|permuted"),
        ("batch mean", "one by one"),
        ("order", "one by one|permuted"),
        ("orientation", "rotated"),
        ("not a number", "NaN"),
        ("intensive energy", "energies differ|forces|one by one"),
        ("energy with a constant part", "supercell's energies differ"),
        ("detached energy", "forces differ"),
        ("a spin that is not named", "the spin changes the output, but reads does not name it"),
        ("a charge that is named and not read", "reads names the charge, but nothing depends on it"),
        ("the charge of the first structure", "see one another|one by one"),
        ("a map that nobody meets", "linear_maps promises"),
        ("weights that reach nothing", "the tangent along a change of the weights|does not require grad"),
    ],
)
def test_a_fault_is_found(small_schnet, fault, message):
    with pytest.raises((AssertionError, RuntimeError), match=message):
        check_backbone(Faulty(small_schnet, fault))
