"""The kernel part of a fitted potential: coefficients in a basis, and the posterior of the equations they solve."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from mekrr.features import Environments, Scaler
from mekrr.kernels import Basis, KernelFunction, PriorDraws, StructureKernel, energy_noise
from mekrr.linalg import add_diagonal, invert_lower
from mekrr.solve import NormalEquations, RowWeights
from mekrr.typing import Float, Int, Tensor

PATH_JITTER = 1e-6  # draws interpolate a prior path at the centres; less would amplify its rounding


@dataclass(frozen=True, eq=False)
class Model:
    """E(x) = prior(x) + sum_g c_g phi_g(x) over the groups g of the basis.

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
        energy_amplitude: calibrated variance scale of energies.
        force_amplitude: the same of forces; None without forces in training.
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

    @property
    def embedding(self) -> str:
        """The kind of embedding, "sum" or "mean"."""
        return self.kernel.embedding

    @cached_property
    def centres(self) -> Environments:
        """Of the basis, standardised."""
        return self.scaler(self.raw)

    @cached_property
    def basis(self) -> Basis:
        """With its whitening."""
        return Basis.of(self.centres, self.kernel, jitter=self.jitter)

    @cached_property
    def function(self) -> KernelFunction:
        """The kernel part of the energy; needs no factorisation."""
        return KernelFunction(self.centres, self.coefficients, self.kernel)

    def noise(self, n_atoms: Int[Tensor, "structures"]) -> Float[Tensor, "structures"]:
        """Variance of an energy label at unit amplitude."""
        return self.ridge * energy_noise(n_atoms.double(), self.embedding)

    def energy_deviation(
        self, x: Environments, rows: Float[Tensor, "structures groups"]
    ) -> Float[Tensor, "structures"]:
        """Calibrated standard deviation of the total energy, eV: posterior, distance from the basis, and noise.

        Args:
            x: standardised environments.
            rows: basis functions of its structures.
        """
        scale = x.n_atoms.double() if self.embedding == "mean" else 1.0
        own = self.kernel.diagonal(x) * scale**2
        return (self.energy_amplitude * (self.variance(own, rows) + self.noise(x.n_atoms))).sqrt()

    def atomic_deviation(self, x: Environments) -> Float[Tensor, "atoms"]:
        """Calibrated standard deviation of each atom's energy, eV, its share of the noise included (sum embedding)."""
        single = x.singletons()
        rows = self.function(single, slopes=False, rows=True).rows
        assert rows is not None
        variance = self.variance(self.kernel.between_equal_atoms(single), rows)
        return (self.energy_amplitude * (variance + self.ridge)).sqrt()

    def variance(self, own: Float[Tensor, "rows"], rows: Float[Tensor, "rows groups"]) -> Float[Tensor, "rows"]:
        """Posterior variance at unit amplitude: what the basis cannot express, and what the data leave open in it.

        K(x, x) - phi K_gg^-1 phi' + phi L^-T (1 + A / ridge)^-1 L^-1 phi': the prior variance, less its share within
        the basis, plus the posterior's there. With the training structures as basis this is K - k (K + noise)^-1 k'.
        """
        explained, left_open = self.posterior_factors(rows)
        return (own - explained.square().sum(1)).clamp_min(0.0) + left_open.square().sum(1)

    def posterior_factors(
        self, rows: Float[Tensor, "rows groups"]
    ) -> tuple[Float[Tensor, "rows groups"], Float[Tensor, "rows groups"]]:
        """P and Q with K(x, y) - p_x . p_y + q_x . q_y the covariance of energies, at unit amplitude."""
        psi = self.basis.whiten(rows)
        return psi, psi @ self._half_covariance.T

    def force_slopes(self, x: Environments, draws: int, seed: int = 0) -> Iterator[Float[Tensor, "atoms features"]]:
        """Slopes of posterior draws minus the mean: what forces may be wrong by, before calibration.

        A draw is a path of the prior, corrected to a draw of the posterior at the centres of the basis (pathwise
        conditioning: Wilson et al., J. Mach. Learn. Res. 22, 105, 2021, eq. 12).

        Args:
            x: standardised environments.
            draws: how many.
            seed: of the draws.
        """
        paths, corrections = self._paths(x.features, draws, seed)
        for draw in range(draws):
            corrected = KernelFunction(self.centres, corrections[:, draw].contiguous(), self.kernel)(x).slopes
            assert corrected is not None
            yield paths.slopes(x.features, x.species, draw) + corrected

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
        return invert_lower(torch.linalg.cholesky(add_diagonal(self.equations.total / self.ridge, 1.0)))

    def _paths(
        self, like: Float[Tensor, "atoms features"], draws: int, seed: int
    ) -> tuple[PriorDraws, Float[Tensor, "groups draws"]]:
        """Paths of the prior, and the coefficients that turn them into draws of the posterior."""
        u = self.centres
        paths = PriorDraws(self.kernel, like, draws, seed)
        generator = torch.Generator().manual_seed(seed + 7)
        noise = torch.randn(len(self.basis), draws, dtype=torch.float64, generator=generator).to(like.device)
        K = self.kernel.between_atoms(u, u)
        K = add_diagonal(K, PATH_JITTER * float(K.diagonal().mean()))
        interpolated = torch.cholesky_solve(paths.values(u.features, u.species), torch.linalg.cholesky(K))
        within = torch.linalg.solve_triangular(self.basis.L.T, self._half_covariance.T @ noise, upper=True)
        return paths, within - interpolated
