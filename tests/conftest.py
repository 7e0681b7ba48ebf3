import os
from pathlib import Path

import pytest
import torch

from mekrr.features import Environments


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets: MEKRR_DATA, or ../shared/data beside the checkout."""
    folder = Path(os.environ.get("MEKRR_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data here: set MEKRR_DATA to a folder with cu_formate, mlearn_cu, ...")
    return folder


def random_environments(sizes: list[int], n_features: int, species: tuple[int, ...] = (1, 6, 29), seed: int = 0):
    """Environments of random features, every structure with its own composition."""
    generator = torch.Generator().manual_seed(seed)
    n = sum(sizes)
    features = torch.randn(n, n_features, generator=generator, dtype=torch.float64)
    kinds = torch.tensor(species)[torch.randint(len(species), (n,), generator=generator)]
    return Environments(features, kinds, torch.tensor(sizes))
