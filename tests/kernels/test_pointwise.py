"""The public check passes for every kernel, and fails for kernels with one fault each."""

import math
from dataclasses import dataclass

import pytest
import torch

from mekrr.kernels import KERNELS, GaussianKernel, LinearKernel, make_kernel
from mekrr.kernels.pointwise import FeatureMap, is_ladder
from mekrr.testing import check_pointwise_kernel
from oracles import pair_values


@pytest.mark.parametrize("name", list(KERNELS))
@pytest.mark.parametrize("length_scale", [0.8, 3.0])
def test_kernel_conforms(name, length_scale):
    check_pointwise_kernel(make_kernel(name, length_scale))


@pytest.mark.parametrize("name", list(KERNELS))
def test_values_are_the_formula(name):
    h, g = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kernel = make_kernel(name, 1.7)
    torch.testing.assert_close(kernel.values(h, g), pair_values(kernel, h, g), rtol=1e-13, atol=1e-13)


@dataclass(frozen=True)
class Faulty(GaussianKernel):
    """A Gaussian with one fault."""

    fault: str = ""

    @property
    def centred(self):
        return self.fault != "not centred"

    def left(self, features, dtype):
        found = super().left(features, dtype)
        return found.double() if self.fault == "dtype" else found

    def right(self, features, dtype):
        features = features - features.mean(0) if self.fault == "batch mean" else features
        features = 1.1 * features if self.fault == "asymmetric" else features
        found = super().right(features, dtype)
        return found.double() if self.fault == "dtype" else found

    def transform_(self, products):
        if self.fault == "not in place":
            return products.exp()
        if self.fault == "no ladder":  # symmetric and positive: a sum of kernels
            return products.copy_(products.exp() + (products / 2).exp())
        if self.fault == "indefinite":
            return products.copy_(products.exp() - 0.5)
        return products.mul_(torch.nan) if self.fault == "not a number" else products.exp_()

    def diagonal(self, features):
        found = super().diagonal(features)
        return {"diagonal": 2 * found, "no ladder": 2 * found, "indefinite": found / 2}.get(self.fault, found)

    def slope(self, features, values):
        if self.fault == "no ladder":
            half = (torch.sqrt(1 + 4 * values) - 1) / 2  # of v = e + sqrt(e): sqrt(e)
            return (half.square() + half / 2) / self.length_scale**2
        return super().slope(features, values) * (2 if self.fault == "slope" else 1)

    def curvature(self, features, directions):
        return super().curvature(features, directions) * (1 + 1e-3 * (self.fault == "curvature"))

    def feature_map(self, like, generator):
        found = super().feature_map(like, generator)
        if self.fault == "no ladder":
            shared = torch.cat([found.frequencies, found.frequencies / 2**0.5], dim=1)
            return _Doubled(shared, torch.cat([found.phases, found.phases]))
        frequencies = found.frequencies * self.length_scale**2 if self.fault == "spectrum" else found.frequencies
        return _Halved(frequencies, found.phases) if self.fault == "slopes" else FeatureMap(frequencies, found.phases)


class _Halved(FeatureMap):
    def slopes(self, h, weights):
        return super().slopes(h, weights) / 2


class _Doubled(FeatureMap):
    """Random features of the sum of two kernels of unit variance."""

    @property
    def _scale(self):
        return 2**0.5 * super()._scale


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("dtype", "in float32 are not"),
        ("not a number", "NaN or infinite"),
        ("not in place", "transform it in place"),
        ("batch mean", "must not see one another"),
        ("asymmetric", r"k\(g, h\) differs from k\(h, g\)"),
        ("indefinite", "positive semidefinite"),
        ("diagonal", r"the diagonal differs from k\(h, h\) by 1.0e\+00"),
        ("slope", "the gradient differs from automatic differentiation"),
        ("not centred", "the gradient differs from automatic differentiation"),
        ("spectrum", "the covariance of random features differs"),
        ("slopes", "slopes of random features differ"),
        ("no ladder", "differs from its square"),
        ("curvature", "the covariance of derivatives differs from finite differences"),
    ],
)
def test_a_fault_is_found(fault, message):
    with pytest.raises(AssertionError, match=f"gaussian: .*{message}"):
        check_pointwise_kernel(Faulty(1.5, fault))


def test_the_fault_free_one_passes():
    check_pointwise_kernel(Faulty(1.5))


@pytest.mark.parametrize(
    ("name", "scale", "message"),
    [
        ("cosine", 1.0, "unknown kernel 'cosine'; choose one of gaussian, linear"),
        ("gaussian", 0.0, "positive and finite; got 0.0"),
        ("linear", math.nan, "positive and finite; got nan"),
        ("gaussian", math.inf, "positive and finite; got inf"),
    ],
)
def test_bad_kernels_are_refused(name, scale, message):
    with pytest.raises(ValueError, match=message):
        make_kernel(name, scale)


def test_a_ladder_has_the_ratio_of_squares():
    ladder = (4.0, 4.0 / 2**0.5, 2.0)
    assert is_ladder(GaussianKernel(4.0), ladder)
    assert not is_ladder(GaussianKernel(4.0), (4.0, 2.0))
    assert not is_ladder(GaussianKernel(2.0), ladder[::-1])
    assert not is_ladder(LinearKernel(4.0), ladder)
