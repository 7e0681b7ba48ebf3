"""Pointwise kernels k(h, g) between the features of two atoms, as functions of one matrix product."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from mekrr.typing import Float, Tensor


class PointwiseKernel(ABC):
    """k(h, g) = f(left(h) . right(g)): a tile of kernel values is one matrix product and one function in place.

    Attributes:
        name: the name in options and model files.
        length_scale: features are divided by it; dimensionless, as standardised features are.
        squares: whether k at length_scale / sqrt(2) is k squared (the ladder of design idea 2).
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
    def slope(
        self,
        features: Float[Tensor, "rows features"],
        centres: Float[Tensor, "columns features"],
        values: Float[Tensor, "rows columns"],
    ) -> Float[Tensor, "rows columns"]:
        """The scalar s_im in dk(h_i, u_m)/dh_i = s_im (u_m - h_i) when `centred`, else s_im u_m."""

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
        W = self.slope(features, centres, values) * weights
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

    def slope(
        self,
        features: Float[Tensor, "rows features"],
        centres: Float[Tensor, "columns features"],
        values: Float[Tensor, "rows columns"],
    ) -> Float[Tensor, "rows columns"]:
        """dk/dh = k (u - h) / length_scale^2."""
        return values / self.length_scale**2

    def _scaled(self, features: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Features over the length scale, and half their squared norms summed in float64."""
        h = (features.double() / self.length_scale).to(dtype)
        return h, (0.5 * h.double().square().sum(1, keepdim=True)).to(dtype)


@dataclass(frozen=True)
class PolynomialKernel(PointwiseKernel):
    """(h . g / (D length_scale^2) + offset)^degree with D features.

    Attributes:
        degree: positive integer.
        offset: non-negative; 0 with degree 1 is the linear kernel.
    """

    length_scale: float = 1.0
    degree: int = 2
    offset: float = 1.0
    name: ClassVar[str] = "polynomial"

    def __post_init__(self) -> None:
        if self.degree < 1 or self.offset < 0:
            raise ValueError(f"degree must be at least 1 and offset at least 0; got {self.degree} and {self.offset}")

    def left(self, features: Float[Tensor, "atoms features"], dtype: torch.dtype) -> Float[Tensor, "atoms augmented"]:
        """Features in units of the length scale times sqrt(D)."""
        return (features.double() / (self.length_scale * features.shape[1] ** 0.5)).to(dtype)

    def right(self, features: Float[Tensor, "atoms features"], dtype: torch.dtype) -> Float[Tensor, "atoms augmented"]:
        """The same as left."""
        return self.left(features, dtype)

    def transform_(self, products: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        """The power."""
        return products.add_(self.offset).pow_(self.degree)

    def slope(
        self,
        features: Float[Tensor, "rows features"],
        centres: Float[Tensor, "columns features"],
        values: Float[Tensor, "rows columns"],
    ) -> Float[Tensor, "rows columns"]:
        """dk/dh = degree (h . u / (D l^2) + offset)^(degree - 1) u / (D l^2)."""
        scale = self.length_scale**2 * features.shape[1]
        base = (features @ centres.T) / scale + self.offset
        return self.degree * base.pow(self.degree - 1) / scale


@dataclass(frozen=True)
class LinearKernel(PolynomialKernel):
    """h . g / (D length_scale^2) with D features."""

    degree: int = 1
    offset: float = 0.0
    name: ClassVar[str] = "linear"


KERNELS: dict[str, type[PointwiseKernel]] = {
    kernel.name: kernel for kernel in (GaussianKernel, LinearKernel, PolynomialKernel)
}


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
