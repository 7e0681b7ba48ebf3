import torch

from mekrr.features import Environments
from mekrr.kernels import Pooling, Split, energy_noise


def test_pooling_weights_are_one_over_the_atoms_and_those_of_a_species():
    x = Environments(torch.zeros(6, 1), torch.tensor([1, 8, 1, 1, 8, 8]), torch.tensor([4, 2]))
    mean = Pooling.of(x, "mean")
    assert mean.p.tolist() == [1 / 4] * 4 + [1 / 2] * 2
    assert mean.q.tolist() == [1 / 3, 1, 1 / 3, 1 / 3, 1 / 2, 1 / 2]
    assert mean.f.tolist() == [4 / 3, 4, 4 / 3, 4 / 3, 1, 1]
    assert mean.scale.tolist() == [4, 2]
    total = Pooling.of(x, "sum")
    for weights, count in ((total.p, 6), (total.q, 6), (total.f, 6), (total.scale, 2)):
        assert weights.tolist() == [1.0] * count


def test_noise_grows_with_the_atoms_or_their_square():
    n = torch.tensor([1.0, 3.0], dtype=torch.float64)
    assert energy_noise(n, "sum").tolist() == [1.0, 3.0]
    assert energy_noise(n, "mean").tolist() == [1.0, 9.0]


def test_a_split_is_sliced_as_one():
    split = Split(torch.arange(4.0), torch.arange(4.0) + 10)[1:3]
    assert (split.all_pairs.tolist(), split.same_species.tolist()) == ([1.0, 2.0], [11.0, 12.0])
