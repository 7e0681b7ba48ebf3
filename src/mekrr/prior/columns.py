"""Priors as combinations of target columns, so that one set of equations serves every prior.

The columns of an energy row are the DFT energy, the backbone's energy and the number of atoms of each element; what a
kernel fits under a prior is DFT - factor * backbone - shifts . counts, whatever the prior. Derivative rows have the
first two columns only, because shifts have no derivative.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from mekrr.prior.design import NEEDS_BACKBONE, Compositions, PriorDesign
from mekrr.prior.fitted import fit_prior
from mekrr.typing import Float, Tensor


@dataclass(frozen=True)
class PriorColumns:
    """A prior as a combination of the target columns.

    Attributes:
        name: of the prior.
        coefficients: of the fit to all structures.
        without: row t: of the fit without structure t.
        safe: whether it falls back on a physical model far from the data.
    """

    name: str
    coefficients: Float[Tensor, "columns"]
    without: Float[Tensor, "structures columns"]
    safe: bool = False

    @staticmethod
    def fit(
        name: str,
        energies: Float[Tensor, "structures"],
        compositions: Compositions,
        backbone_energies: Float[Tensor, "structures"] | None,
        elements: Sequence[int],
        weights: Float[Tensor, "structures"] | None = None,
        references: Mapping[int, float] | None = None,
    ) -> "PriorColumns":
        """Fit a prior; `elements` are those of the columns, the rest as in `fit_prior`."""
        _, linear, design = fit_prior(name, energies, compositions, backbone_energies, weights, references)
        return PriorColumns(
            name,
            column_coefficients(design, linear.beta, elements, references),
            column_coefficients(design, linear.beta_without, elements, references),
            name in NEEDS_BACKBONE,
        )


def target_columns(
    energies: Float[Tensor, "structures"],
    backbone_energies: Float[Tensor, "structures"] | None,
    compositions: Compositions,
) -> Float[Tensor, "structures columns"]:
    """What every prior is a combination of: DFT energy, backbone energy (0 without one), atoms of each element."""
    own = torch.zeros_like(energies) if backbone_energies is None else backbone_energies
    return torch.cat([energies[:, None], own[:, None], compositions.counts], dim=1)


def column_coefficients(
    design: PriorDesign,
    beta: Float[Tensor, "*fits parameters"],
    elements: Sequence[int],
    references: Mapping[int, float] | None = None,
) -> Float[Tensor, "*fits columns"]:
    """DFT minus prior as a combination of the target columns.

    Args:
        design: of the prior.
        beta: its coefficients, of one fit or of several.
        elements: of the columns.
        references: as in `prior_design`.
    """
    found = torch.zeros(*beta.shape[:-1], 2 + len(elements), dtype=torch.float64)
    found[..., 0] = 1.0
    found[..., 1] = -1.0 if design.name == "backbone" else 0.0
    if design.name == "composition" and references:
        found[..., 2:] -= torch.tensor([references.get(z, 0.0) for z in elements], dtype=torch.float64)
    for p, column in enumerate(design.columns):
        if column == "mean":
            found[..., 2:] -= beta[..., p, None]
        elif column == "factor":
            found[..., 1] -= beta[..., p]
        else:
            found[..., 2 + list(elements).index(int(column))] -= beta[..., p]
    return found
