"""A SchNet with random weights, written to disk in the published format: small, but real."""

import torch

from mekrr.backbones.schnet import SchNetShape

SMALL = SchNetShape(hidden_channels=24, num_filters=16, num_interactions=3, num_gaussians=20, cutoff=4.5)


def published(network, prefix="module.module."):
    """What the Open Catalyst Project's trainer saves: prefixed names, twice-stored filters, normalisers, metrics."""
    state = {}
    for name, tensor in network.state_dict().items():
        state[prefix + name] = tensor
        if ".mlp." in name:
            state[prefix + name.replace(".mlp.", ".conv.nn.")] = tensor
    state[prefix + "distance_expansion.offset"] = network.offset
    state[prefix + "atomic_mass"] = torch.ones(100)
    attributes = dict(vars(SMALL), use_pbc=True)
    normalisers = {"target": {"mean": torch.tensor(-0.75), "std": torch.tensor(2.9)}}
    return {"epoch": 1, "state_dict": state, "normalizers": normalisers, "config": {"model_attributes": attributes}}
