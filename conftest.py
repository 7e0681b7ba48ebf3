"""Fixtures of both test folders, tests/ and comparison/tests/."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule
from published_schnet import SMALL, published

import chromium
from mekrr.backbones.schnet import SCHNET, SchNetNetwork
from support import alloy, labelled

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers share the cores


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets: MEKRR_DATA, or ../shared/data beside the checkout."""
    folder = Path(os.environ.get("MEKRR_DATA", Path(__file__).parents[1] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data here: set MEKRR_DATA to a folder with cu_formate, mlearn_cu, ...")
    return folder


@pytest.fixture(scope="session")
def alloys():
    """36 small alloy cells of two sizes and many compositions."""
    return [alloy(seed) for seed in range(36)]


@pytest.fixture(scope="session")
def molecules():
    """Rattled molecules without a cell."""
    frames = []
    for seed, name in enumerate(("CO", "H2O", "CH4", "NH3", "C2H4", "CO") * 3):
        atoms = molecule(name)
        atoms.positions += np.random.default_rng(seed).normal(0, 0.05, atoms.positions.shape)
        frames.append(labelled(atoms))
    return frames


@pytest.fixture(scope="session")
def sevennet():
    """The default backbone."""
    pytest.importorskip("sevenn")
    from mekrr.backbones import load_backbone

    return load_backbone("sevennet-0", device="cpu")


@pytest.fixture(scope="session")
def potential(alloys):
    """A potential fitted to 30 alloy cells with the default backbone, everything automatic."""
    pytest.importorskip("sevenn")
    from mekrr import KernelPotential

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return KernelPotential("sevennet-0").fit(alloys[:30])


@pytest.fixture(scope="session")
def forces_potential(alloys):
    """Energies and forces of 14 alloy cells, with nothing left to choose."""
    pytest.importorskip("sevenn")
    from mekrr import KernelPotential

    chosen = {"layers": ("interaction_1",), "length_scale": 12.0, "species_weight": 0.5, "prior": "backbone"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return KernelPotential("sevennet-0", force_weight=1e-3, ridge=1e-4, inducing=40, **chosen).fit(alloys[:14])


@pytest.fixture(scope="session")
def exact_potential(alloys):
    """Energies of six alloy cells, by the exact solver, with nothing left to choose."""
    pytest.importorskip("sevenn")
    from mekrr import KernelPotential

    chosen = {"layers": ("interaction_1",), "length_scale": 12.0, "prior": "backbone"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return KernelPotential("sevennet-0", solver="exact", **chosen).fit(alloys[:6])


@pytest.fixture(scope="session")
def network():
    """A small SchNet with random weights."""
    torch.manual_seed(0)
    return SchNetNetwork(SMALL).requires_grad_(False)


@pytest.fixture
def checkpoint(network, tmp_path):
    """The same on disk, in the published format."""
    path = tmp_path / "schnet.pt"
    torch.save(published(network), path)
    return path


@pytest.fixture
def small_schnet(checkpoint):
    """The same as a backbone, in float64."""
    return SCHNET.load(checkpoint, torch.device("cpu"), torch.float64, False)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Headless Chromium, or the test is skipped."""
    session = chromium.start(tmp_path_factory.mktemp("profile"))
    yield session
    session.quit()
