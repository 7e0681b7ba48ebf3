"""Atoms that another process owns: their features are asked for before each convolution, their gradients sent home.

Where space is divided between processes, each has its own atoms and, as ghosts, those of its neighbours (and periodic
images) within one cutoff. A ghost lacks neighbours of its own, so that what the network makes of it is wrong after one
convolution. While an exchange is set, a network replaces ghosts' rows by what their owners have, before each
convolution; in reverse mode, gradients that ghosts gathered go to their owners.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from mekrr.typing import Float, Tensor


class Exchange(ABC):
    """Of rows of atoms, own ones first, then ghosts. Every process calls it equally often."""

    @abstractmethod
    def forward(self, rows: Float[Tensor, "atoms columns"]) -> Float[Tensor, "atoms columns"]:
        """Own rows as they are, those of ghosts as their owners have them."""

    @abstractmethod
    def reverse(self, rows: Float[Tensor, "atoms columns"]) -> Float[Tensor, "atoms columns"]:
        """The transpose: own rows plus those of all their ghosts, and zeros for ghosts."""


# A context variable is one a thread, so that threads that share a network do not exchange for each other.
_exchange: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


@contextmanager
def exchanging(exchange: Exchange | None) -> Iterator[None]:
    """Let networks inside the block exchange ghosts' rows; None for no ghosts."""
    token = _exchange.set(exchange)
    try:
        yield
    finally:
        _exchange.reset(token)


def exchanged(rows: Float[Tensor, "atoms columns"]) -> Float[Tensor, "atoms columns"]:
    """Rows with those of ghosts replaced, where there are any; differentiable once in reverse and in forward mode."""
    exchange = _exchange.get()
    return rows if exchange is None else _Exchanged.apply(rows, exchange)


class _Exchanged(torch.autograd.Function):
    """`Exchange.forward`, linear, with `Exchange.reverse` as its transpose."""

    @staticmethod
    def forward(rows: Tensor, exchange: Exchange) -> Tensor:
        return exchange.forward(rows.contiguous())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.exchange = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.exchange.reverse(gradient.contiguous()), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return _Exchanged.apply(tangent, ctx.exchange)
