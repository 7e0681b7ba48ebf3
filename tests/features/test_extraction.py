import pytest
import torch

from mekrr.features import FeatureCache, Scaler, batches, extract

LAYERS = ("interaction_1", "interaction_3")


def test_batching_does_not_matter(alloys, molecules, sevennet):
    structures = [*alloys[:5], *molecules[:4]]
    together = extract(structures, sevennet, LAYERS, batch_atoms=1000)
    single = extract(structures, sevennet, LAYERS, batch_atoms=1)
    torch.testing.assert_close(together.environments.features, single.environments.features, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.energies, single.energies, rtol=1e-6, atol=1e-5)
    assert together.widths == (128, 128)


def test_cache_gives_the_same_bits_and_computes_nothing(alloys, sevennet, tmp_path):
    seen = []
    cache = FeatureCache(tmp_path)
    first = extract(alloys[:4], sevennet, LAYERS, cache)
    again = extract(alloys[:6], sevennet, LAYERS, cache, progress=lambda done, total: seen.append(done))
    assert torch.equal(again.environments.features[: len(first.environments.species)], first.environments.features)
    assert torch.equal(again.energies[:4], first.energies)
    assert seen == [4, 6]  # what the cache had, first


def test_a_damaged_entry_is_computed_again(alloys, sevennet, tmp_path):
    cache = FeatureCache(tmp_path)
    first = extract(alloys[:2], sevennet, LAYERS, cache)
    path = next(iter(sorted(tmp_path.glob("*/*.safetensors"))))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(UserWarning, match="damaged"):
        again = extract(alloys[:2], sevennet, LAYERS, cache)
    assert torch.equal(again.environments.features, first.environments.features)
    assert cache.read(path.parent.name + path.stem) is not None


def test_selecting_layers_equals_extracting_them(alloys, sevennet):
    both = extract(alloys[:2], sevennet, LAYERS)
    one = extract(alloys[:2], sevennet, LAYERS[1:])
    assert torch.equal(both.select(LAYERS[1:]).environments.features, one.environments.features)


def test_entries_of_all_layers_serve_some_of_them(alloys, sevennet, tmp_path):
    cache, seen = FeatureCache(tmp_path), []
    whole = extract(alloys[:4], sevennet, sevennet.layers, cache)
    layers = ("interaction_2", "interaction_0")
    some = extract(alloys[:4], sevennet, layers, cache, progress=lambda *done: seen.append(done))
    assert torch.equal(some.environments.features, whole.select(layers).environments.features)
    assert torch.equal(some.energies, whole.energies)
    assert seen == [(4, 4)]  # all of it from the cache


def test_batches_hold_every_index_once_and_respect_the_size():
    sizes = [3, 5, 2, 9, 1, 1, 4]
    found = list(batches(sizes, 6))
    assert [i for batch in found for i in batch] == list(range(7))
    assert all(len(batch) == 1 or sum(sizes[i] for i in batch) <= 6 for batch in found)


def test_standardised_features_have_mean_zero_and_deviation_one(alloys, sevennet):
    found = extract(alloys[:8], sevennet, LAYERS)
    scaler = Scaler.fit(found.environments.features, found.widths)
    h = scaler(found.environments).features
    assert h.mean(0).abs().max() < 1e-6
    assert (h.std(0, correction=0) - 1).abs().median() < 1e-6
    assert h.std(0, correction=0).max() < 1 + 1e-6


def test_channels_that_hardly_vary_are_not_blown_up():
    features = torch.cat([torch.randn(50, 2), 1e-9 * torch.randn(50, 1), torch.full((50, 1), 7.0)], dim=1)
    scaler = Scaler.fit(features, (4,))
    assert scaler.scale[2:].min() > 1e-4
