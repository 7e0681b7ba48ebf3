"""Pointwise kernels k(h, g) between the features of two atoms, as functions of one matrix product.

A kernel is a formula: how values follow from products of features, its diagonal, its slopes, and a random-feature map
from which its prior can be drawn. What sums it over atoms, species and structures is elsewhere.
"""

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from mekrr.typing import Float, Tensor

FOURIER_FEATURES = 2048


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """m with E[m(h) . m(g)] = k(h, g): weights drawn from a unit normal make m(h) . weights a draw of the prior.

    Attributes:
        frequencies: directions in feature space.
        phases: of the cosines; None for a linear map.
    """

    frequencies: Float[Tensor, "features maps"]
    phases: Float[Tensor, "maps"] | None

    def __call__(self, h: Float[Tensor, "atoms features"]) -> Float[Tensor, "atoms maps"]:
        """m(h) = sqrt(2 / D) cos(h W + b) (Rahimi & Recht, NIPS 2007, eq. 5), or h W."""
        products = h @ self.frequencies
        return products if self.phases is None else self._scale * torch.cos(products + self.phases)

    def slopes(
        self, h: Float[Tensor, "atoms features"], weights: Float[Tensor, "#atoms maps"]
    ) -> Float[Tensor, "atoms features"]:
        """Derivative of m(h) . weights with respect to h: -sqrt(2 / D) sin(h W + b) weights W', or weights W'."""
        if self.phases is None:
            return (weights @ self.frequencies.T).expand_as(h)
        return -self._scale * (torch.sin(h @ self.frequencies + self.phases) * weights) @ self.frequencies.T

    @property
    def _scale(self) -> float:
        return (2 / self.frequencies.shape[1]) ** 0.5


