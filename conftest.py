"""Fixtures of both test folders, tests/ and comparison/tests/."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule

import chromium
from support import alloy, labelled


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
def potential(alloys):
    """A potential fitted to 30 alloy cells with the default backbone, everything automatic."""
    pytest.importorskip("sevenn")
    from mekrr import KernelPotential

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return KernelPotential("sevennet-0").fit(alloys[:30])


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Headless Chromium, or the test is skipped."""
    session = chromium.start(tmp_path_factory.mktemp("profile"))
    yield session
    session.quit()
