"""What a network with shifts, and nothing else, is wrong by."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mekrr.backbones import Backbone
from mekrr.data import Structure
from mekrr.features import extract, observe
from mekrr.potential.held_out import HeldOutErrors
from mekrr.prior import Compositions, Prior, fit_prior
from mekrr.solve import RowWeights
from mekrr.typing import Float, Tensor


@dataclass(frozen=True, eq=False)
class Errors:
    """What a network with shifts is wrong by.

    Attributes:
        energy: of each structure, eV.
        force: mean square over the components of each structure, (eV/Angstrom)^2; NaN without forces.
        strain: sum of squares over strains of each structure, eV^2; 0 without stress.
        n_atoms: of each structure.
        weights: of each structure.
    """

    energy: Float[Tensor, "structures"]
    force: Float[Tensor, "structures"]
    strain: Float[Tensor, "structures"]
    n_atoms: Float[Tensor, "structures"]
    weights: Float[Tensor, "structures"]

    def objective(self, weights: RowWeights) -> float:
        """What the equations minimise, with all force components in place of probes, without the ridge."""
        forces = torch.nan_to_num(self.force) * 3 * self.n_atoms
        each = (self.energy.square() + weights.stress * self.strain) / self.n_atoms + weights.force * forces
        return float((self.weights * each).sum())

    @property
    def score(self) -> float:
        """Minus the log of the geometric mean of both errors, as leave-one-out's."""
        energy = (self.energy.abs() / self.n_atoms.sqrt()).mean().clamp_min(1e-12).log()
        force = self.force.sqrt().nanmean().log()
        return float(-energy if force.isnan() else -0.5 * (energy + force))

    def summary(self) -> HeldOutErrors:
        """For the record."""
        return HeldOutErrors.of(self.energy, self.force, self.n_atoms)


def fit_shifts(backbone: Backbone, structures: Sequence[Structure]) -> Prior:
    """The network's energy plus one shift an element, fitted to labels."""
    atoms = [s.atoms for s in structures]
    own = extract(atoms, backbone, backbone.layers[:1]).energies
    species = torch.cat([torch.as_tensor(s.species, dtype=torch.int64) for s in structures])
    compositions = Compositions.of(species, torch.tensor([len(s) for s in structures]))
    energies = torch.tensor([s.energy for s in structures], dtype=torch.float64)
    weights = torch.tensor([s.weight for s in structures], dtype=torch.float64)
    return fit_prior("backbone", energies, compositions, own, weights)[0]


def network_errors(backbone: Backbone, prior: Prior, structures: Sequence[Structure]) -> Errors:
    """Of a network with shifts, on labelled structures."""
    energy, force, strain = [], [], []
    for chosen, seen in observe([s.atoms for s in structures], backbone, backbone.layers[:1], gradients=True):
        assert seen.atomic_energies is not None
        shifted = seen.atomic_energies.cpu() + prior.shift_energies(seen.graph.species.cpu())
        pulled = seen.pull_back(seen.edge_gradient(factor=1.0))
        sizes = seen.graph.n_atoms.tolist()
        forces, gradients = (part.double().cpu() for part in (pulled.forces, pulled.strain_gradient))
        parts = zip(chosen, shifted.split(sizes), forces.split(sizes), gradients, strict=True)
        for t, e, f, g in parts:
            s = structures[t]
            energy.append(float(s.energy or 0.0) - float(e.sum()))
            difference = None if s.forces is None else torch.as_tensor(s.forces, dtype=torch.float64) - f
            force.append(float("nan") if difference is None else float(difference.square().mean()))
            strain.append(0.0 if s.stress is None else _strain_error(s, g))
    n = torch.tensor([len(s) for s in structures], dtype=torch.float64)
    weights = torch.tensor([s.weight for s in structures], dtype=torch.float64)
    return Errors(_doubles(energy), _doubles(force), _doubles(strain), n, weights)


def _doubles(values: list[float]) -> Float[Tensor, "structures"]:
    return torch.tensor(values, dtype=torch.float64)


def _strain_error(structure: Structure, gradient: Float[Tensor, "3 3"]) -> float:
    """Sum of squares over the six strains."""
    label = torch.as_tensor(structure.stress, dtype=torch.float64) * structure.atoms.get_volume()
    return float((label - gradient)[torch.triu_indices(3, 3).unbind()].square().sum())
