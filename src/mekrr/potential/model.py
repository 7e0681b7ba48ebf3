"""The kernel part of a fitted potential: coefficients in a basis, and the posterior of the equations they solve."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch

from mekrr.backbones import Backbone, WeightChange
from mekrr.features import Environments, Scaler, TangentSpace
from mekrr.graph import GraphBatch
from mekrr.kernels import (
    Basis,
    JointBasis,
    KernelFunction,
    PriorDraws,
    StructureKernel,
    TangentBasis,
    covariance,
    energy_noise,
)
from mekrr.linalg import add_diagonal, inverse_root
from mekrr.potential.draws import PosteriorDraws
from mekrr.solve import NormalEquations, RowWeights
from mekrr.typing import Float, Int, Tensor

PATH_JITTER = 1e-6  # draws interpolate a prior path at the centres; less would amplify its rounding


@dataclass(frozen=True, eq=False)
class TangentPart:
    """The part of a solution that the network's tangent kernel makes: a change of its weights, to first order.

    Attributes:
        space: where gradients in the weights are described.
        basis: of the tangent kernel.
        share: s; the kernel is (1 - s) K + s K_T.
        weights: of T, for each element, and in the last row for all others.
    """

    space: TangentSpace
    basis: TangentBasis
    share: float
    weights: Float[Tensor, "elements width"]

    @staticmethod
    def of(
        space: TangentSpace | None, basis: JointBasis, whitened: Float[Tensor, "all_groups"]
    ) -> "TangentPart | None":
        """Of a solution; None without a tangent part."""
        weights = basis.weights(whitened)
        if space is None or basis.tangent is None or weights is None:
            return None
        return TangentPart(space, basis.tangent, basis.share, weights)

    @cached_property
    def change(self) -> WeightChange | None:
        """Of the network's weights; None where there is none to make."""
        return None if not bool(self.weights.any()) else self.space.change(self.weights)

    def rows(self, T: Float[Tensor, "rows elements width"]) -> Float[Tensor, "rows functions"]:
        """Whitened, with its share."""
        return self.share**0.5 * self.basis.rows(T)

    def own(self, T: Float[Tensor, "rows elements width"]) -> Float[Tensor, "rows"]:
        """The kernel of each row with itself, with its share."""
        return self.share * self.basis.own(T)

    def between(
        self, T: Float[Tensor, "rows elements width"], other: Float[Tensor, "columns elements width"]
    ) -> Float[Tensor, "rows columns"]:
        """The kernel between rows, with its share."""
        return self.share * self.basis.between(T, other)

    def of_atoms(self, backbone: Backbone, graph: GraphBatch) -> tuple[Tensor, Tensor]:
        """`own` and `rows` of each atom as a structure of its own, some atoms at a time."""
        found = [(self.own(T), self.rows(T)) for T in self.space.of_atoms(backbone, graph)]
        own, rows = zip(*found, strict=True)
        return torch.cat(own), torch.cat(rows)


