"""A fitted potential on a graph: energies, gradients and deviations as tensors.

The one evaluator behind predictions, calculators and engines: a graph in, from structures or from an engine's own
edges, tensors out, the gradient with respect to every edge vector among them.
"""

from dataclasses import dataclass, replace

import torch

from mekrr.backbones import Backbone, BackboneOutput, Exchange, exchanging
from mekrr.backbones.derivatives import stress_of
from mekrr.features import BATCH_ATOMS, Environments, Pass, look
from mekrr.graph import GraphBatch
from mekrr.potential.fitted import Fitted
from mekrr.typing import Float, Tensor

FORCE_DRAWS = 16  # a standard deviation from so many is known to 18%


@dataclass(frozen=True)
class Wanted:
    """Which quantities an evaluation should hold beside the energy."""

    forces: bool = True
    energy_std: bool = False
    backbone_forces: bool = False
    atomic_std: bool = False
    forces_std: bool = False

    @property
    def gradients(self) -> bool:
        """Whether anything needs a reverse pass."""
        return self.forces or self.backbone_forces or self.forces_std

    def check(self, fitted: Fitted) -> None:
        """Refuse what the potential does not have.

        Raises:
            ValueError: for deviations of atoms with the mean embedding, or of forces not trained on.
        """
        if self.atomic_std and fitted.embedding == "mean":
            raise ValueError("the mean embedding has no atomic energies, so there are no deviations of them")
        if self.forces_std and fitted.model.force_amplitude is None:
            raise ValueError("this potential was trained without forces: deviations of forces are not calibrated")


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A batch, evaluated; None for what was not asked for or does not exist.

    Attributes:
        graph: what was evaluated.
        atomic_energies: eV; they add up to the energy (for the mean embedding without a meaning of their own).
        edge_gradient: dE/d(edge vector), eV/Angstrom, in the order of the graph's edges.
        forces: eV/Angstrom.
        strain_gradient: dE/d(strain), eV.
        energy_std: calibrated standard deviation of the energy, eV.
        atomic_std: the same of each atom's energy, eV.
        forces_std: the same of each force component, eV/Angstrom.
        backbone_atomic_energies: the backbone's own, eV.
        backbone_forces: the backbone's own, eV/Angstrom.
    """

    graph: GraphBatch
    atomic_energies: Float[Tensor, "atoms"]
    edge_gradient: Float[Tensor, "edges 3"] | None = None
    forces: Float[Tensor, "atoms 3"] | None = None
    strain_gradient: Float[Tensor, "structures 3 3"] | None = None
    energy_std: Float[Tensor, "structures"] | None = None
    atomic_std: Float[Tensor, "atoms"] | None = None
    forces_std: Float[Tensor, "atoms 3"] | None = None
    backbone_atomic_energies: Float[Tensor, "atoms"] | None = None
    backbone_forces: Float[Tensor, "atoms 3"] | None = None

    @property
    def energies(self) -> Float[Tensor, "structures"]:
        """Total energies, eV."""
        return self.graph.sum_atoms(self.atomic_energies)

    @property
    def stress(self) -> Float[Tensor, "structures 3 3"] | None:
        """eV/Angstrom^3 in ASE's sign; NaN where not all three directions repeat."""
        return None if self.strain_gradient is None else stress_of(self.graph, self.strain_gradient)


