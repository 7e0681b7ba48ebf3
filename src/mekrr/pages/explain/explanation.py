"""Predicted energies taken apart: by atom, by species, and by what the potential remembers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from ase import Atoms

from mekrr.data import Structure, as_structures
from mekrr.features import Environments, Pass, observe
from mekrr.pages.explain.known import Known
from mekrr.pages.explain.weights import Weighing
from mekrr.potential import Fitted, KernelPotential, StageProgress
from mekrr.typing import Float, Int, Tensor


@dataclass(frozen=True, eq=False)
class Explanation:
    """Energies of structures with their parts; atoms are grouped by structure in the order given.

    Attributes:
        fitted: the potential.
        structures: explained.
        known: the environments the potential remembers.
        species: atomic numbers.
        n_atoms: of each structure.
        shift: part of the prior that no geometry changes, eV.
        backbone: part of the prior that comes from the backbone's energy, eV; 0 for priors without one.
        kernel: the part that was learned on features, eV.
        tangent: the part that a change of the network's weights makes, eV; 0 without a tangent kernel.
        kernel_by_species: the same, split by the species of the inducing environments weighed, eV; None for the exact
            solver, which weighs whole structures.
        elements: of the columns, atomic numbers.
        deviation: calibrated standard deviation of each atom's energy, eV.
        energy_std: the same of the total energies, eV.
        terms: c_g k_g(x) of each group g (training structure, or inducing environment), eV; they add up to the kernel
            part.
        weights: a_g(x) of each group; with the values of `weighing` they add up to the kernel part.
        weighing: what weighs them.
        nearest: index of the nearest remembered environment of the same species; -1 for a species never seen.
        distance: to it, between standardised features; infinite for a species never seen.
    """

    fitted: Fitted
    structures: list[Structure]
    known: Known
    species: Int[Tensor, "atoms"]
    n_atoms: Int[Tensor, "structures"]
    shift: Float[Tensor, "atoms"]
    backbone: Float[Tensor, "atoms"]
    kernel: Float[Tensor, "atoms"]
    tangent: Float[Tensor, "atoms"]
    kernel_by_species: Float[Tensor, "atoms elements"] | None
    elements: tuple[int, ...]
    deviation: Float[Tensor, "atoms"]
    energy_std: Float[Tensor, "structures"]
    terms: Float[Tensor, "structures groups"]
    weights: Float[Tensor, "structures groups"]
    weighing: Weighing
    nearest: Int[Tensor, "atoms"]
    distance: Float[Tensor, "atoms"]

    @property
    def prior(self) -> Float[Tensor, "atoms"]:
        """The part that does not come from the kernel, eV."""
        return self.shift + self.backbone

    @property
    def energy(self) -> Float[Tensor, "atoms"]:
        """Prior and learned parts, eV."""
        return self.prior + self.kernel + self.tangent

    @property
    def contributions(self) -> Float[Tensor, "structures groups"]:
        """Kernel part, split by groups: weights times values, eV."""
        return self.weights * self.weighing.values

    @property
    def structure(self) -> Int[Tensor, "atoms"]:
        """For each atom, the index of its structure."""
        return torch.repeat_interleave(torch.arange(len(self.n_atoms)), self.n_atoms)

    @property
    def atom(self) -> Int[Tensor, "atoms"]:
        """For each atom, its index in its structure."""
        return torch.cat([torch.arange(n) for n in self.n_atoms.tolist()])

    @property
    def novelty(self) -> Float[Tensor, "atoms"]:
        """Distance over what is usual between remembered environments of that species; NaN where nothing is usual."""
        usual = torch.tensor([self.known.usual.get(z, 0.0) for z in self.species.tolist()], dtype=torch.float64)
        ratio = self.distance / torch.where(usual > 0, usual, torch.nan)
        return torch.where(self.distance.isinf(), self.distance, ratio)

    def by_structure(self, values: Float[Tensor, "atoms"]) -> Float[Tensor, "structures"]:
        """Sums over the atoms of each structure."""
        return torch.zeros(len(self.n_atoms), dtype=values.dtype).index_add_(0, self.structure, values)


def explain(
    potential: KernelPotential, structures: Sequence[Structure | Atoms], progress: StageProgress | None = None
) -> Explanation:
    """Take the energies of structures apart.

    Args:
        potential: fitted, with the sum embedding.
        structures: at least one; labels, if any, are not looked at.
        progress: called with a stage's name, the structures done and the structures in all.

    Raises:
        ValueError: for a potential with the mean embedding, which has no atomic energies, or no structures.
        DataError: when a structure has elements the potential cannot treat.
    """
    chosen = as_structures(structures)
    _check(potential, chosen)
    fitted, backbone = potential.fitted_, potential.backbone
    known, weighing = Known.of(fitted), Weighing.of(fitted)
    parts: list[Explanation] = []
    done = 0
    atoms = [s.atoms for s in chosen]
    change = None if fitted.model.tangent is None else fitted.model.tangent.change
    batch_atoms = potential.options.batch_atoms
    for batch, seen in observe(atoms, backbone, fitted.layers, batch_atoms=batch_atoms, change=change):
        parts.append(_explain_batch(fitted, seen, [chosen[t] for t in batch], known, weighing))
        done += len(batch)
        if progress is not None:
            progress("explain", done, len(chosen))
    return _joined(parts, chosen)


def _check(potential: KernelPotential, structures: Sequence[Structure]) -> None:
    if not structures:
        raise ValueError("no structures were given; give at least one to explain")
    potential.check_species([s.atoms for s in structures])
    if potential.fitted_.embedding != "sum":
        raise ValueError(
            f"this potential was fitted with the {potential.fitted_.embedding} embedding, which has no atomic energies "
            "to explain; fit with --embedding sum"
        )


def _explain_batch(
    fitted: Fitted, seen: Pass, structures: list[Structure], known: Known, weighing: Weighing
) -> Explanation:
    raw = seen.environments.to("cpu")
    own = None if seen.atomic_energies is None else seen.atomic_energies.cpu()
    x = fitted.scaler(raw)
    expanded = fitted.function(x, slopes=False, rows=True)
    cross = expanded.rows
    assert cross is not None
    nearest = known.nearest(x)
    part = fitted.model.tangent
    T = None if part is None else part.space.of(seen.backbone, seen.graph).cpu()
    beside = None if part is None else part.of_atoms(seen.backbone, seen.graph)
    tangent = (
        torch.zeros_like(expanded.atomic_energies) if seen.tangent is None else seen.tangent.detach().cpu().double()
    )
    elements = tuple(torch.unique(known.species).tolist())
    return Explanation(
        fitted=fitted,
        structures=structures,
        known=known,
        species=raw.species,
        n_atoms=raw.n_atoms,
        shift=fitted.prior.shift_energies(raw.species),
        backbone=torch.zeros(len(raw.species), dtype=torch.float64) if own is None else fitted.prior.factor * own,
        kernel=expanded.atomic_energies,
        tangent=tangent,
        kernel_by_species=_by_species(fitted, weighing, x, elements),
        elements=elements,
        deviation=fitted.model.atomic_deviation(x, beside),
        energy_std=fitted.energy_deviation(x, cross, T),
        terms=cross * fitted.function.coefficients,
        weights=weighing(cross),
        weighing=weighing,
        nearest=nearest.index,
        distance=nearest.distance,
    )


def _by_species(
    fitted: Fitted, weighing: Weighing, x: Environments, elements: Sequence[int]
) -> Float[Tensor, "atoms elements"] | None:
    """The kernel part of atomic energies by the species of the inducing environments weighed."""
    if fitted.model.solver == "exact":
        return None
    u = fitted.model.centres
    parts = weighing(fitted.model.kernel.between_atoms(x, u)) * weighing.values
    return torch.stack([parts[:, u.species == z].sum(1) for z in elements], dim=1)


def _joined(parts: Sequence[Explanation], structures: list[Structure]) -> Explanation:
    """Explanations of batches as one."""
    first = parts[0]
    joined: dict[str, Any] = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name, value in vars(first).items()
        if isinstance(value, Tensor)
    }
    return replace(first, structures=structures, **joined)
