"""What a network with shifts, and nothing else, is wrong by."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mekrr.backbones import Backbone
from mekrr.data import Structure
from mekrr.features import observe
from mekrr.potential.held_out import HeldOutErrors
from mekrr.prior import Compositions, Prior, fit_prior
from mekrr.solve import RowWeights
from mekrr.typing import Float, Int, Tensor


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


@dataclass(frozen=True, eq=False)
class Answers:
    """A network's own energies, forces and strain gradients, without shifts.

    Attributes:
        energies: of each structure, eV.
        forces: of each structure's atoms, eV/Angstrom.
        strain_gradients: of each structure, eV.
    """

    energies: Float[Tensor, "structures"]
    forces: tuple[Float[Tensor, "_atoms 3"], ...]
    strain_gradients: Float[Tensor, "structures 3 3"]

    @staticmethod
    def of(backbone: Backbone, structures: Sequence[Structure]) -> "Answers":
        """One pass and back over each structure."""
        found: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        for chosen, seen in observe([s.atoms for s in structures], backbone, backbone.layers[:1], gradients=True):
            assert seen.atomic_energies is not None
            pulled = seen.pull_back(seen.edge_gradient(factor=1.0))
            sizes = seen.graph.n_atoms.tolist()
            sums = [part.double().sum() for part in seen.atomic_energies.cpu().split(sizes)]
            forces, gradients = (part.double().cpu() for part in (pulled.forces, pulled.strain_gradient))
            found |= dict(zip(chosen, zip(sums, forces.split(sizes), gradients, strict=True), strict=True))
        each = [found[t] for t in range(len(structures))]
        return Answers(
            torch.stack([e for e, _, _ in each]), tuple(f for _, f, _ in each), torch.stack([g for *_, g in each])
        )

    def shifts(self, structures: Sequence[Structure]) -> Prior:
        """One shift an element, fitted to the labels that these energies leave."""
        compositions = Compositions.of(_species(structures), torch.tensor([len(s) for s in structures]))
        energies = torch.tensor([s.energy for s in structures], dtype=torch.float64)
        weights = torch.tensor([s.weight for s in structures], dtype=torch.float64)
        return fit_prior("backbone", energies, compositions, self.energies, weights)[0]

    def errors(self, prior: Prior, structures: Sequence[Structure]) -> Errors:
        """With shifts, on the structures that these answers are of."""
        force, strain = [], []
        for s, f, g in zip(structures, self.forces, self.strain_gradients, strict=True):
            difference = None if s.forces is None else torch.as_tensor(s.forces, dtype=torch.float64) - f
            force.append(float("nan") if difference is None else float(difference.square().mean()))
            strain.append(0.0 if s.stress is None else _strain_error(s, g))
        n = [len(s) for s in structures]
        shifts = prior.shift_energies(_species(structures)).split(n)
        energies = _doubles([float(s.energy or 0.0) - float(e.sum()) for s, e in zip(structures, shifts, strict=True)])
        weights = _doubles([s.weight for s in structures])
        return Errors(energies - self.energies, _doubles(force), _doubles(strain), _doubles(n), weights)


def _species(structures: Sequence[Structure]) -> Int[Tensor, "atoms"]:
    return torch.cat([torch.as_tensor(s.species, dtype=torch.int64) for s in structures])


def _doubles(values: Sequence[float]) -> Float[Tensor, "structures"]:
    return torch.tensor(values, dtype=torch.float64)


def _strain_error(structure: Structure, gradient: Float[Tensor, "3 3"]) -> float:
    """Sum of squares over the six strains."""
    label = torch.as_tensor(structure.stress, dtype=torch.float64) * structure.atoms.get_volume()
    return float((label - gradient)[torch.triu_indices(3, 3).unbind()].square().sum())
