import pytest
import torch

from mekrr.kernels import Component, GaussianKernel, LinearKernel, StructureKernel
from support import random_environments

POINTWISE = {"gaussian": GaussianKernel(2.5), "linear": LinearKernel(1.3)}
SUMS = {
    "two gaussians": (Component(GaussianKernel(4.0), 0.7, 0.3), Component(GaussianKernel(1.2), 0.0, 2.0)),
    "gaussian and linear": (Component(GaussianKernel(2.0), 0.4, 0.9), Component(LinearKernel(1.5), 0.3, 0.1)),
}


@pytest.fixture(params=["sum", "mean"])
def embedding(request):
    return request.param


@pytest.fixture(params=list(POINTWISE))
def pointwise(request):
    return POINTWISE[request.param]


@pytest.fixture(params=[0.0, 0.3, 1.0], ids=lambda w: f"w={w}")
def weighted(request, pointwise, embedding):
    """One component with a species weight."""
    return StructureKernel.weighted(pointwise, request.param, embedding)


@pytest.fixture(params=list(SUMS))
def summed(request, embedding):
    """Two components."""
    return StructureKernel(SUMS[request.param], embedding)


@pytest.fixture(scope="session")
def x():
    return random_environments([6, 3, 1], 4, seed=3)


@pytest.fixture(scope="session")
def groups():
    """Centres in groups of several atoms, one of them a single one."""
    return random_environments([5, 1, 4, 7], 4)


@pytest.fixture(scope="session")
def derivatives():
    """Of the features of the first structure of x."""
    return torch.randn(5, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
