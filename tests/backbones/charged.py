"""A network that reads the charge."""

import dataclasses

from mekrr.backbones.schnet import SchNet


class Charged(SchNet):
    """A SchNet whose features and energies know the total charge of a structure."""

    reads = ("charge",)

    def __init__(self, sound):
        vars(self).update(vars(sound))

    def forward(self, graph, edge_vectors, layers, energies=True):
        output = super().forward(graph, edge_vectors, layers, energies)
        charge = graph.charge.to(output.features)[graph.structure]
        atomic = output.atomic_energies
        atomic = None if atomic is None else atomic * (1 + 0.2 * charge)
        return dataclasses.replace(output, features=output.features + 0.1 * charge[:, None], atomic_energies=atomic)
