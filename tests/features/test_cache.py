import multiprocessing
import warnings

import pytest
import torch
from ase.build import bulk

from mekrr.features import FeatureCache, structure_hash
from support import write_often

KEY = FeatureCache.key(bulk("Cu"), "net:abc", ("a", "b"), torch.float32, "features")


def test_what_is_written_is_read(tmp_path):
    cache = FeatureCache(tmp_path / "new" / "folder")
    assert cache.read(KEY) is None
    entry = {"features": torch.randn(4, 3), "energy": torch.tensor(-3.25, dtype=torch.float64)}
    cache.write(KEY, entry)
    found = cache.read(KEY)
    assert found is not None
    assert all(torch.equal(found[name], tensor) for name, tensor in entry.items())


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_a_damaged_entry_is_reported_and_not_used(tmp_path, keep):
    cache = FeatureCache(tmp_path)
    cache.write(KEY, {"features": torch.zeros(50, 3)})
    (path,) = tmp_path.glob("*/*.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.warns(UserWarning, match="damaged cache entry"):
        assert cache.read(KEY) is None


def test_everything_that_matters_is_in_the_key():
    moved, stretched, open_cell, other = (bulk("Cu") for _ in range(4))
    moved.positions += 1e-12
    stretched.set_cell(stretched.cell * 1.0000001)
    open_cell.pbc = (True, True, False)
    other.numbers[:] = 47
    hashes = {structure_hash(a) for a in (bulk("Cu"), moved, stretched, open_cell, other)}
    assert len(hashes) == 5
    labelled = bulk("Cu")
    labelled.info["energy"] = 3.0
    assert structure_hash(labelled) == structure_hash(bulk("Cu"))
    keys = {
        FeatureCache.key(bulk("Cu"), identity, layers, dtype, what)
        for identity in ("net:abc", "net:abd")
        for layers in (("a", "b"), ("b", "a"), ("a",))
        for dtype in (torch.float32, torch.float64)
        for what in ("features", "derivatives")
    }
    assert len(keys) == 24


def test_two_processes_writing_one_entry_leave_it_whole(tmp_path):
    # a fork need not import torch again, which takes longer than all the writing
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    writers = [context.Process(target=write_often, args=(tmp_path, KEY, value)) for value in (1, 2)]
    for writer in writers:
        writer.start()
    cache, seen = FeatureCache(tmp_path), 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        while any(writer.is_alive() for writer in writers):
            entry = cache.read(KEY)
            if entry is not None:
                seen += 1
                assert entry["features"].unique().numel() == 1
    assert all(writer.exitcode == 0 for writer in writers)
    assert seen > 0
    assert not list(tmp_path.glob("**/*.tmp"))
