import errno
from pathlib import Path

import pytest
import torch

from mekrr import KernelPotential
from mekrr.features import FeatureCache, extract
from mekrr.features.matrix import chosen_columns, new_matrix
from mekrr.potential.archive import _tensors

MAPS = Path("/proc/self/maps")
OPTIONS = {
    "length_scale": 6.0, "species_weight": 0.5, "prior": "composition", "force_weight": 1e-3, "ridge": 1e-5,
    "inducing": 20, "tangent_share": 0.6, "probes": 2, "exact_forces": False,
}  # fmt: skip


@pytest.fixture
def on_disk(monkeypatch):
    """Every matrix in a file, and their parts cut two rows at a time."""
    monkeypatch.setattr("mekrr.features.matrix.MEMORY_BYTES", 0)
    monkeypatch.setattr("mekrr.features.matrix.ROWS_AT_ONCE", 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_matrix_in_a_file_holds_what_is_written(tmp_path, on_disk, dtype):
    values = torch.randn(7, 5).to(dtype)
    matrix = new_matrix(7, 5, dtype, tmp_path / "new")
    matrix.copy_(values)
    assert matrix.dtype == dtype
    assert torch.equal(matrix, values)
    columns = torch.tensor([3, 0, 4])
    chosen = chosen_columns(matrix, columns, tmp_path)
    assert torch.equal(chosen, values[:, columns])
    chosen[0] = 0.0
    assert torch.equal(matrix, values)
    assert list((tmp_path / "new").iterdir()) == []  # without a name: gone with the process, however it ends


def test_a_small_matrix_makes_no_folder(tmp_path):
    new_matrix(7, 5, torch.float32, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_no_room_is_said(tmp_path, on_disk, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError, match=r"no room for 0\.1 GB of features; make room, or name another folder with --cac"):
        new_matrix(250_000, 100, torch.float32, tmp_path)


def test_features_in_a_file_are_those_in_memory(alloys, small_schnet, tmp_path, on_disk, monkeypatch):
    found = extract(alloys[:6], small_schnet, small_schnet.layers, FeatureCache(tmp_path))
    some = found.select(small_schnet.layers[:2])
    monkeypatch.undo()
    expected = extract(alloys[:6], small_schnet, small_schnet.layers)
    for one, other in ((found, expected), (some, expected.select(small_schnet.layers[:2]))):
        assert one.widths == other.widths
        assert torch.equal(one.environments.features, other.environments.features)


@pytest.mark.skipif(not MAPS.exists(), reason="the system does not tell which files are mapped")
def test_the_file_of_features_lies_beside_the_cache(alloys, small_schnet, tmp_path, on_disk):
    """A temporary folder is memory on some systems."""
    found = extract(alloys[:6], small_schnet, small_schnet.layers, FeatureCache(tmp_path))
    (mapped,) = [line for line in MAPS.read_text().splitlines() if f"{tmp_path}/" in line]
    assert "rw-s" in mapped, "what is written must reach the file"
    some = found.select(small_schnet.layers[:2])
    assert MAPS.read_text().count(f"{tmp_path}/") == 2
    assert some.folder == found.folder


def test_a_fit_on_disk_gives_the_same_bits(alloys, checkpoint, tmp_path, on_disk, monkeypatch):
    """Features, derivatives and rows of equations, none of which is kept in memory."""
    monkeypatch.setattr("mekrr.features.probes.MEMORY_BYTES", 0)
    monkeypatch.setattr("mekrr.potential.rows.KEPT_BYTES", 0)
    found = KernelPotential(f"schnet:{checkpoint}", cache=tmp_path / "cache", **OPTIONS).fit(alloys[:6])
    monkeypatch.undo()
    expected = KernelPotential(f"schnet:{checkpoint}", **OPTIONS).fit(alloys[:6])
    for name, tensor in _tensors(expected.fitted_).items():
        assert torch.equal(_tensors(found.fitted_)[name], tensor), name
