"""Leave-one-structure-out in closed form: all rows of a structure left out together, its prior refitted.

With w the rows' weights, Z_t = sqrt(w) psi_t V and H_t(ridge) = Z_t diag(1 / (eigenvalues + ridge)) Z_t' the hat matrix
of structure t, taking its rows out of A changes the residual of the fit with it, y_t - yhat_t, to

    r_t = (1 - H_t)^-1 (y_t - yhat_t)

(Sherman-Morrison-Woodbury; for one row it is eq. 5.12 of Rasmussen & Williams 2006). It is linear in y, so columns are
left out one by one and combined by the prior refitted without t. The variance of the row's prediction error is
ridge / w diag((1 - H_t)^-1) at unit amplitude. Added diagonal, feature scaling and hyperparameters are held fixed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mekrr.solve.equations import Observation, RowWeights
from mekrr.solve.factor import Factor
from mekrr.typing import Float, Int, Tensor

AT_ONCE = 4_000_000  # numbers in the largest intermediate


@dataclass(frozen=True, eq=False)
class Residuals:
    """Leave-one-structure-out of several priors along a ridge path.

    Attributes:
        energy: DFT minus the prediction of the fit without that structure, eV.
        energy_variance: predictive variance at unit amplitude, noise included, eV^2, as far as the basis expresses it.
        unexplained: variance of the energy that the basis does not express, likewise.
        force: root mean square over the force components, eV/Angstrom; NaN without forces.
        force_ratio: mean over the probes of squared residual over variance, what the basis does not express included;
            NaN without probes.
        misfit: sum over rows of weight times squared residual of the fit with all structures.
        log_weight: sum over rows of log w.
        rows: how many.
    """

    energy: Float[Tensor, "priors ridges structures"]
    energy_variance: Float[Tensor, "ridges structures"]
    unexplained: Float[Tensor, "structures"]
    force: Float[Tensor, "priors ridges structures"]
    force_ratio: Float[Tensor, "priors ridges structures"]
    misfit: Float[Tensor, "priors ridges"]
    log_weight: float
    rows: int

    def __add__(self, other: "Residuals") -> "Residuals":
        """Of the structures of both, in order."""

        def joined(name: str) -> Tensor:
            return torch.cat([getattr(self, name), getattr(other, name)], dim=-1)

        return Residuals(
            joined("energy"),
            joined("energy_variance"),
            joined("unexplained"),
            joined("force"),
            joined("force_ratio"),
            self.misfit + other.misfit,
            self.log_weight + other.log_weight,
            self.rows + other.rows,
        )


def leave_one_structure_out(
    factor: Factor,
    observations: Sequence[Observation],
    weights: RowWeights,
    prior: Float[Tensor, "priors columns"],
    without: Float[Tensor, "priors structures columns"],
    ridges: Float[Tensor, "ridges"],
) -> Residuals:
    """Residuals of the labelled structures among `observations`.

    Args:
        factor: of all structures, these ones among them.
        observations: to leave out, one at a time; pinned ones are passed over.
        weights: of rows, as in the factor.
        prior: combination of the columns that the kernel fits.
        without: the same, refitted without each labelled structure.
        ridges: to try.
    """
    labelled = [one for one in observations if one.labelled]
    shape = (len(prior), len(ridges), len(labelled))
    empty = ridges.new_full(shape, torch.nan)
    energy, force, force_ratio = empty, empty.clone(), empty.clone()
    energy_variance, misfit = empty[0].clone(), ridges.new_zeros(shape[:2])
    log_weight, rows = 0.0, 0
    damped = factor.damped(ridges)
    fits = _fits(factor, damped)
    for members in _alike(labelled, len(ridges)):
        chosen = [labelled[int(t)] for t in members]
        w = torch.stack([one.row_weights(weights) for one in chosen])
        root = w.sqrt()
        Z = (torch.stack([one.psi for one in chosen]) @ factor.V) * root[:, :, None]
        Y = torch.stack([one.columns for one in chosen]) * root[:, :, None]
        fitted = (Z.flatten(0, 1) @ fits).reshape(*Z.shape[:2], len(ridges), Y.shape[2])
        left = (Y[:, :, None] - fitted).permute(2, 0, 1, 3)
        misfit += torch.einsum("ltrc,pc->pltr", left, prior).square().sum((2, 3))
        eye = torch.eye(Z.shape[1], dtype=Z.dtype, device=Z.device)
        inverse = _inverse(eye - _hats(Z, damped))
        residual = torch.einsum("ltrc,ptc->pltr", inverse @ left, without[:, members]) / root
        variance = inverse.diagonal(dim1=2, dim2=3).clamp_min(1.0) * ridges[:, None, None] / w
        energy[:, :, members], energy_variance[:, members] = residual[..., 0], variance[..., 0]
        if n_forces := chosen[0].n_forces:
            squares = residual[..., 1 : 1 + n_forces].square()
            components = members.new_tensor([3 * one.n_atoms for one in chosen])
            force[:, :, members] = (squares.sum(-1) / components).sqrt()
            beyond = torch.stack([one.unexplained[1 : 1 + n_forces] for one in chosen])
            force_ratio[:, :, members] = (squares / (variance[..., 1 : 1 + n_forces] + beyond)).mean(-1)
        log_weight, rows = log_weight + float(w.log().sum()), rows + w.numel()
    unexplained = ridges.new_tensor([float(one.unexplained[0]) for one in labelled])
    return Residuals(energy, energy_variance, unexplained, force, force_ratio, misfit, log_weight, rows)


def _fits(factor: Factor, damped: Float[Tensor, "ridges groups"]) -> Float[Tensor, "groups fits"]:
    """Solutions of every ridge and column in eigenvectors, side by side: one product gives all fitted values."""
    projected = factor.V.T @ factor.equations.total_moments
    return (damped[:, :, None] * projected).permute(1, 0, 2).flatten(1)


def _hats(
    Z: Float[Tensor, "structures rows groups"], damped: Float[Tensor, "ridges groups"]
) -> Float[Tensor, "ridges structures rows rows"]:
    """Z diag(damped) Z' of each structure for each ridge, all ridges in one matrix product a row."""
    rows = Z.shape[1]
    found = Z.new_empty(len(Z), rows, rows, len(damped))
    for i in range(rows):
        products = (Z[:, i : i + 1] * Z[:, i:]) @ damped.T
        found[:, i, i:], found[:, i:, i] = products, products
    return found.permute(3, 0, 1, 2)


def _inverse(left: Float[Tensor, "ridges structures rows rows"]) -> Float[Tensor, "ridges structures rows rows"]:
    """(1 - H)^-1, finite also where a ridge below rounding leaves nothing of 1 - H."""
    inverse, singular = torch.linalg.inv_ex(left)
    if not bool(singular.any()):
        return inverse
    eps = torch.finfo(left.dtype).eps * torch.eye(left.shape[-1], dtype=left.dtype, device=left.device)
    return torch.where((singular > 0)[..., None, None], torch.linalg.inv_ex(left + eps)[0], inverse)


def _alike(observations: Sequence[Observation], n_ridges: int) -> list[Int[Tensor, "members"]]:
    """Indices of structures with the same numbers of rows, treated together as far as memory goes."""
    kinds: dict[tuple[int, int], list[int]] = {}
    for t, one in enumerate(observations):
        kinds.setdefault((len(one.psi), one.n_forces), []).append(t)
    found: list[Tensor] = []
    for (rows, _), members in kinds.items():
        psi = observations[members[0]].psi
        size = rows * max(rows * n_ridges, psi.shape[1], n_ridges * observations[members[0]].columns.shape[1])
        found += torch.tensor(members, device=psi.device).split(max(1, AT_ONCE // size))
    return found
