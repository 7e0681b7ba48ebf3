"""The solution of the sparse solver: one coefficient an inducing environment, and the equations it came from."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar

import torch

from mekrr.features import Environments, Scaler
from mekrr.kernels import Expansion, Inducing, PointwiseKernel, gram_diagonal, mixed
from mekrr.kernels.paths import PriorPaths
from mekrr.solve import NormalEquations, RowWeights
from mekrr.typing import Float, Int, Tensor

PATH_JITTER = 1e-6  # draws interpolate a prior path at the inducing environments; less would amplify its rounding


@dataclass(frozen=True, eq=False)
class SparseModel:
    """E(x) = prior(x) + sum_m c_m phi_m(x) over the inducing environments m.

    Attributes:
        raw: features of the inducing environments, in the backbone's dtype.
        species: their species.
        scaler: standardisation.
        kernel: pointwise.
        species_weight: w.
        ridge: of the probed equations, which are also the posterior's.
        weights: of force and strain rows.
        coefficients: c.
        equations: whose solution at `ridge` is c, for the prior's combination of columns; new data are added to them.
        jitter: on the diagonal of K_mm, when it was factored.
        energy_amplitude: calibrated variance scale of energies.
        force_amplitude: the same of forces; None without forces in training.
    """

    solver: ClassVar[str] = "sparse"
    embedding: ClassVar[str] = "sum"
    raw: Float[Tensor, "inducing features"]
    species: Int[Tensor, "inducing"]
    scaler: Scaler
    kernel: PointwiseKernel
    species_weight: float
    ridge: float
    weights: RowWeights
    coefficients: Float[Tensor, "inducing"]
    equations: NormalEquations
    jitter: float
    energy_amplitude: float
    force_amplitude: float | None

    @cached_property
    def inducing(self) -> Inducing:
        """The basis, standardised."""
        count = torch.tensor([len(self.species)])
        return Inducing(self.scaler(Environments(self.raw, self.species, count)).features, self.species)

    @cached_property
    def L(self) -> Float[Tensor, "inducing inducing"]:  # noqa: N802 (its name in the papers)
        """Cholesky factor of K_mm with its jitter."""
        K = self.inducing.gram(self.kernel, self.species_weight)
        return torch.linalg.cholesky(K + self.jitter * torch.eye(len(K), dtype=K.dtype))

    @cached_property
    def expansion(self) -> Expansion:
        """The kernel part of the energy."""
        ones = torch.ones(len(self.species), dtype=torch.float64)
        return Expansion(
            self.inducing.features,
            self.species,
            torch.arange(len(self.species)),
            self.coefficients,
            ones,
            ones,
            self.kernel,
            self.species_weight,
            "sum",
        )

    def energy_deviation(
        self, x: Environments, cross: Float[Tensor, "structures inducing"]
    ) -> Float[Tensor, "structures"]:
        """Calibrated standard deviation of the total energy, eV: posterior, distance from the basis, and noise.

        Args:
            x: standardised environments.
            cross: what the expansion gives for them.
        """
        own = gram_diagonal(x, self.kernel, "sum", self.species_weight)
        variance = self._variance(own, cross) + self.noise(x.n_atoms)
        return (self.energy_amplitude * variance).sqrt()

    def atomic_deviation(self, x: Environments) -> Float[Tensor, "atoms"]:
        """Calibrated standard deviation of each atom's energy, eV, its share of the noise included."""
        values = self.kernel.values(x.features, self.inducing.features)
        rows = mixed(values, x.species, self.species, self.species_weight)
        own = torch.stack([self.kernel.values(h[None], h[None]).squeeze() for h in x.features])
        return (self.energy_amplitude * (self._variance(own, rows) + self.ridge)).sqrt()

    def force_slopes(self, x: Environments, draws: int, seed: int = 0) -> Iterator[Float[Tensor, "atoms features"]]:
        """Slopes of posterior draws minus the mean: what forces may be wrong by, before calibration.

        A draw is a path of the prior, corrected to a draw of the posterior at the inducing environments (pathwise
        conditioning: Wilson et al., J. Mach. Learn. Res. 22, 105, 2021).

        Args:
            x: standardised environments.
            draws: how many.
            seed: of the draws.
        """
        paths, corrections = self._paths(draws, seed)
        u = self.inducing
        values = self.kernel.values(x.features, u.features)
        mix = mixed(torch.ones_like(values), x.species, self.species, self.species_weight)
        for s in range(draws):
            kernel_part = self.kernel.gradient(x.features, u.features, values, mix * corrections[:, s])
            yield paths.slopes(x.features, x.species, s) + kernel_part

    def force_deviation(self, variance: Float[Tensor, "atoms 3"]) -> Float[Tensor, "atoms 3"]:
        """Calibrated standard deviation of force components, eV/Angstrom, from the variance over draws.

        Raises:
            ValueError: when the potential was trained without forces.
        """
        if self.force_amplitude is None:
            raise ValueError("the potential was trained without forces: deviations of forces are not calibrated")
        noise = self.ridge * self.equations.probed_share / self.weights.force
        return (self.force_amplitude * (variance + noise)).sqrt()

    @property
    def amplitude(self) -> float:
        """Calibrated variance scale of energies, by the name it has in the exact solver's model."""
        return self.energy_amplitude

    def noise(self, n_atoms: Int[Tensor, "structures"]) -> Float[Tensor, "structures"]:
        """Variance of an energy label at unit amplitude."""
        return self.ridge * n_atoms.double()

    def posterior_factors(
        self, cross: Float[Tensor, "structures inducing"]
    ) -> tuple[Float[Tensor, "structures inducing"], Float[Tensor, "structures inducing"]]:
        """P and Q with K(x, y) - p_x . p_y + q_x . q_y the covariance of total energies, at unit amplitude.

        The first difference is what the basis cannot express, the last term what the data leave open within it.

        Args:
            cross: what the expansion gives for the structures.
        """
        return cross @ self._half_inverse.T, cross @ self._half_covariance.T

    def covariance(
        self, rows: Float[Tensor, "rows inducing"], others: Float[Tensor, "others inducing"]
    ) -> Float[Tensor, "rows others"]:
        """Posterior covariance of the basis' share between energies, at unit amplitude."""
        return (rows @ self._half_covariance.T) @ (others @ self._half_covariance.T).T

    def _variance(self, own: Float[Tensor, "rows"], rows: Float[Tensor, "rows inducing"]) -> Float[Tensor, "rows"]:
        """Posterior variance at unit amplitude: what the basis cannot express, and what the data leave open in it."""
        outside = own - (rows @ self._half_inverse.T).square().sum(1)
        return outside.clamp_min(0.0) + (rows @ self._half_covariance.T).square().sum(1)

    @cached_property
    def _half_inverse(self) -> Float[Tensor, "inducing inducing"]:
        """R with R' R = K_mm^-1."""
        return _inverse(self.L)

    @cached_property
    def _half_covariance(self) -> Float[Tensor, "inducing inducing"]:
        """R with R' R = L^-T (1 + gram / ridge)^-1 L^-1, the posterior covariance of c."""
        gram = self.equations.total / self.ridge
        return _inverse(torch.linalg.cholesky(gram + torch.eye(len(gram), dtype=gram.dtype))) @ self._half_inverse

    def _paths(self, draws: int, seed: int) -> tuple[PriorPaths, Float[Tensor, "inducing draws"]]:
        """Paths of the prior, and the coefficients that turn them into draws of the posterior."""
        u = self.inducing
        paths = PriorPaths(self.kernel, self.species_weight, u.features.shape[1], draws, seed)
        noise = torch.randn(
            len(self.species), draws, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 7)
        )
        K = u.gram(self.kernel, self.species_weight)
        K = K + PATH_JITTER * K.diagonal().mean() * torch.eye(len(K), dtype=K.dtype)
        interpolated = torch.cholesky_solve(paths.values(u.features, u.species), torch.linalg.cholesky(K))
        return paths, self._half_covariance.T @ noise - interpolated

    def tensors(self) -> dict[str, Tensor]:
        """For the model file."""
        equations = {
            f"equations.{name}": value for name, value in vars(self.equations).items() if isinstance(value, Tensor)
        }
        return {"features": self.raw, "species": self.species, "coefficients": self.coefficients} | equations

    def numbers(self) -> dict[str, Any]:
        """For the model file's header."""
        counts = {name: value for name, value in vars(self.equations).items() if isinstance(value, int)}
        return {
            "ridge": self.ridge,
            "force_weight": self.weights.force,
            "stress_weight": self.weights.stress,
            "jitter": self.jitter,
            "energy_amplitude": self.energy_amplitude,
            "force_amplitude": self.force_amplitude,
            "equations": counts,
        }

    @staticmethod
    def restore(
        tensors: dict[str, Tensor],
        numbers: dict[str, Any],
        scaler: Scaler,
        kernel: PointwiseKernel,
        species_weight: float,
        embedding: str,
    ) -> "SparseModel":
        """From a model file."""
        names = [f.name for f in fields(NormalEquations)]
        equations: dict[str, Any] = {n: tensors[f"equations.{n}"] for n in names if f"equations.{n}" in tensors}
        return SparseModel(
            tensors["features"],
            tensors["species"],
            scaler,
            kernel,
            species_weight,
            numbers["ridge"],
            RowWeights(numbers["force_weight"], numbers["stress_weight"]),
            tensors["coefficients"],
            NormalEquations(**equations, **numbers["equations"]),
            numbers["jitter"],
            numbers["energy_amplitude"],
            numbers["force_amplitude"],
        )


def _inverse(L: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    return torch.linalg.solve_triangular(L, torch.eye(len(L), dtype=L.dtype), upper=False)
