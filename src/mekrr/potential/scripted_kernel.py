"""The kernel parts of a potential as TorchScript: on features, and on the gradient in the network's weights.

Both say, of each atom, its energy, what it adds to the rows of the basis, and the values of posterior draws; rows and
draws of a structure are sums of those of its atoms, because the embedding is a sum.
"""

from collections.abc import Sequence
from typing import Any, List  # noqa: UP035 (TorchScript reads it)

import torch
from torch import Tensor

from mekrr.kernels import Component, GaussianKernel, LinearKernel
from mekrr.potential.draws import PosteriorDraws
from mekrr.potential.model import Model, TangentPart


class ScriptedComponent(torch.nn.Module):
    """One component of a structure kernel between atoms and the centres of a basis.

    Args:
        component: Gaussian or linear.
        centres: u, standardised, float64.
        species: of the centres.

    Raises:
        ValueError: for another pointwise kernel.
    """

    scaled: Tensor
    halves: Tensor
    species: Tensor

    def __init__(self, component: Component, centres: Tensor, species: Tensor) -> None:
        super().__init__()
        kernel = component.pointwise
        if not isinstance(kernel, GaussianKernel | LinearKernel):
            raise ValueError(f"the kernel {kernel.name} cannot be written as TorchScript; gaussian and linear can")
        self.gaussian = isinstance(kernel, GaussianKernel)
        self.unit = kernel.length_scale * (1.0 if self.gaussian else centres.shape[1] ** 0.5)
        self.all_pairs, self.same_species = component.all_pairs, component.same_species
        scaled = centres / self.unit
        self.register_buffer("scaled", scaled.contiguous())
        self.register_buffer("halves", 0.5 * scaled.square().sum(1))
        self.register_buffer("species", species.clone())

    def forward(self, features: Tensor, species: Tensor) -> Tensor:
        """K(h_i, u_m) [a + b (z_i = z_m)], (atoms, centres)."""
        return self.between(features, species, self.scaled, self.halves, self.species)

    @torch.jit.export
    def among(self, features: Tensor, species: Tensor) -> Tensor:
        """The same between all pairs of some atoms, (atoms, atoms)."""
        scaled = features / self.unit
        return self.between(features, species, scaled, 0.5 * scaled.square().sum(1), species)

    def between(self, features: Tensor, species: Tensor, scaled: Tensor, halves: Tensor, other: Tensor) -> Tensor:
        """The same, from prepared factors on the right."""
        h = features / self.unit
        values = h @ scaled.T
        if self.gaussian:
            values = torch.exp(values - 0.5 * h.square().sum(1, keepdim=True) - halves)
        same = (species[:, None] == other[None, :]).to(values.dtype)
        return values * (self.all_pairs + self.same_species * same)


class ScriptedFeatureDraws(torch.nn.Module):
    """Values of posterior draws minus the mean: the part of a component's random features.

    Args:
        draws: of the potential.
        index: of the component.
        elements: atomic numbers, ascending.
    """

    frequencies: Tensor
    phases: Tensor
    weights: Tensor

    def __init__(self, draws: PosteriorDraws, index: int, elements: Sequence[int]) -> None:
        super().__init__()
        feature_map = draws.paths.maps[index]
        phases = feature_map.phases
        self.register_buffer("frequencies", feature_map.frequencies.clone())
        self.register_buffer("phases", torch.zeros(0) if phases is None else phases.clone())
        self.scale = (2 / feature_map.frequencies.shape[1]) ** 0.5
        self.register_buffer("weights", torch.stack([draws.paths.weights(index, z) for z in elements]))

    def forward(self, features: Tensor, row: Tensor) -> Tensor:
        """Of each atom, (atoms, draws); `row` is the place of its element."""
        mapped = features @ self.frequencies
        if len(self.phases) > 0:
            mapped = self.scale * torch.cos(mapped + self.phases)
        found = torch.zeros((len(features), self.weights.shape[2]), dtype=mapped.dtype, device=mapped.device)
        for z in range(len(self.weights)):
            found = found + torch.where((row == z)[:, None], mapped @ self.weights[z], 0.0)
        return found


