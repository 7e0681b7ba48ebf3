"""The solution of all force components without some structures, and what it is worth on them.

Leave-one-out has a closed form for probed rows only. What the other components are worth, and by how much deviations
are narrower for them, is seen on structures held out, in a solution that is thrown away.
"""

from collections.abc import Sequence

import torch

from mekrr.data import Structure
from mekrr.linalg import add_diagonal, cholesky_with_jitter
from mekrr.potential.full_forces import ForceProduct, Subset, full_solution
from mekrr.potential.held_out import Rehearsal, held_out
from mekrr.potential.rows import Rows
from mekrr.potential.training import StageProgress
from mekrr.shards import Shards
from mekrr.solve import NormalEquations, RowWeights
from mekrr.typing import Float, Tensor

HELD_SHARE, FEWEST_HELD, MOST_HELD = 5, 8, 60  # one in five structures
TOLERANCE = 0.3  # errors there are within some per cent of the end's, on the safe side


def to_hold_out(structures: Sequence[Structure], seed: int) -> list[int]:
    """A fifth of the structures; none where that is too few to say anything."""
    count = min(MOST_HELD, len(structures) // HELD_SHARE)
    chosen = held_out(structures, seed, count) if count >= FEWEST_HELD else []
    return chosen if len(chosen) >= FEWEST_HELD else []


def rehearse(
    task: ForceProduct,
    rows: Rows,
    equations: NormalEquations,
    weights: RowWeights,
    prior: str,
    ridge: float,
    variance: Float[Tensor, "structures"],
    progress: StageProgress | None,
    who: Shards,
) -> Rehearsal | None:
    """Full beside probed solution, both without the structures held out; None without any.

    A potential has no functions of structures that it has not seen: with those of the structures held out, the
    solution of all force components follows noise along them that no probe of the others sees (on ethanol its force
    errors came out 40% too large).

    Args:
        task: the product with the Gram matrix of all force components.
        rows: of all structures, with the functions of those held out at the end.
        equations: of all structures, pinned ones among them.
        weights: of rows.
        prior: chosen; it is refitted to the others.
        ridge: chosen.
        variance: of energies by leave-one-out, at any scale.
        progress: called with the shards gone through.
        who: computes the products.
    """
    if not rows.held:
        return None
    learning = [t for t in range(len(rows.data)) if t not in set(rows.held)]
    columns = rows.data.prior_columns(prior, torch.tensor(learning)).coefficients
    held = rows.of(rows.held)
    rest, k = equations - NormalEquations.of(held, weights), len(rows.basis) - rows.n_held_functions
    subset = Subset(learning, k, TOLERANCE)
    full, _ = full_solution(task, rest, weights.force, columns, ridge, progress, who, subset)
    L, _ = cholesky_with_jitter(add_diagonal(rest.total[:k, :k], ridge), torch.finfo(full.dtype).eps)
    probed = torch.zeros_like(full)
    probed[:k] = torch.cholesky_solve((rest.total_moments[:k] @ columns)[:, None], L)[:, 0]
    return Rehearsal.of(held, columns, variance[list(rows.held)].sqrt(), probed, full)
