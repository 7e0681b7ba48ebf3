import pytest
import torch
from published_schnet import SMALL, published

from mekrr.backbones.schnet import SCHNET, SchNetNetwork


@pytest.fixture(scope="session")
def network():
    torch.manual_seed(0)
    return SchNetNetwork(SMALL).requires_grad_(False)


@pytest.fixture
def checkpoint(network, tmp_path):
    path = tmp_path / "schnet.pt"
    torch.save(published(network), path)
    return path


@pytest.fixture
def small_schnet(checkpoint):
    return SCHNET.load(checkpoint, torch.device("cpu"), torch.float64, False)
