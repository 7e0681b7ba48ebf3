"""Equivariant convolutions as a differentiable operation of torch."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from mekrr.backbones.convolution import Block, Convolution
from mekrr.backbones.convolution_kernels import convolution_gradients, convolution_tangents, convolution_values
from mekrr.typing import Float, Tensor


def convolve(
    convolution: Convolution,
    blocks: list[Block],
    features: Float[Tensor, "atoms columns"],
    lengths: Float[Tensor, "edges"],
    harmonics: Float[Tensor, "edges harmonics"],
) -> Float[Tensor, "atoms out"]:
    """Messages summed over neighbours; differentiable once, in reverse or in forward mode, not twice.

    Args:
        convolution: couplings and filters.
        blocks: from `blocks_of` the graph.
        features: of the atoms, in e3nn's layout.
        lengths: of the edges, Angstrom.
        harmonics: spherical harmonics of the edges' directions.
    """
    return _Convolve.apply(features, lengths, harmonics, convolution, blocks)


class _Convolve(torch.autograd.Function):
    """`convolve` with its derivatives."""

    @staticmethod
    def forward(
        features: Tensor, lengths: Tensor, harmonics: Tensor, convolution: Convolution, blocks: list[Block]
    ) -> Tensor:
        return convolution_values(convolution, blocks, features, lengths, harmonics)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.convolution, ctx.blocks = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, lengths, harmonics = ctx.saved_tensors
        gradients = convolution_gradients(ctx.convolution, ctx.blocks, features, lengths, harmonics, gradient)
        return *gradients, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        filled = (
            torch.zeros_like(saved) if tangent is None else tangent
            for saved, tangent in zip(ctx.saved_tensors, tangents[:3], strict=True)
        )
        return _ConvolveTangent.apply(*ctx.saved_tensors, *filled, ctx.convolution, ctx.blocks)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, None]:
        _refuse_batched(in_dims[:3])
        return _Convolve.apply(*inputs), None


class _ConvolveTangent(torch.autograd.Function):
    """The derivative of `convolve` along one direction, or under vmap along many at once."""

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        *tensors, convolution, blocks = inputs
        values, tangents = tensors[:3], [tangent[None] for tangent in tensors[3:]]
        return convolution_tangents(convolution, blocks, *values, *tangents)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is kept: there are no derivatives of derivatives."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        _refuse_batched(in_dims[:3])
        *tensors, convolution, blocks = inputs
        tangents = (
            tangent.expand(info.batch_size, *tangent.shape) if dim is None else tangent.movedim(dim, 0)
            for tangent, dim in zip(tensors[3:], in_dims[3:6], strict=True)
        )
        return convolution_tangents(convolution, blocks, *tensors[:3], *tangents), 0


def _refuse_batched(in_dims: tuple[int | None, ...]) -> None:
    if any(dim is not None for dim in in_dims):
        raise NotImplementedError(
            "torch.func.vmap over edge vectors or features is not supported, only over their tangents; put several "
            "structures into one GraphBatch"
        )
