"""A fitted potential as one TorchScript module: network, both kernels, prior, deviations and an ensemble.

Edges come in, quantities of atoms go out, to be summed over whatever atoms an engine asks for. What the tangent kernel
adds to an energy is T . weights, with T made of activations and of signals dE/dy: a reverse pass inside the module,
which engines differentiate once more for forces.
"""

from typing import Any, Dict, List, Tuple  # noqa: UP035 (TorchScript reads these)

import torch
from torch import Tensor

from mekrr.backbones import Backbone
from mekrr.potential.fitted import Fitted
from mekrr.potential.scripted_kernel import ScriptedFeatures, ScriptedTangent

MEMBERS = 32  # of the ensemble: their standard deviation is known to an eighth


class ScriptedPotential(torch.nn.Module):
    """Energies, deviations and an ensemble, from edges and their vectors.

    Args:
        fitted: with the sum embedding.
        backbone: the network it was fitted with, which can be scripted.
        members: of the ensemble.

    Raises:
        ValueError: for another embedding, kernel or network.
    """

    half_covariance: Tensor
    shifts: Tensor
    rows: Tensor
    tangent_rows: Tensor
    offsets: Tensor

    def __init__(self, fitted: Fitted, backbone: Backbone, members: int = MEMBERS) -> None:
        super().__init__()
        if fitted.embedding != "sum":
            raise ValueError(
                "this potential was fitted with the mean embedding: its energy is no sum over atoms, which programs "
                "that load it rely on; fit with --embedding sum"
            )
        model, elements = fitted.model, sorted(fitted.known_species)
        self.network: Any = backbone.scripted(fitted.layers)
        draws = model.posterior_draws(members)
        self.features = ScriptedFeatures(model, draws, elements)
        names = [m.name for m in backbone.linear_maps]
        self.tangent = None if model.tangent is None else ScriptedTangent(model.tangent, names, draws.changes)
        self.moves = model.tangent is not None and model.tangent.change is not None  # refined networks have done so
        self.factor = float(fitted.prior.factor)
        self.amplitude, self.noise = float(model.amplitude), float(model.energy_amplitude * model.ridge)
        self.register_buffer("half_covariance", model._half_covariance.clone())
        species = torch.arange(1 + max(elements))
        self.register_buffer("shifts", fitted.prior.shift_energies(species))
        self.register_buffer("rows", _places(elements, elements, -1))
        known = model.tangent.space.species if model.tangent is not None else ()
        self.register_buffer("tangent_rows", _places(elements, known, len(known)))
        self.register_buffer("offsets", _offsets(members))

    def forward(
        self,
        species: Tensor,
        structure: Tensor,
        n_atoms: Tensor,
        centre: Tensor,
        neighbour: Tensor,
        vectors: Tensor,
        counted: Tensor,
        whole: bool,
        systems: List[str],  # noqa: UP006
        atoms: List[str],  # noqa: UP006
    ) -> Dict[str, Tensor]:  # noqa: UP006
        """Quantities by name, those of atoms with "/atom" behind it.

        Args:
            species: atomic numbers.
            structure: of each atom.
            n_atoms: of each structure.
            centre: of each edge.
            neighbour: of each edge.
            vectors: from centre to neighbour, Angstrom.
            counted: 1.0 for the atoms whose energies count, 0.0 for others; float64.
            whole: whether all atoms count, so that quantities of atoms and of structures share their passes.
            systems: which of "energy", "energy_uncertainty" and "energy_ensemble" are wanted of structures, eV.
            atoms: which are wanted of atoms, eV.

        Returns:
            (structures, values) and (atoms, values), float64.
        """
        uncertain = self.deviates(systems) or self.deviates(atoms)
        tracked = self.tangent is not None and (self.moves or uncertain)
        before = torch.is_grad_enabled()
        if tracked:
            torch.set_grad_enabled(True)
        features, own, activations, outputs = self.network(
            species, structure, n_atoms, centre, neighbour, vectors, tracked
        )
        h = self.features.standardised(features)
        phi = self.features(h, species)
        energies = phi @ self.features.coefficients + self.shifts[species] + self.factor * own.double()
        row = self.tangent_rows[species]
        T = torch.zeros((len(species), 0), dtype=h.dtype, device=h.device)
        moved, moved_by_atom = torch.zeros_like(energies), torch.zeros_like(energies)
        shared = whole and len(systems) > 0 and len(atoms) > 0
        if tracked and len(systems) > 0:
            T, moved, moved_by_atom = self.differentiated(own, activations, outputs, counted, row, shared, before)
        T_atoms = T
        if tracked and len(atoms) > 0 and not shared:
            T_atoms, _, moved_by_atom = self.differentiated(
                own, activations, outputs, torch.ones_like(counted), row, True, before
            )
        if tracked:
            torch.set_grad_enabled(before)
        n = len(n_atoms)
        found: Dict[str, Tensor] = {}  # noqa: UP006
        total = self.summed(energies * counted + moved, structure, n)
        size = self.summed(counted, structure, n)
        for name in systems:
            if name == "energy":
                found[name] = total.unsqueeze(1)
            elif name == "energy_uncertainty":
                found[name] = self.deviation(h, phi, T, species, row, structure, counted, n, size).unsqueeze(1)
            else:
                spread = self.spread(h, phi, T, species, row, structure, counted, n, size)
                found[name] = total.unsqueeze(1) + spread
        for name in atoms:
            values = energies + moved_by_atom
            if name == "energy":
                found[name + "/atom"] = values.unsqueeze(1)
            elif name == "energy_uncertainty":
                found[name + "/atom"] = self.deviation_of_atoms(h, phi, T_atoms, row).unsqueeze(1)
            else:
                found[name + "/atom"] = values.unsqueeze(1) + self.spread_of_atoms(h, phi, T_atoms, species, row)
        return found

    def deviates(self, names: List[str]) -> bool:  # noqa: UP006
        """Whether any of the quantities is a deviation."""
        return "energy_uncertainty" in names or "energy_ensemble" in names

    def differentiated(
        self,
        own: Tensor,
        activations: List[Tensor],  # noqa: UP006
        outputs: List[Tensor],  # noqa: UP006
        counted: Tensor,
        row: Tensor,
        by_atom: bool,
        keep: bool,
    ) -> Tuple[Tensor, Tensor, Tensor]:  # noqa: UP006
        """T of each atom, what it adds to the energy, and that attributed to the atoms whose energies it changes.

        The second is where the weights act. The third is the derivative of each atom's own energy along the change of
        the weights: that of the second's sum in the seeds of the reverse pass.
        """
        seeds = counted.to(own.dtype).detach().requires_grad_(True)
        split = by_atom and self.moves
        gradients = torch.autograd.grad([(own * seeds).sum()], outputs, retain_graph=True, create_graph=keep or split)
        signals: List[Tensor] = []  # noqa: UP006
        for gradient in gradients:
            assert gradient is not None
            signals.append(gradient)
        T = torch.zeros((len(row), 0), dtype=counted.dtype, device=counted.device)
        moved = torch.zeros_like(counted)
        if self.tangent is not None:
            T = self.tangent(activations, signals)
            if self.moves:
                moved = self.tangent.energies(T, row)
        by = torch.zeros_like(counted)
        if split:
            derived = torch.autograd.grad([moved.sum()], [seeds], retain_graph=True, create_graph=keep)[0]
            assert derived is not None
            by = derived.to(moved.dtype)
        if not keep:
            T, moved, by = T.detach(), moved.detach(), by.detach()
        return T, moved, by

    def summed(self, values: Tensor, structure: Tensor, n: int) -> Tensor:
        """Over the atoms of each structure."""
        shape = [n] + list(values.shape[1:])  # noqa: RUF005 (TorchScript knows no unpacking)
        return torch.zeros(shape, dtype=values.dtype, device=values.device).index_add(0, structure, values)

    def variance(self, own: Tensor, psi: Tensor) -> Tensor:
        """See Model.variance."""
        left_open = (psi @ self.half_covariance.T).square().sum(1)
        return (own - psi.square().sum(1)).clamp_min(0.0) + left_open

    def deviation(
        self,
        h: Tensor,
        phi: Tensor,
        T: Tensor,
        species: Tensor,
        row: Tensor,
        structure: Tensor,
        counted: Tensor,
        n: int,
        size: Tensor,
    ) -> Tensor:
        """Calibrated standard deviation of the energy of the atoms that count, of each structure."""
        chosen = counted > 0
        own = self.features.own(h[chosen], species[chosen], structure[chosen], n)
        psi = self.features.whitened(self.summed(phi * counted[:, None], structure, n))
        if self.tangent is not None:
            own = own + self.tangent.own(T, row, structure, n)
            rows = self.summed(self.tangent.basis(T, row), structure, n)
            psi = torch.cat([psi, self.tangent.whitened(rows)], dim=1)
        return (self.amplitude * self.variance(own, psi) + self.noise * size).sqrt()

    def deviation_of_atoms(self, h: Tensor, phi: Tensor, T: Tensor, row: Tensor) -> Tensor:
        """The same of each atom's energy."""
        own, psi = self.features.own_of_atoms(h), self.features.whitened(phi)
        if self.tangent is not None:
            own = own + self.tangent.own_of_atoms(T)
            psi = torch.cat([psi, self.tangent.whitened(self.tangent.basis(T, row))], dim=1)
        return (self.amplitude * self.variance(own, psi) + self.noise).sqrt()

    def spread(
        self,
        h: Tensor,
        phi: Tensor,
        T: Tensor,
        species: Tensor,
        row: Tensor,
        structure: Tensor,
        counted: Tensor,
        n: int,
        size: Tensor,
    ) -> Tensor:
        """What the members of the ensemble differ by from the energy of each structure, noise included."""
        each = self.features.draws(h, phi, self.rows[species]) * counted[:, None]
        if self.tangent is not None:
            each = each + self.tangent.draws(T, row)
        noise = (self.noise * size).sqrt()[:, None] * self.offsets
        return self.centred(self.amplitude**0.5 * self.summed(each, structure, n) + noise)

    def spread_of_atoms(self, h: Tensor, phi: Tensor, T: Tensor, species: Tensor, row: Tensor) -> Tensor:
        """The same of each atom."""
        each = self.features.draws(h, phi, self.rows[species])
        if self.tangent is not None:
            each = each + self.tangent.draws(T, row)
        return self.centred(self.amplitude**0.5 * each + self.noise**0.5 * self.offsets)

    def centred(self, draws: Tensor) -> Tensor:
        """With the mean zero, so that the ensemble's is the energy, and a variance that is right on average."""
        return draws - draws.mean(1, keepdim=True)


def _places(elements: list[int], among: Any, other: int) -> Tensor:
    """The place of each element, by atomic number."""
    found = torch.full((1 + max(elements),), other, dtype=torch.int64)
    for place, z in enumerate(among):
        if z < len(found):
            found[z] = place
    return found


def _offsets(members: int) -> Tensor:
    """Noise of the labels in each member, at unit deviation: the same for all structures of one size."""
    return torch.randn(members, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
