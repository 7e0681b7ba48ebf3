import multiprocessing
import warnings

import ase.io
import pytest
import torch
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from charged import Charged

from mekrr.data import as_structures, read_structures
from mekrr.errors import FeatureFileError
from mekrr.features import FeatureCache, FeatureFile, RecordedBackbone, extract, structure_hash, write_features
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
    charged, triplet, said = (bulk("Cu") for _ in range(3))
    charged.info["charge"], triplet.info["spin"] = 1, 3
    hashes = {structure_hash(a) for a in (bulk("Cu"), moved, stretched, open_cell, other, charged, triplet)}
    assert len(hashes) == 7
    said.info |= {"charge": 0, "spin": 1}
    assert structure_hash(said) == structure_hash(bulk("Cu"))
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


def test_another_charge_is_not_served_cached_features(small_schnet, tmp_path):
    """Through files and reader, by a network that reads the charge."""
    network, cache = Charged(small_schnet), FeatureCache(tmp_path / "cache")
    ions = [bulk("Cu") for _ in range(3)]
    for k, atoms in enumerate(ions):
        atoms.calc = SinglePointCalculator(atoms, energy=-3.0)
        atoms.info["charge"] = k - 1
    ase.io.write(tmp_path / "ions.extxyz", ions)
    structures = read_structures(tmp_path / "ions.extxyz")
    alone = [extract([s.atoms], network, network.layers, cache) for s in structures]
    again = extract([s.atoms for s in structures], network, network.layers, cache)
    features = torch.cat([one.environments.features for one in alone])
    torch.testing.assert_close(again.environments.features, features, rtol=0, atol=0)
    torch.testing.assert_close(features.diff(dim=0), torch.full_like(features[1:], 0.1))
    assert len(set(again.energies.tolist())) == 3


def test_a_feature_file_tells_charges_apart(small_schnet, tmp_path):
    ions = [bulk("Cu") for _ in range(2)]
    ions[1].info["charge"] = 1
    write_features(tmp_path / "f.safetensors", as_structures(ions), Charged(small_schnet), probes=None)
    recorded = RecordedBackbone(FeatureFile(tmp_path / "f.safetensors"))
    found = extract(ions, recorded, recorded.layers).environments.features
    torch.testing.assert_close(found, extract(ions, Charged(small_schnet), recorded.layers).environments.features)
    ions[1].info["charge"] = 2
    with pytest.raises(FeatureFileError, match="holds no features"):
        extract(ions, recorded, recorded.layers)


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
