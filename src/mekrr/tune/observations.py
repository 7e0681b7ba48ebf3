"""From rows and labels to what the equations take."""

import torch

from mekrr.features import Derivatives
from mekrr.solve import Observation
from mekrr.typing import Float, Tensor


def observation(
    psi: Float[Tensor, "rows groups"],
    energy_columns: Float[Tensor, "columns"],
    derivatives: Derivatives | None,
    n_atoms: int,
    weight: float,
    energy_noise: float,
) -> Observation:
    """The whitened rows of one labelled structure with their targets: shifts have no derivative."""
    columns = torch.zeros(len(psi), len(energy_columns), dtype=torch.float64, device=psi.device)
    columns[0] = energy_columns
    if derivatives is not None:
        columns[1:, 0], columns[1:, 1] = derivatives.dft, derivatives.own
    n_forces = 0 if derivatives is None else derivatives.n_forces
    return Observation(psi, columns, n_atoms, n_forces, weight, energy_noise)
