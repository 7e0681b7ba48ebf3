"""Kernels between atoms and, by kernel mean embedding, between structures."""

from mekrr.kernels.basis import Basis, covariance, whiten
from mekrr.kernels.design import Design, make_designs
from mekrr.kernels.draws import PriorDraws
from mekrr.kernels.embedding import Pooling, Split, energy_noise
from mekrr.kernels.function import KernelFunction
from mekrr.kernels.pointwise import KERNELS, GaussianKernel, LinearKernel, PointwiseKernel, make_kernel
from mekrr.kernels.rows import design_rows
from mekrr.kernels.structure import Component, StructureKernel
from mekrr.kernels.tangent import JointBasis, TangentBasis, drawn, joined, mix, tangent_dots, tangent_factor
from mekrr.kernels.tiles import GramPair, gram, rounding

__all__ = [
    "KERNELS",
    "Basis",
    "Component",
    "Design",
    "GaussianKernel",
    "GramPair",
    "JointBasis",
    "KernelFunction",
    "LinearKernel",
    "PointwiseKernel",
    "Pooling",
    "PriorDraws",
    "Split",
    "StructureKernel",
    "TangentBasis",
    "covariance",
    "design_rows",
    "drawn",
    "energy_noise",
    "gram",
    "joined",
    "make_designs",
    "make_kernel",
    "mix",
    "rounding",
    "tangent_dots",
    "tangent_factor",
    "whiten",
]