class ScriptedFeatures(torch.nn.Module):
    """The kernel on features.

    Args:
        model: of a potential with the sum embedding.
        draws: of its posterior.
        elements: atomic numbers that occur, ascending.
    """

    mean: Tensor
    scale: Tensor
    group: Tensor
    coefficients: Tensor
    corrections: Tensor
    L: Tensor

    def __init__(self, model: Model, draws: PosteriorDraws, elements: Sequence[int]) -> None:
        super().__init__()
        u, kernel = model.centres, model.kernel
        components = [ScriptedComponent(c, u.features, u.species) for c in kernel.components]
        self.components: Any = torch.nn.ModuleList(components)
        random = [ScriptedFeatureDraws(draws, index, elements) for index in range(len(kernel.components))]
        self.random: Any = torch.nn.ModuleList(random)
        self.groups = len(model.coefficients)
        self.share = model.features_share
        self.register_buffer("mean", model.scaler.mean.clone())
        self.register_buffer("scale", model.scaler.scale.clone())
        self.register_buffer("group", u.structure)
        self.register_buffer("coefficients", model.coefficients.clone())
        self.register_buffer("corrections", draws.corrections.clone())
        self.register_buffer("L", model.basis.features.L.clone())

    @torch.jit.export
    def standardised(self, features: Tensor) -> Tensor:
        """Float64."""
        return (features.double() - self.mean) / self.scale

    def forward(self, h: Tensor, species: Tensor) -> Tensor:
        """The basis functions of each atom, (atoms, groups)."""
        found = torch.zeros((len(h), len(self.group)), dtype=h.dtype, device=h.device)
        for component in self.components:
            found = found + component(h, species)
        if len(self.group) == self.groups:
            return found
        pooled = torch.zeros((len(h), self.groups), dtype=h.dtype, device=h.device)
        return pooled.index_add(1, self.group, found)

    @torch.jit.export
    def draws(self, h: Tensor, phi: Tensor, row: Tensor) -> Tensor:
        """Of each atom, (atoms, draws)."""
        found = phi @ self.corrections
        for random in self.random:
            found = found + random(h, row)
        return self.share**0.5 * found

    @torch.jit.export
    def own(self, h: Tensor, species: Tensor, structure: Tensor, n_structures: int) -> Tensor:
        """The kernel of each structure with itself."""
        found: List[Tensor] = []  # noqa: UP006
        for t in range(n_structures):
            mine = structure == t
            total = torch.zeros((), dtype=h.dtype, device=h.device)
            for component in self.components:
                total = total + component.among(h[mine], species[mine]).sum()
            found.append(self.share * total)
        return torch.stack(found)

    @torch.jit.export
    def own_of_atoms(self, h: Tensor) -> Tensor:
        """The kernel of each atom with itself."""
        total = torch.zeros(len(h), dtype=h.dtype, device=h.device)
        for c in self.components:
            diagonal = torch.ones_like(total) if c.gaussian else (h / c.unit).square().sum(1)
            total = total + (c.all_pairs + c.same_species) * diagonal
        return self.share * total

    @torch.jit.export
    def whitened(self, phi: Tensor) -> Tensor:
        """Rows in coordinates in which the prior covariance is the identity, with the share of this kernel."""
        return self.share**0.5 * torch.linalg.solve_triangular(self.L, phi.T, upper=False).T