def evaluate_graph(fitted: Fitted, backbone: Backbone, graph: GraphBatch, wanted: Wanted) -> Evaluated:
    """Evaluate the structures of one graph, by one pass forward and one back through backbone and kernel.

    Args:
        fitted: the potential.
        backbone: the network it was fitted with.
        graph: from `build_batch` or `GraphBatch.from_tensors`.
        wanted: quantities.
    """
    tangent = fitted.model.tangent
    change = None if tangent is None else tangent.change
    seen = look(graph, backbone, fitted.layers, gradients=wanted.gradients, change=change)
    device = fitted.model.coefficients.device
    raw = seen.environments.to(device)
    x = fitted.scaler(raw)
    kernel = fitted.function(x, slopes=wanted.forces, rows=wanted.energy_std)
    own = None if seen.atomic_energies is None else seen.atomic_energies.to(device)
    atomic = kernel.atomic_energies + fitted.prior.shift_energies(raw.species)
    if fitted.prior.factor and own is not None:
        atomic = atomic + fitted.prior.factor * own
    if seen.tangent is not None:
        atomic = atomic + seen.tangent.detach().to(atomic)
    found = Evaluated(graph, atomic, backbone_atomic_energies=own)
    if wanted.backbone_forces and own is not None:
        gradient = seen.backbone_gradient(keep=wanted.forces or wanted.forces_std)
        found = replace(found, backbone_forces=seen.pull_back(gradient).forces.to(device))
    if wanted.atomic_std:
        beside = None if tangent is None else tangent.of_atoms(backbone, seen.graph)
        found = replace(found, atomic_std=fitted.model.atomic_deviation(x, beside))
    if wanted.forces_std:
        variance = _force_variance(fitted, seen, x)
        found = replace(found, forces_std=fitted.model.force_deviation(variance))
    if kernel.slopes is not None:
        gradient = seen.edge_gradient(fitted.scaler.pull_back(kernel.slopes), fitted.prior.factor)
        pulled = seen.pull_back(gradient)
        found = replace(
            found,
            edge_gradient=graph.in_given_order(gradient.to(device)),
            forces=pulled.forces.to(device),
            strain_gradient=pulled.strain_gradient.to(device),
        )
    if kernel.rows is not None:
        T = None if tangent is None else tangent.space.of(backbone, seen.graph).to(device)
        found = replace(found, energy_std=fitted.energy_deviation(x, kernel.rows, T))
    return found


def evaluate_owned(
    fitted: Fitted, backbone: Backbone, graph: GraphBatch, owned: int, exchange: Exchange | None
) -> Evaluated:
    """Energies of a process's own atoms, and the gradient of all processes' energies in its edges.

    Args:
        fitted: the potential, sum embedding.
        backbone: the network it was fitted with.
        graph: of one structure, own atoms first, then ghosts; edges start at own atoms.
        owned: how many own atoms.
        exchange: with the processes that own the ghosts; None without any.

    Raises:
        ValueError: for an exchange that the network never asks for.
    """
    if exchange is not None and not backbone.exchanges:
        raise ValueError(
            f"{backbone.name} asks for no features of atoms that other processes own; SevenNet does. Run on one rank"
        )
    tangent = fitted.model.tangent
    with exchanging(exchange):
        change = None if tangent is None else tangent.change
        seen = look(graph, backbone, fitted.layers, gradients=True, change=change)
        own = BackboneOutput(seen.output.features[:owned], _first(seen.output.atomic_energies, owned))
        seen = replace(seen, output=own, tangent=_first(seen.tangent, owned))
        raw = Environments(own.features.detach(), seen.graph.species[:owned], torch.tensor([owned]))
        raw = raw.to(fitted.model.coefficients.device)
        kernel = fitted.function(fitted.scaler(raw), slopes=True)
        assert kernel.slopes is not None
        atomic = kernel.atomic_energies + fitted.prior.shift_energies(raw.species)
        if fitted.prior.factor and seen.atomic_energies is not None:
            atomic = atomic + fitted.prior.factor * seen.atomic_energies.to(atomic)
        if seen.tangent is not None:
            atomic = atomic + seen.tangent.detach().to(atomic)
        gradient = seen.edge_gradient(fitted.scaler.pull_back(kernel.slopes), fitted.prior.factor)
    return Evaluated(graph, atomic, edge_gradient=graph.in_given_order(gradient.to(atomic)))


def _first(values: Tensor | None, count: int) -> Tensor | None:
    return None if values is None else values[:count]


def _force_variance(fitted: Fitted, seen: Pass, x: Environments) -> Float[Tensor, "atoms 3"]:
    """Mean square over posterior draws of what forces differ by from the mean, at unit amplitude."""
    n = len(x.species)
    total = x.features.new_zeros(n, 3)
    # A draw changes the weights its own way, so it needs a pass of its own: of few atoms, many draws in one.
    at_once = 1 if fitted.model.tangent is None else max(1, min(FORCE_DRAWS, BATCH_ATOMS // n))
    copies = {k: seen.graph.repeated(k) for k in {at_once, FORCE_DRAWS % at_once or at_once}}
    for slopes, change in fitted.model.force_draws(x, FORCE_DRAWS, at_once):
        drawn = seen
        if change is not None:
            drawn = look(copies[change.copies], seen.backbone, seen.layers, gradients=True, change=change)
        gradient = drawn.edge_gradient(fitted.scaler.pull_back(slopes), keep=change is None)
        total += drawn.pull_back(gradient).forces.to(total).square().reshape(-1, n, 3).sum(0)
    return total / FORCE_DRAWS