@dataclass(frozen=True, eq=False)
class Model:
    """E(x) = prior(x) + sum_g c_g phi_g(x) over the groups g of the basis, and the tangent part where there is one.

    Attributes:
        solver: "exact": the training structures are the basis; "sparse": inducing environments are.
        raw: features of the centres, in the backbone's dtype; each structure is a group.
        scaler: standardisation.
        kernel: between structures.
        coefficients: c.
        equations: whose solution at `ridge` is c, for the prior's combination of columns; new data are added to them.
        ridge: of the equations, which are also the posterior's.
        weights: of force and strain rows.
        jitter: on the diagonal of K_gg, when it was factored.
        energy_amplitude: variance scale of energies, calibrated on theirs.
        force_amplitude: the same of forces; None without forces in training.
        tangent: the part of the network's tangent kernel; None without it.
        anchors: Gram matrix of the anchors' rows, part of the equations that are solved but not of the posterior: an
            anchor says where to be careful, and is no datum; None without any.
        drawn: draws of the posterior, by their number and seed.
    """

    solver: str
    raw: Environments
    scaler: Scaler
    kernel: StructureKernel
    coefficients: Float[Tensor, "groups"]
    equations: NormalEquations
    ridge: float
    weights: RowWeights
    jitter: float
    energy_amplitude: float
    force_amplitude: float | None
    tangent: TangentPart | None = None
    anchors: Float[Tensor, "all_groups all_groups"] | None = None
    drawn: dict[tuple[int, int], PosteriorDraws] = field(default_factory=dict, init=False)  # a changed one draws anew

    @property
    def embedding(self) -> str:
        """The kind of embedding, "sum" or "mean"."""
        return self.kernel.embedding

    @cached_property
    def centres(self) -> Environments:
        """Of the basis, standardised."""
        return self.scaler(self.raw)

    @cached_property
    def basis(self) -> JointBasis:
        """With its whitening."""
        features, tangent = Basis.of(self.centres, self.kernel, jitter=self.jitter), self.tangent
        return JointBasis(features) if tangent is None else JointBasis(features, tangent.basis, tangent.share)

    @property
    def amplitude(self) -> float:
        """Variance scale of the posterior of energies: that of forces where it is larger.

        Both are of one function, and energies are few: where most of them are of one quiet kind, their residuals say
        that all are so small.
        """
        return max(self.energy_amplitude, self.force_amplitude or 0.0)

    @property
    def features_share(self) -> float:
        """1 - s: what the kernel on features is multiplied by."""
        return 1.0 if self.tangent is None else 1.0 - self.tangent.share

    @cached_property
    def function(self) -> KernelFunction:
        """The kernel part of the energy; needs no factorisation."""
        return KernelFunction(self.centres, self.coefficients, self.kernel)

    def noise(self, n_atoms: Int[Tensor, "structures"]) -> Float[Tensor, "structures"]:
        """Variance of an energy label at unit amplitude."""
        return self.ridge * energy_noise(n_atoms.double(), self.embedding)

    def energy_deviation(
        self,
        x: Environments,
        rows: Float[Tensor, "structures groups"],
        T: Float[Tensor, "structures elements width"] | None = None,
    ) -> Float[Tensor, "structures"]:
        """Calibrated standard deviation of the total energy, eV: posterior, distance from the basis, and noise.

        Args:
            x: standardised environments.
            rows: basis functions of its structures.
            T: of the structures; only where there is a tangent part.
        """
        scale = x.n_atoms.double() if self.embedding == "mean" else 1.0
        own, psi = self.with_tangent(self.kernel.diagonal(x) * scale**2, rows, T)
        return self.deviation(self.variance(own, psi), self.noise(x.n_atoms))

    def atomic_deviation(
        self, x: Environments, tangent: tuple[Float[Tensor, "atoms"], Float[Tensor, "atoms functions"]] | None = None
    ) -> Float[Tensor, "atoms"]:
        """Calibrated standard deviation of each atom's energy, eV, its share of the noise included (sum embedding).

        Args:
            x: standardised environments.
            tangent: `own` and `rows` of each atom; only where there is a tangent part.
        """
        variance = self.variance(*self.atoms_with_tangent(x.singletons(), tangent))
        return self.deviation(variance, torch.full_like(variance, self.ridge))

    def deviation(
        self, variance: Float[Tensor, "energies"], noise: Float[Tensor, "energies"]
    ) -> Float[Tensor, "energies"]:
        """Calibrated standard deviation of energies, eV, from their posterior variance and noise at unit amplitude."""
        return (self.amplitude * variance + self.energy_amplitude * noise).sqrt()

    def atoms_with_tangent(
        self, single: Environments, tangent: tuple[Float[Tensor, "atoms"], Float[Tensor, "atoms functions"]] | None
    ) -> tuple[Float[Tensor, "atoms"], Float[Tensor, "atoms all_groups"]]:
        """`with_tangent` of atoms, each a structure of its own."""
        rows = self.function(single, slopes=False, rows=True).rows
        assert rows is not None
        own, psi = self.kernel.between_equal_atoms(single), self.basis.features.whiten(rows)
        if self.tangent is None:
            return own, psi
        if tangent is None:
            raise ValueError("this potential has a tangent part: its deviations need T of each atom")
        return self._beside(own, psi, *tangent)

    def with_tangent(
        self,
        own: Float[Tensor, "rows"],
        rows: Float[Tensor, "rows groups"],
        T: Float[Tensor, "rows elements width"] | None,
    ) -> tuple[Float[Tensor, "rows"], Float[Tensor, "rows all_groups"]]:
        """K(x, x) and whitened rows of the whole kernel, from those of the kernel on features and from T.

        Raises:
            ValueError: when T is missing.
        """
        psi = self.basis.features.whiten(rows)
        if self.tangent is None:
            return own, psi
        if T is None:
            raise ValueError("this potential has a tangent part: its deviations need T of each structure")
        return self._beside(own, psi, self.tangent.own(T), self.tangent.rows(T))

    def _beside(self, own: Tensor, psi: Tensor, tangent_own: Tensor, tangent_rows: Tensor) -> tuple[Tensor, Tensor]:
        share = self.features_share
        return share * own + tangent_own, torch.cat([share**0.5 * psi, tangent_rows], dim=1)

    def variance(self, own: Float[Tensor, "rows"], psi: Float[Tensor, "rows groups"]) -> Float[Tensor, "rows"]:
        """Posterior variance at unit amplitude: what the basis cannot express, and what the data leave open in it.

        K(x, x) - phi K_gg^-1 phi' + phi L^-T (1 + A / ridge)^-1 L^-1 phi': the prior variance, less its share within
        the basis, plus the posterior's there. With the training structures as basis this is K - k (K + noise)^-1 k'.
        """
        explained, left_open = self.posterior_factors(psi)
        return (own - explained.square().sum(1)).clamp_min(0.0) + left_open.square().sum(1)

    def posterior_factors(
        self, psi: Float[Tensor, "rows groups"]
    ) -> tuple[Float[Tensor, "rows groups"], Float[Tensor, "rows groups"]]:
        """P and Q with K(x, y) - p_x . p_y + q_x . q_y the covariance of energies, at unit amplitude."""
        return psi, psi @ self._half_covariance.T

    def force_draws(
        self, x: Environments, draws: int, at_once: int = 1, seed: int = 0
    ) -> Iterator[tuple[Float[Tensor, "atoms_of_all features"], WeightChange | None]]:
        """Slopes and changes of the weights of posterior draws minus the mean: what forces may be wrong by.

        Args:
            x: standardised environments.
            draws: how many.
            at_once: so many for as many copies of the atoms, which follow one another.
            seed: of the draws.
        """
        found = self.posterior_draws(draws, seed)
        for some in torch.arange(draws).split(at_once):
            slopes = [self._slopes(x, found, draw) for draw in some.tolist()]
            change = None if self.tangent is None else self.tangent.space.change(*found.changes[some])
            yield self.features_share**0.5 * torch.cat(slopes), change

    def _slopes(self, x: Environments, found: PosteriorDraws, draw: int) -> Float[Tensor, "atoms features"]:
        corrected = KernelFunction(self.centres, found.corrections[:, draw].contiguous(), self.kernel)(x).slopes
        assert corrected is not None
        return found.paths.slopes(x.features, x.species, draw) + corrected

    def posterior_draws(self, draws: int, seed: int = 0) -> PosteriorDraws:
        """Draws minus the mean, at unit amplitude, without noise; sum embedding. No structure changes them."""
        if (draws, seed) not in self.drawn:
            paths, corrections, beside = self._paths(draws, seed)
            self.drawn[draws, seed] = PosteriorDraws(paths, corrections, self._changes(beside, seed))
        return self.drawn[draws, seed]

    def _changes(self, beside: Float[Tensor, "functions draws"], seed: int) -> Float[Tensor, "draws elements width"]:
        """Weights of T of each draw."""
        if self.tangent is None:
            return beside.new_zeros(beside.shape[1], 0, 0)
        generator = torch.Generator().manual_seed(seed + 11)
        return self.tangent.share**0.5 * self.tangent.basis.draws(beside, generator)

    def force_deviation(self, variance: Float[Tensor, "atoms 3"]) -> Float[Tensor, "atoms 3"]:
        """Calibrated standard deviation of force components, eV/Angstrom, from the variance over draws.

        Raises:
            ValueError: when the potential was trained without forces.
        """
        if self.force_amplitude is None:
            raise ValueError("the potential was trained without forces: deviations of forces are not calibrated")
        noise = self.ridge * self.equations.probed_share / self.weights.force
        return (self.force_amplitude * (variance + noise)).sqrt()

    @cached_property
    def _half_covariance(self) -> Float[Tensor, "groups groups"]:
        """R with R' R = (1 + A / ridge)^-1, the posterior covariance of whitened coefficients."""
        return inverse_root(self.equations.total / self.ridge)

    def _paths(
        self, draws: int, seed: int
    ) -> tuple[PriorDraws, Float[Tensor, "groups draws"], Float[Tensor, "functions draws"]]:
        """Paths of the prior on features, the coefficients that turn them into draws, and those of the tangent part."""
        u = self.centres
        paths = PriorDraws(self.kernel, u.features, draws, seed)
        generator = torch.Generator().manual_seed(seed + 7)
        noise = torch.randn(len(self.basis), draws, dtype=torch.float64, generator=generator).to(u.features.device)
        K = covariance(u, self.kernel)
        K = add_diagonal(K, PATH_JITTER * float(K.diagonal().mean()))
        at_centres = paths.values(u.features, u.species)
        at_groups = at_centres.new_zeros(len(K), draws).index_add_(0, u.structure, at_centres)
        interpolated = torch.cholesky_solve(at_groups, torch.linalg.cholesky(K))
        drawn = self._half_covariance.T @ noise
        features = self.basis.features
        within = torch.linalg.solve_triangular(features.L.T, drawn[: len(features)], upper=True)
        return paths, within - interpolated, drawn[len(features) :]
