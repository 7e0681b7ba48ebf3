import torch

from mekrr.features import Derivatives
from mekrr.tune import observation


def test_targets_stand_where_they_belong():
    derivatives = Derivatives(
        torch.zeros(3, 2, 4),
        torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64),
        torch.tensor([4.0, 5.0, 6.0], dtype=torch.float64),
        1,
    )
    columns = torch.tensor([-7.0, -6.0, 2.0], dtype=torch.float64)
    psi = torch.ones(4, 5, dtype=torch.float64)
    found = observation(psi, columns, derivatives, 2, 1.5, 4.0)
    assert torch.equal(found.columns[0], columns)
    assert found.columns[1:].tolist() == [[1.0, 4.0, 0.0], [2.0, 5.0, 0.0], [3.0, 6.0, 0.0]]
    assert (found.n_forces, found.n_atoms, found.weight, found.energy_noise) == (2, 2, 1.5, 4.0)
    assert found.labelled
    assert found.psi is psi


def test_an_energy_alone_is_one_row():
    columns = torch.tensor([-7.0, -6.0, 2.0], dtype=torch.float64)
    found = observation(torch.ones(1, 5, dtype=torch.float64), columns, None, 2, 1.0, 2.0)
    assert (found.n_forces, found.columns.tolist()) == (0, [[-7.0, -6.0, 2.0]])