class ScriptedMap(torch.nn.Module):
    """Coordinates of the gradient in one linear map.

    Args:
        place: of the map, among those of the network.
        left: principal directions of the activations, (n_in, rank).
        right: of the signals, (n_out, rank).
        scale: of the products, (rank, rank).
    """

    left: Tensor
    right: Tensor
    scale: Tensor

    def __init__(self, place: int, left: Tensor, right: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.place = place
        self.register_buffer("left", left.clone())
        self.register_buffer("right", right.clone())
        self.register_buffer("scale", scale.clone())

    def forward(self, a: Tensor, g: Tensor) -> Tensor:
        """Of each atom, (atoms, rank x rank), float64, from activation and signal, flat."""
        a = torch.einsum("iuc,ur->irc", a.reshape(len(a), self.left.shape[0], -1), self.left)
        g = torch.einsum("ivc,vs->isc", g.reshape(len(g), self.right.shape[0], -1), self.right)
        return (torch.einsum("irc,isc->irs", a, g).double() * self.scale).flatten(1)


class ScriptedTangent(torch.nn.Module):
    """The tangent kernel of a network.

    Args:
        part: of the model; its elements are those of the space.
        names: of the network's linear maps, in its order.
        draws: of the posterior, their changes of the weights.
    """

    weights: Tensor
    changes: Tensor
    rows_of: Tensor
    L: Tensor

    def __init__(self, part: TangentPart, names: Sequence[str], draws: Tensor) -> None:
        super().__init__()
        space, basis = part.space, part.basis
        parts = zip(space.names, space.left, space.right, space.scale, strict=True)
        self.maps: Any = torch.nn.ModuleList([ScriptedMap(names.index(name), *rest) for name, *rest in parts])
        self.species_weight, self.amplitude, self.share = basis.species_weight, basis.amplitude, part.share
        self.register_buffer("weights", part.weights.clone())
        self.register_buffer("changes", draws.clone())
        self.register_buffer("rows_of", basis.rows_of.clone())  # in half precision, as in the model file
        self.register_buffer("L", basis.L.clone())

    def forward(self, activations: List[Tensor], signals: List[Tensor]) -> Tensor:  # noqa: UP006
        """T of each atom, (atoms, width), float64."""
        found: List[Tensor] = []  # noqa: UP006
        for m in self.maps:
            found.append(m(activations[m.place], signals[m.place]))
        return torch.cat(found, dim=1)

    @torch.jit.export
    def energies(self, T: Tensor, row: Tensor) -> Tensor:
        """What each atom's T adds to the energy, eV."""
        return (T * self.weights[row]).sum(1)

    @torch.jit.export
    def draws(self, T: Tensor, row: Tensor) -> Tensor:
        """The same of each draw, (atoms, draws)."""
        found = torch.zeros((len(T), len(self.changes)), dtype=T.dtype, device=T.device)
        for z in range(self.changes.shape[1]):
            found = found + torch.where((row == z)[:, None], T @ self.changes[:, z].T, 0.0)
        return found

    @torch.jit.export
    def basis(self, T: Tensor, row: Tensor) -> Tensor:
        """The basis functions of each atom, (atoms, functions)."""
        w = self.species_weight
        everything = T @ self.rows_of.double().sum(1).T
        found = (1.0 - w) * everything
        for z in range(self.rows_of.shape[1]):
            found = found + torch.where((row == z)[:, None], w * (T @ self.rows_of[:, z].double().T), 0.0)
        return found

    @torch.jit.export
    def own(self, T: Tensor, row: Tensor, structure: Tensor, n_structures: int) -> Tensor:
        """The kernel of each structure with itself."""
        elements = self.weights.shape[0]
        by_element = torch.zeros((n_structures * elements, T.shape[1]), dtype=T.dtype, device=T.device)
        by_element = by_element.index_add(0, structure * elements + row, T).reshape(n_structures, elements, -1)
        everything, same = by_element.sum(1).square().sum(1), by_element.square().sum(2).sum(1)
        w = self.species_weight
        return self.share * self.amplitude * ((1.0 - w) * everything + w * same)

    @torch.jit.export
    def own_of_atoms(self, T: Tensor) -> Tensor:
        """The kernel of each atom with itself."""
        return self.share * self.amplitude * T.square().sum(1)

    @torch.jit.export
    def whitened(self, phi: Tensor) -> Tensor:
        """Rows in coordinates in which the prior covariance is the identity, with the share of this kernel."""
        psi = torch.linalg.solve_triangular(self.L, phi.T, upper=False).T
        return (self.share * self.amplitude) ** 0.5 * psi
