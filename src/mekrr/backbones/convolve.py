"""Equivariant convolutions as a differentiable operation of torch."""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch

from mekrr.backbones.convolution import Convolution, Edges
from mekrr.typing import Float, Tensor

_TWICE = (
    "second derivatives through this convolution are not implemented: it can be differentiated once, in reverse or in "
    "forward mode; take finite differences of first derivatives instead"
)


def convolve(
    convolution: Convolution,
    edges: Edges,
    features: Float[Tensor, "atoms columns"],
    lengths: Float[Tensor, "edges"],
    harmonics: Float[Tensor, "edges harmonics"],
) -> Float[Tensor, "atoms out"]:
    """Messages summed over neighbours; differentiable in everything once, in reverse or in forward mode.

    Edges come in pairs, one in each direction, with the harmonics that belong to it. Messages are linear in the
    features, and their gradient in the features alone is a convolution again, of the gradient: both may be
    differentiated further. A second derivative in the geometry is refused with NotImplementedError.

    Args:
        convolution: couplings and filters.
        edges: of the graph.
        features: of the atoms, in e3nn's layout.
        lengths: of the edges, Angstrom.
        harmonics: spherical harmonics of the edges' directions.
    """
    return _Convolve.apply(features, lengths, harmonics, convolution, edges)


@cache
def arithmetic(device: str) -> ModuleType:
    """What does the sums on a device: compiled loops on a CPU with numba, PyTorch's products elsewhere."""
    compiled = device == "cpu" and find_spec("numba") is not None
    return import_module("mekrr.backbones." + ("convolution_compiled" if compiled else "convolution_kernels"))


class _Convolve(torch.autograd.Function):
    """`convolve` with its derivatives."""

    @staticmethod
    def forward(features: Tensor, lengths: Tensor, harmonics: Tensor, convolution: Convolution, edges: Edges) -> Tensor:
        return arithmetic(features.device.type).convolution_values(convolution, edges, features, lengths, harmonics)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.convolution, ctx.edges = inputs
        ctx.set_materialize_grads(False)  # so that a geometry that stands still is told from one that moves
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if not any(ctx.needs_input_grad[1:3]):
            _, lengths, harmonics = ctx.saved_tensors
            transposed = ctx.convolution.transposed
            return _Convolve.apply(gradient, lengths, harmonics, transposed, ctx.edges), None, None, None, None
        return *_ConvolveGradients.apply(*ctx.saved_tensors, gradient, ctx.convolution, ctx.edges), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        if tangents[0] is not None and tangents[1] is None and tangents[2] is None:
            _, lengths, harmonics = ctx.saved_tensors
            return _Convolve.apply(tangents[0], lengths, harmonics, ctx.convolution, ctx.edges)
        filled = (
            torch.zeros_like(saved) if tangent is None else tangent
            for saved, tangent in zip(ctx.saved_tensors, tangents[:3], strict=True)
        )
        return _ConvolveTangent.apply(*ctx.saved_tensors, *filled, ctx.convolution, ctx.edges)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, None]:
        _refuse_batched(in_dims[:3])
        return _Convolve.apply(*inputs), None


class _ConvolveGradients(torch.autograd.Function):
    """The gradients of `convolve`, connected to their inputs so that differentiating them is noticed.

    PyTorch's once_differentiable is not: its error hangs on leaves of its own, which autograd.grad never visits, so
    that this part of a second derivative was left out without a word.
    """

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        *tensors, convolution, edges = inputs
        return arithmetic(tensors[0].device.type).convolution_gradients(convolution, edges, *tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Nothing is kept: there are no derivatives of derivatives."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> None:
        raise NotImplementedError(_TWICE)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        raise NotImplementedError(_TWICE)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> None:
        raise NotImplementedError("torch.func.vmap over reverse passes is not supported; do one after another")


class _ConvolveTangent(torch.autograd.Function):
    """The derivative of `convolve` along one direction, or under vmap along many at once."""

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        *tensors, convolution, edges = inputs
        values, tangents = tensors[:3], [tangent[None] for tangent in tensors[3:]]
        return arithmetic(values[0].device.type).convolution_tangents(convolution, edges, *values, *tangents)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is kept: there are no derivatives of derivatives."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> None:
        raise NotImplementedError(_TWICE)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        raise NotImplementedError(_TWICE)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        _refuse_batched(in_dims[:3])
        *tensors, convolution, edges = inputs
        tangents = (
            tangent.expand(info.batch_size, *tangent.shape) if dim is None else tangent.movedim(dim, 0)
            for tangent, dim in zip(tensors[3:], in_dims[3:6], strict=True)
        )
        return arithmetic(tensors[0].device.type).convolution_tangents(convolution, edges, *tensors[:3], *tangents), 0


def _refuse_batched(in_dims: tuple[int | None, ...]) -> None:
    if any(dim is not None for dim in in_dims):
        raise NotImplementedError(
            "torch.func.vmap over edge vectors or features is not supported, only over their tangents; put several "
            "structures into one GraphBatch"
        )
