"""Conformance check of pointwise kernels: what sums over atoms and structures take for granted."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch

from mekrr.kernels import PointwiseKernel
from mekrr.typing import Float, Tensor

_ATOMS, _CENTRES, _FEATURES = 12, 9, 4
_STEP = 1e-3  # of finite differences
_MAPS = 16  # over which the covariance of random features is averaged


def check_pointwise_kernel(kernel: PointwiseKernel, seed: int = 0) -> None:
    """Check that a kernel keeps the contract of `mekrr.kernels.PointwiseKernel`.

    Checked on random features: finite values of the right shape, made in place and from the same products whatever the
    tile; symmetry, positive semidefiniteness, the diagonal; the gradient against automatic differentiation; random
    features whose covariance is the kernel, with their slopes; where `squares` is True, that the kernel at
    length_scale / sqrt(2) is its square; and the covariance of derivatives against finite differences.

    Args:
        kernel: to check; a dataclass with a field `length_scale`.
        seed: of the features and of the random maps.

    Raises:
        AssertionError: naming the property that fails, by how much, and what usually causes it.
    """
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(_ATOMS, _FEATURES, dtype=torch.float64, generator=generator)
    u = torch.randn(_CENTRES, _FEATURES, dtype=torch.float64, generator=generator)
    case = _Case(kernel, h, u, generator)
    for check in _CHECKS:
        check(case)


@dataclass(frozen=True)
class _Case:
    kernel: PointwiseKernel
    h: Float[Tensor, "atoms features"]
    u: Float[Tensor, "centres features"]
    generator: torch.Generator

    def agree(self, found: Tensor, expected: Tensor, what: str, cause: str, tolerance: float = 1e-10) -> None:
        """Raise unless both are equal up to the tolerance, relative to the largest value."""
        size = float(expected.abs().max().clamp(min=1e-12))
        deviation = float((found - expected).abs().max()) / size
        if not deviation <= tolerance:
            raise AssertionError(
                f"{self.kernel.name}: {what} by {deviation:.1e} of the largest value, allowed {tolerance:.0e}; {cause}"
            )

    def require(self, fulfilled: bool, message: str) -> None:
        if not fulfilled:
            raise AssertionError(f"{self.kernel.name}: {message}")


def _check_values(case: _Case) -> None:
    kernel, h, u = case.kernel, case.h, case.u
    values = kernel.values(h, u)
    shape = (len(h), len(u))
    case.require(values.shape == shape, f"values have shape {tuple(values.shape)} for {shape} atoms and centres")
    case.require(values.dtype == torch.float64, f"values are {values.dtype}; left and right keep the dtype asked for")
    case.require(bool(values.isfinite().all()), "values are NaN or infinite; mind divisions and large exponents")
    products = kernel.left(h, torch.float64) @ kernel.right(u, torch.float64).T
    made = kernel.transform_(products)
    in_place = made.data_ptr() == products.data_ptr()
    case.require(in_place, "transform_ returns another tensor; tiles are one buffer, transform it in place")
    part = kernel.values(h[2:5], u[1:4])
    case.agree(part, values[2:5, 1:4], "a tile differs from the same pairs among all", "pairs must not see one another")
    single = kernel.values(h, u, torch.float32)
    case.require(single.dtype == torch.float32, "values asked for in float32 are not; keep the dtype in left and right")
    case.agree(single.double(), values, "values in float32 differ from those in float64", "mind the dtype", 1e-4)


def _check_symmetry(case: _Case) -> None:
    forth, back = case.kernel.values(case.h, case.u), case.kernel.values(case.u, case.h).T
    case.agree(back, forth, "k(g, h) differs from k(h, g)", "left and right must lead to the same products")


def _check_positive(case: _Case) -> None:
    both = torch.cat([case.h, case.u])
    K = case.kernel.values(both, both)
    smallest, largest = float(torch.linalg.eigvalsh(K)[0]), float(K.diagonal().max())
    case.require(
        smallest >= -1e-10 * largest,
        f"a matrix of values has the eigenvalue {smallest:.1e} beside a diagonal of {largest:.1e}; a kernel is "
        "positive semidefinite",
    )
    case.agree(case.kernel.diagonal(both), K.diagonal(), "the diagonal differs from k(h, h)", "see diagonal")


def _check_gradient(case: _Case) -> None:
    h, u, kernel = case.h.clone().requires_grad_(True), case.u, case.kernel
    weights = torch.randn(len(h), len(u), dtype=torch.float64, generator=case.generator)
    values = kernel.values(h, u)
    (expected,) = torch.autograd.grad((values * weights).sum(), h)
    found = kernel.gradient(case.h, u, values.detach(), weights)
    case.agree(found, expected, "the gradient differs from automatic differentiation", "see slope and centred")


def _check_feature_map(case: _Case) -> None:
    kernel, h, u = case.kernel, case.h, case.u
    maps = [kernel.feature_map(h, case.generator) for _ in range(_MAPS)]
    expected = kernel.values(h, u)
    largest = float(torch.cat([kernel.diagonal(h), kernel.diagonal(u)]).max())
    # the mean of D products of two cosines each deviates by about 1/sqrt(D)
    samples = sum(m.frequencies.shape[1] for m in maps)
    tolerance = 1e-10 if maps[0].phases is None else 5 * largest * samples**-0.5 / float(expected.abs().max())
    found = torch.stack([m(h) @ m(u).T for m in maps]).mean(0)
    case.agree(found, expected, "the covariance of random features differs from k", "see feature_map", tolerance)
    moved = h.clone().requires_grad_(True)
    weights = torch.randn(1, maps[0].frequencies.shape[1], dtype=torch.float64, generator=case.generator)
    (slopes,) = torch.autograd.grad((maps[0](moved) * weights).sum(), moved)
    cause = "see FeatureMap.slopes"
    case.agree(maps[0].slopes(h, weights), slopes, "slopes of random features differ from autograd", cause)


def _check_ladder(case: _Case) -> None:
    if not case.kernel.squares:
        return
    shorter = dataclasses.replace(case.kernel, length_scale=case.kernel.length_scale / 2**0.5)  # type: ignore[type-var]
    found, expected = shorter.values(case.h, case.u), case.kernel.values(case.h, case.u).square()
    case.agree(found, expected, "the kernel at length_scale / sqrt(2) differs from its square", "unset squares")


def _check_curvature(case: _Case) -> None:
    kernel, h = case.kernel, case.h
    u = torch.randn(2, *h.shape, dtype=torch.float64, generator=case.generator)

    def values(a: float, b: float) -> Tensor:
        return torch.stack([kernel.values(h + a * one, h + b * one) for one in u])

    e = _STEP
    expected = (values(e, e) - values(e, -e) - values(-e, e) + values(-e, -e)) / (4 * e**2)
    what = "the covariance of derivatives differs from finite differences"
    case.agree(kernel.curvature(h, u), expected, what, "see curvature", 1e-4)


_CHECKS: tuple[Callable[[_Case], None], ...] = (
    _check_values,
    _check_symmetry,
    _check_positive,
    _check_gradient,
    _check_feature_map,
    _check_ladder,
    _check_curvature,
)