class PointwiseKernel(ABC):
    """k(h, g) = f(left(h) . right(g)): a tile of kernel values is one matrix product and one function in place.

    Attributes:
        name: the name in options and model files.
        length_scale: features are divided by it; dimensionless, as standardised features are.
        squares: whether k at length_scale / sqrt(2) is k squared, which makes a ladder of length scales cheap.
        centred: whether the gradient points along u - h (else along u); see `slope`.
    """

    name: ClassVar[str]
    squares: ClassVar[bool] = False
    centred: ClassVar[bool] = False
    length_scale: float

    @abstractmethod
    def left(self, features: Float[Tensor, "atoms features"], dtype: torch.dtype) -> Float[Tensor, "atoms augmented"]:
        """Left factors of the product."""

    @abstractmethod
    def right(self, features: Float[Tensor, "atoms features"], dtype: torch.dtype) -> Float[Tensor, "atoms augmented"]:
        """Right factors of the product."""

    @abstractmethod
    def transform_(self, products: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        """Kernel values from products, in place."""

    @abstractmethod
    def diagonal(self, features: Float[Tensor, "atoms features"]) -> Float[Tensor, "atoms"]:
        """k(h, h)."""

    @abstractmethod
    def slope(
        self, features: Float[Tensor, "rows features"], values: Float[Tensor, "rows columns"]
    ) -> Float[Tensor, "rows columns"]:
        """The scalar s_im in dk(h_i, u_m)/dh_i = s_im (u_m - h_i) when `centred`, else s_im u_m."""

    @abstractmethod
    def curvature(
        self, features: Float[Tensor, "atoms features"], directions: Float[Tensor, "rows atoms features"]
    ) -> Float[Tensor, "rows atoms atoms"]:
        """The covariance of derivatives at two atoms, d2 k(h_i, h_j) / dh_i dh_j along u_i and u_j of each row."""

    @abstractmethod
    def feature_map(self, like: Float[Tensor, "atoms features"], generator: torch.Generator) -> FeatureMap:
        """Random features whose products have the kernel as their expectation, for as many features as `like` has."""

    def gradient(
        self,
        features: Float[Tensor, "rows features"],
        centres: Float[Tensor, "columns features"],
        values: Float[Tensor, "rows columns"],
        weights: Float[Tensor, "#rows columns"],
    ) -> Float[Tensor, "rows features"]:
        """Sum over columns m of weights_im * dk(h_i, u_m)/dh_i.

        Args:
            features: h.
            centres: u.
            values: k(h_i, u_m), as `transform_` returns them.
            weights: any.
        """
        # sum_m W_im (u_m - h_i) = (W u)_i - (sum_m W_im) h_i: one product, whatever the number of centres
        W = self.slope(features, values) * weights
        found = W @ centres
        return found - W.sum(1, keepdim=True) * features if self.centred else found

    def values(
        self,
        x: Float[Tensor, "rows features"],
        y: Float[Tensor, "columns features"],
        dtype: torch.dtype = torch.float64,
    ) -> Float[Tensor, "rows columns"]:
        """Kernel values between two sets of atoms; for small sets, tiles do the large ones."""
        return self.transform_(self.left(x, dtype) @ self.right(y, dtype).T)


@dataclass(frozen=True)
class GaussianKernel(PointwiseKernel):
    """exp(-|h - g|^2 / (2 length_scale^2)).

    The exponent is one product of augmented vectors, [h, -|h|^2/2, 1] . [g, 1, -|g|^2/2]. Features should be centred:
    the rounding of the exponent grows with |h|^2.
    """

    length_scale: float = 1.0
    name: ClassVar[str] = "gaussian"
    squares: ClassVar[bool] = True
    centred: ClassVar[bool] = True

    def left(self, features: Float[Tensor, "atoms features"], dtype: torch.dtype) -> Float[Tensor, "atoms augmented"]:
        """[h, -|h|^2/2, 1] with h in units of the length scale."""
        h, half = self._scaled(features, dtype)
        return torch.cat([h, -half, torch.ones_like(half)], dim=1)

    def right(self, features: Float[Tensor, "atoms features"], dtype: torch.dtype) -> Float[Tensor, "atoms augmented"]:
        """[g, 1, -|g|^2/2] with g in units of the length scale."""
        g, half = self._scaled(features, dtype)
        return torch.cat([g, torch.ones_like(half), -half], dim=1)

    def transform_(self, products: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        """The exponential."""
        return products.exp_()

    def diagonal(self, features: Float[Tensor, "atoms features"]) -> Float[Tensor, "atoms"]:
        """One."""
        return features.new_ones(len(features), dtype=torch.float64)

    def slope(
        self, features: Float[Tensor, "rows features"], values: Float[Tensor, "rows columns"]
    ) -> Float[Tensor, "rows columns"]:
        """dk/dh = k (u - h) / length_scale^2."""
        return values / self.length_scale**2

    def curvature(
        self, features: Float[Tensor, "atoms features"], directions: Float[Tensor, "rows atoms features"]
    ) -> Float[Tensor, "rows atoms atoms"]:
        """With d = h_i - h_j, k [u_i . u_j - (d . u_i) (d . u_j) / l^2] / l^2: the slope above, derived once more."""
        h, u = features.double(), directions.double()
        along = u @ h.T  # u_i . h_j
        own = along.diagonal(dim1=1, dim2=2)
        left, right = own[:, :, None] - along, along.mT - own[:, None, :]
        scale = self.length_scale**2
        return self.values(h, h) * (u @ u.mT - left * right / scale) / scale

    def feature_map(self, like: Float[Tensor, "atoms features"], generator: torch.Generator) -> FeatureMap:
        """Cosines of random frequencies: the spectral density of the Gaussian is a normal with deviation 1/l."""
        shape = (like.shape[1], FOURIER_FEATURES)
        frequencies = torch.randn(shape, dtype=torch.float64, generator=generator) / self.length_scale
        phases = 2 * torch.pi * torch.rand(FOURIER_FEATURES, dtype=torch.float64, generator=generator)
        return FeatureMap(frequencies.to(like.device), phases.to(like.device))

    def _scaled(self, features: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Features over the length scale, and half their squared norms summed in float64."""
        h = (features.double() / self.length_scale).to(dtype)
        return h, (0.5 * h.double().square().sum(1, keepdim=True)).to(dtype)


@dataclass(frozen=True)
class LinearKernel(PointwiseKernel):
    """h . g / (D length_scale^2) with D features."""

    length_scale: float = 1.0
    name: ClassVar[str] = "linear"

    def left(self, features: Float[Tensor, "atoms features"], dtype: torch.dtype) -> Float[Tensor, "atoms augmented"]:
        """Features in units of the length scale times sqrt(D)."""
        return (features.double() / self._unit(features)).to(dtype)

    def right(self, features: Float[Tensor, "atoms features"], dtype: torch.dtype) -> Float[Tensor, "atoms augmented"]:
        """The same as left."""
        return self.left(features, dtype)

    def transform_(self, products: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        """The products themselves."""
        return products

    def diagonal(self, features: Float[Tensor, "atoms features"]) -> Float[Tensor, "atoms"]:
        """|h|^2 / (D length_scale^2)."""
        return self.left(features, torch.float64).square().sum(1)

    def slope(
        self, features: Float[Tensor, "rows features"], values: Float[Tensor, "rows columns"]
    ) -> Float[Tensor, "rows columns"]:
        """dk/dh = u / (D length_scale^2)."""
        return torch.full_like(values, 1.0 / self._unit(features) ** 2)

    def curvature(
        self, features: Float[Tensor, "atoms features"], directions: Float[Tensor, "rows atoms features"]
    ) -> Float[Tensor, "rows atoms atoms"]:
        """u_i . u_j / (D length_scale^2)."""
        u = directions.double()
        return u @ u.mT / self._unit(features) ** 2

    def feature_map(self, like: Float[Tensor, "atoms features"], generator: torch.Generator) -> FeatureMap:
        """The scaled features: the map is exact, nothing is random."""
        return FeatureMap(torch.eye(like.shape[1], dtype=torch.float64, device=like.device) / self._unit(like), None)

    def _unit(self, features: Tensor) -> float:
        return self.length_scale * features.shape[1] ** 0.5


KERNELS: dict[str, type[PointwiseKernel]] = {kernel.name: kernel for kernel in (GaussianKernel, LinearKernel)}


def make_kernel(name: str, length_scale: float) -> PointwiseKernel:
    """The pointwise kernel called `name`.

    Raises:
        ValueError: for an unknown name or a length scale that is not positive.
    """
    if name not in KERNELS:
        raise ValueError(f"unknown kernel {name!r}; choose one of {', '.join(KERNELS)}")
    if not 0 < length_scale < float("inf"):
        raise ValueError(f"the length scale must be positive and finite; got {length_scale}")
    return KERNELS[name](length_scale=length_scale)  # type: ignore[call-arg]


def is_ladder(kernel: PointwiseKernel, length_scales: tuple[float, ...]) -> bool:
    """Whether each length scale is 1/sqrt(2) of the one before and squaring the kernel gets from one to the next."""
    return kernel.squares and all(abs(a / b - 2**0.5) < 1e-9 for a, b in itertools.pairwise(length_scales))
