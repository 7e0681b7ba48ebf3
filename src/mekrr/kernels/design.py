"""Rows of many structures for many kernels at once: what a search over hyperparameters reads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mekrr.features.environments import Environments
from mekrr.kernels.embedding import Pooling, Split
from mekrr.kernels.pointwise import PointwiseKernel, is_ladder, make_kernel
from mekrr.kernels.rows import design_rows
from mekrr.kernels.tiles import gram
from mekrr.typing import Float, Tensor

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Design:
    """Rows at one length scale, split so that every pair of amplitudes is a mixture.

    Attributes:
        length_scale: of the pointwise kernel.
        gram: K_gg of the basis.
        rows: of each structure, energy first.
    """

    length_scale: float
    gram: Split
    rows: list[Split]


def make_designs(
    x: Environments,
    derivatives: Sequence[Float[Tensor, "_rows _atoms features"] | None],
    centres: Environments,
    kernel: str,
    length_scales: tuple[float, ...],
    embedding: str = "sum",
    progress: Progress | None = None,
) -> list[Design]:
    """A design for each length scale, in one pass where they form a ladder.

    Args:
        x: standardised environments.
        derivatives: of the standardised features of each structure along its directions; None for the energy only.
        centres: of the basis; x itself for the structures as their own basis, which halves the work.
        kernel: name of the pointwise kernel.
        length_scales: longest first.
        embedding: "sum" or "mean".
        progress: units of work done, and in all.
    """
    if centres is x:
        return _own_designs(x, kernel, length_scales, embedding, progress)
    longest = make_kernel(kernel, length_scales[0])
    passes = [length_scales] if is_ladder(longest, length_scales) else [(scale,) for scale in length_scales]
    grams: list[Split] = []
    rows: list[list[Split]] = [[] for _ in length_scales]
    for scales in passes:
        grams += _covariances(centres, make_kernel(kernel, scales[0]), len(scales), embedding)
    for t, d in enumerate(derivatives):
        one = x[x.n_atoms.new_tensor([t])]
        first = 0
        for scales in passes:
            found = design_rows(one, d, centres, make_kernel(kernel, scales[0]), len(scales), embedding)
            for rung, split in enumerate(found):
                rows[first + rung].append(split)
            first += len(scales)
        if progress is not None:
            progress(t + 1, len(derivatives))
    return [Design(scale, g, r) for scale, g, r in zip(length_scales, grams, rows, strict=True)]


def _own_designs(
    x: Environments, kernel: str, length_scales: tuple[float, ...], embedding: str, progress: Progress | None
) -> list[Design]:
    """Structures in the basis of themselves: rows and covariance are one Gram matrix."""
    longest = make_kernel(kernel, length_scales[0])
    passes = [length_scales] if is_ladder(longest, length_scales) else [(scale,) for scale in length_scales]
    scale = Pooling.of(x, embedding).scale[:, None]
    found = []
    for scales in passes:
        pair = gram(x, None, make_kernel(kernel, scales[0]), embedding, len(scales), progress=progress)
        for rung, length_scale in enumerate(scales):
            split = pair.split(rung)
            total = split if embedding == "sum" else Split(split.all_pairs * scale, split.same_species * scale)
            found.append(Design(length_scale, split, [total[t : t + 1] for t in range(x.n_structures)]))
    return found


def _covariances(centres: Environments, kernel: PointwiseKernel, rungs: int, embedding: str) -> list[Split]:
    """K_gg of each rung: pairs of atoms directly where each group is one, tiles otherwise."""
    if centres.n_structures < len(centres.species):
        pair = gram(centres, None, kernel, embedding, rungs, torch.float64)
        return [pair.split(rung) for rung in range(rungs)]
    same = (centres.species[:, None] == centres.species[None, :]).double()
    values, found = kernel.values(centres.features, centres.features), []
    for _ in range(rungs):
        found.append(Split(values, values * same))
        values = values.square()
    return found
