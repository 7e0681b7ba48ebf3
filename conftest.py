"""Fixtures of both test folders, tests/ and comparison/tests/."""

import typed  # noqa: F401  isort: skip, for annotations are checked in what is imported from here on

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule
from filelock import FileLock
from published_schnet import SMALL, published

import chromium
from mekrr.backbones.schnet import SCHNET, SchNetNetwork
from support import alloy, labelled

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers share the cores,
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # with what they start


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
def shared_fit(tmp_path_factory):
    """Fits of a session, each made once whatever the number of workers: the first saves it, all load that file."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder

    def fit(name, structures, **options):
        pytest.importorskip("sevenn")
        from mekrr import KernelPotential

        path = folder / f"{name}.safetensors"
        with FileLock(f"{path}.lock"):
            if not path.exists():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    KernelPotential("sevennet-0", **options).fit(structures).save(path)
        return KernelPotential.load(path)

    return fit


# With nothing left to choose.
CHOSEN = {"layers": ("interaction_1",), "length_scale": 12.0, "prior": "backbone"}
WITH_FORCES = CHOSEN | {"species_weight": 0.5, "force_weight": 1e-3, "inducing": 40}


@pytest.fixture(scope="session")
def potential(alloys, shared_fit):
    """Fitted to 30 alloy cells: one layer, the kernel on features alone, everything else automatic."""
    return shared_fit("potential", alloys[:30], layers=("interaction_1",), tangent_share=0.0)


@pytest.fixture(scope="session")
def forces_potential(alloys, shared_fit):
    """Energies and forces of 14 alloy cells, with nothing left to choose."""
    return shared_fit("forces", alloys[:14], ridge=1e-4, tangent_share=0.0, **WITH_FORCES)


@pytest.fixture(scope="session")
def tangent_potential(alloys, shared_fit):
    """With a tangent part, for energies and probed forces of six alloy cells, with nothing left to choose."""
    probed = {"probes": 4, "exact_forces": False}
    return shared_fit("tangent", alloys[:6], ridge=1e-5, tangent_share=0.6, **probed, **WITH_FORCES)


@pytest.fixture(scope="session")
def exact_potential(alloys, shared_fit):
    """Energies of six alloy cells, by the exact solver, with nothing left to choose."""
    return shared_fit("exact", alloys[:6], solver="exact", **CHOSEN)


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
