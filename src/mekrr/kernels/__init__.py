"""Kernels between atoms and, by kernel mean embedding, between structures."""

from mekrr.kernels.expansion import Expansion
from mekrr.kernels.pointwise import (
    KERNELS,
    GaussianKernel,
    LinearKernel,
    PointwiseKernel,
    PolynomialKernel,
    make_kernel,
)
from mekrr.kernels.rows import Inducing, Rows, design_rows, mixed
from mekrr.kernels.tiles import GramPair, gram, gram_diagonal

__all__ = [
    "KERNELS",
    "Expansion",
    "GaussianKernel",
    "GramPair",
    "Inducing",
    "LinearKernel",
    "PointwiseKernel",
    "PolynomialKernel",
    "Rows",
    "design_rows",
    "gram",
    "gram_diagonal",
    "make_kernel",
    "mixed",
]
