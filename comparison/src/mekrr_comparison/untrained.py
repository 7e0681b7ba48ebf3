"""A backbone that has learnt nothing: the published network with the numbers in each weight tensor shuffled."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mekrr.backbones import Backbone
from mekrr.backbones.registry import find_entry
from mekrr.backbones.sevennet import SevenNet, SevenNetEntry, _build
from mekrr.backbones.weights import packaged_file


def untrained(spec: str, seed: int) -> Backbone:
    """The network of that name with shuffled weights: the same architecture and spread, nothing learnt.

    Its energy is withheld, for it means nothing, so no backbone prior can be chosen.

    Args:
        spec: as for `load_backbone`; a checkpoint of one's own must need no trust.
        seed: of the shuffles.

    Raises:
        BackboneUnavailableError: see `load_backbone`.
        ValueError: when no weights are found in the backbone.
    """
    name, _, path = spec.partition(":")
    entry = find_entry(name)
    entry.require_installed()
    if isinstance(entry, SevenNetEntry):  # it derives tensors from its weights when it is made
        model = _build(packaged_file(entry.module, entry.relative, entry.sha256, entry.card.package))
        shuffle_(model, seed)
        backbone: Backbone = SevenNet(entry.card, model, entry.sha256, entry.modality)
    else:
        backbone = entry.load(Path(path) if path else None, torch.device("cpu"), torch.float32, False)
        modules = list(_modules(vars(backbone)))
        if not modules:
            raise ValueError(f"{spec}: no weights found to shuffle; use another backbone for the ablation")
        for module in modules:
            shuffle_(module, seed)
    return _Untrained(backbone, seed)


def shuffle_(module: nn.Module, seed: int) -> None:
    """Permute the numbers within each weight tensor in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.parameters():
            order = torch.randperm(tensor.numel(), generator=generator)
            tensor.copy_(tensor.flatten()[order].view_as(tensor))


def _modules(found: dict[str, Any]) -> Iterator[nn.Module]:
    for value in found.values():
        if isinstance(value, nn.Module):
            yield value
        elif isinstance(value, dict):
            yield from _modules(value)


class _Untrained(Backbone):
    """Features of a network, without its energy."""

    has_energy = False

    def __init__(self, network: Backbone, seed: int) -> None:
        self.network = network
        self.card, self.path = network.card, network.path
        self.cutoff, self.max_neighbours = network.cutoff, network.max_neighbours
        self.layers, self.layer_widths = network.layers, network.layer_widths
        self.known_species, self.forward_mode = network.known_species, network.forward_mode
        self.dtype, self.device = network.dtype, network.device
        self.weights_hash = hashlib.sha256(f"{network.weights_hash} shuffled {seed}".encode()).hexdigest()

    def forward(self, graph: Any, edge_vectors: Any, layers: Any, energies: bool = True) -> Any:
        """See Backbone.forward."""
        output = self.network.forward(graph, edge_vectors, layers, energies=False)
        return type(output)(output.features, None)
