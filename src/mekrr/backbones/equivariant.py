"""What networks of e3nn's convolutions share: built without TorchScript, convolutions fused, even scalars found."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mekrr.backbones.convolution import Convolution
from mekrr.typing import Float, Tensor


@contextmanager
def eager_e3nn() -> Iterator[None]:
    """Modules of e3nn made within are not compiled to TorchScript, which stops forward mode."""
    import e3nn

    before = e3nn.get_optimization_defaults()
    e3nn.set_optimization_defaults(jit_script_fx=False)
    try:
        yield
    finally:
        e3nn.set_optimization_defaults(**before)


def fused(module: Any, embedding: Any) -> Convolution:
    """An interaction's convolution, its filters a function of distance and the mean over neighbours included.

    Args:
        module: with a `convolution` of e3nn, a `weight_nn` that makes its weights, and a `denominator`.
        embedding: of distances, with a `basis_function` and a `cutoff_function`.
    """
    *body, last = module.weight_nn.children()

    def hidden(lengths: Float[Tensor, "edges"]) -> Float[Tensor, "edges hidden"]:
        values = embedding.basis_function(lengths) * embedding.cutoff_function(lengths)[:, None]
        for layer in body:
            values = layer(values)
        return values

    # The last layer is linear without bias, so it is known by what it makes of unit vectors.
    mixing = last(torch.eye(int(last.h_in)).to(module.denominator)) / module.denominator
    return Convolution.from_e3nn(module.convolution, hidden, mixing.detach())


def even_scalars(irreps: Any) -> list[int]:
    """Columns of the even scalars (0e) within features of these irreps."""
    blocks = zip(irreps, irreps.slices(), strict=True)
    return [column for (_, ir), block in blocks if ir.is_scalar() for column in range(block.start, block.stop)]
