import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mekrr.data import Structure, as_structures
from mekrr.features import ALL, FeatureCache, probe
from mekrr.features.probes import force_directions

LAYERS = ("interaction_0", "interaction_1")
STRESS = np.array([[0.02, 0.01, 0.0], [0.01, -0.03, 0.005], [0.0, 0.005, 0.04]])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def labels_of(columns, components, seed=0):
    return torch.randn(columns, components, dtype=torch.float64, generator=generator(seed))


@pytest.fixture(scope="module")
def structures(alloys):
    """Both sizes; forces and stress, forces only, stress only, energy only."""
    base = as_structures(alloys[:4])
    return [
        replace(base[0], stress=STRESS),
        base[1],
        replace(base[2], forces=None, stress=STRESS),
        replace(base[3], forces=None),
    ]


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 8), st.integers(0, 3), st.integers(0, 40), st.integers(0, 1000))
@example(1, 1, 1, 45)  # the random direction is the label's
def test_labels_are_in_the_span_and_random_directions_are_not(atoms, columns, probes, seed):
    components = 3 * atoms
    labels = labels_of(columns, components, seed)
    rank = min(columns, components)
    v = force_directions(labels, probes, generator(seed))
    count = min(probes, components - rank)
    assert v.shape == (rank + count, components)
    span, random = v[:rank], v[rank:]
    torch.testing.assert_close(labels @ span.T @ span, labels, rtol=1e-10, atol=1e-11)
    expected = torch.eye(count, dtype=torch.float64) * (components - rank) / max(1, count)
    torch.testing.assert_close(random @ random.T, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(random @ span.T, torch.zeros(count, rank, dtype=torch.float64), rtol=0, atol=1e-9)


def test_outer_products_are_the_identity_on_average():
    """For every entry within five standard errors over the seeds."""
    labels = labels_of(2, 12)
    draws = torch.stack([(v := force_directions(labels, 3, generator(s))).T @ v for s in range(1500)])
    error = draws.std(0) / 1500**0.5
    assert error.max() < 0.06
    assert ((draws.mean(0) - torch.eye(12, dtype=torch.float64)).abs() <= 5 * error + 1e-10).all()
    assert not torch.allclose(draws[0], torch.eye(12, dtype=torch.float64), atol=0.1)


@pytest.mark.parametrize("probes", [ALL, 10, 11, 500])
def test_all_or_more_than_is_left_is_a_complete_basis(probes):
    v = force_directions(labels_of(2, 12), probes, generator())
    torch.testing.assert_close(v.T @ v, torch.eye(12, dtype=torch.float64), rtol=0, atol=1e-12)


def test_no_probes_leave_the_span_of_the_labels():
    labels = labels_of(2, 12)
    v = force_directions(labels, 0, generator())
    torch.testing.assert_close(v @ v.T, torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(labels @ v.T @ v, labels)


def test_zero_and_proportional_forces_leave_a_smaller_span():
    zeros = torch.zeros(2, 12, dtype=torch.float64)
    v = force_directions(zeros, 4, generator())
    torch.testing.assert_close(v @ v.T, 3.0 * torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-12)
    one = labels_of(1, 12)
    for labels in (torch.cat([one, -2 * one]), torch.cat([one, 0 * one]), one):
        assert force_directions(labels, 0, generator()).shape == (1, 12)
        complete = force_directions(labels, ALL, generator())
        torch.testing.assert_close(complete.T @ complete, torch.eye(12, dtype=torch.float64), rtol=0, atol=1e-12)


def test_rows_of_each_kind_of_structure(structures, sevennet):
    store = probe(structures, sevennet, LAYERS, 3)
    shapes = [None if (d := store(t)) is None else (d.n_forces, d.n_strains, len(d.features)) for t in range(4)]
    assert shapes == [(5, 6, 11), (5, 0, 5), (0, 6, 6), None]
    assert store(1).features.shape == (5, 8, 256)


def test_force_rows_hold_the_labels_exactly(structures, sevennet):
    """The norm of the labels is all in the probed rows, so the right-hand side is exact for every prior."""
    from mekrr.backbones.derivatives import energy_forces_stress
    from mekrr.graph import build_batch

    structure = structures[1]
    own = energy_forces_stress(sevennet, build_batch([structure.atoms], sevennet.cutoff, None)).forces
    for probes in (0, 4):
        found = probe([structure], sevennet, LAYERS[:1], probes)(0)
        for factor in (0.0, 1.0, 0.7):
            residual = found.dft - factor * found.own
            expected = torch.as_tensor(structure.forces) - factor * own
            assert float(residual @ residual) == pytest.approx(float(expected.square().sum()), rel=1e-4)


def test_all_rows_have_the_gram_matrix_of_the_jacobian(structures, sevennet):
    """Against identity directions, which need no orthogonalisation."""
    from mekrr.backbones.derivatives import linearise
    from mekrr.graph import build_batch

    structure = structures[0]
    n = len(structure)
    graph = build_batch([structure.atoms], sevennet.cutoff, sevennet.max_neighbours)
    directions = torch.eye(3 * n, dtype=torch.float64).reshape(-1, n, 3)
    J = linearise(sevennet, graph, directions, None, LAYERS).feature_derivatives.double().reshape(3 * n, -1)
    found = probe([structure], sevennet, LAYERS, ALL)(0)
    rows = found.features[: found.n_forces].double().reshape(3 * n, -1)
    expected = J.T @ J
    torch.testing.assert_close(rows.T @ rows, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))
    f = torch.as_tensor(structure.forces, dtype=torch.float64).flatten()
    moments = -J.T @ f
    torch.testing.assert_close(rows.T @ found.dft[: 3 * n], moments, rtol=0, atol=2e-5 * float(moments.abs().max()))


def test_strain_rows_are_the_derivatives_of_the_energy(structures, sevennet):
    """Against finite differences of the backbone's energy, in ASE's order and with eps_xy = eps_yx = 1/2."""
    from mekrr.features import extract

    step, structure = 3e-3, structures[2]
    found = probe([structure], sevennet, LAYERS[:1], 3)(0)
    volume = structure.atoms.get_volume()
    for row, (a, b) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        moved = []
        for size in (step, -step):
            strain = np.zeros((3, 3))
            strain[a, b] += size / 2
            strain[b, a] += size / 2
            atoms = structure.atoms.copy()
            atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
            moved.append(atoms)
        up, down = extract(moved, sevennet, LAYERS[:1]).energies
        assert float(found.own[row]) == pytest.approx(float(up - down) / (2 * step), rel=2e-2, abs=2e-2)
        assert float(found.dft[row]) == pytest.approx(volume * STRESS[a, b])


def test_rows_of_one_structure_do_not_depend_on_the_others(structures, sevennet):
    together, alone = probe(structures, sevennet, LAYERS, 3), probe(structures[1:2], sevennet, LAYERS, 3)
    torch.testing.assert_close(together(1).features, alone(0).features, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(together(1).dft, alone(0).dft)


def test_layers_of_the_store_are_those_of_a_probe_of_them(structures, sevennet):
    both, one = (probe(structures[:1], sevennet, layers, 3) for layers in (LAYERS, LAYERS[1:]))
    torch.testing.assert_close(both(0, LAYERS[1:]).features, one(0).features, rtol=1e-5, atol=1e-6)
    assert torch.equal(both(0, LAYERS[::-1]).features[..., :128], both(0, LAYERS[1:]).features)


def test_cached_entries_equal_computed_ones(structures, sevennet, tmp_path):
    cache, seen = FeatureCache(tmp_path), []
    plain = probe(structures, sevennet, LAYERS, 3)
    first = probe(structures, sevennet, LAYERS, 3, cache=cache)
    again = probe(structures, sevennet, LAYERS, 3, cache=cache, progress=lambda *done: seen.append(done))
    assert seen == [(3, 3)]  # all of it from the cache
    for t in range(3):
        for store in (first, again):
            for name in ("features", "dft", "own"):
                assert torch.equal(getattr(store(t), name), getattr(plain(t), name))
            assert store(t).n_strains == plain(t).n_strains


def test_entries_of_all_layers_serve_some_of_them(structures, sevennet, tmp_path):
    cache, seen = FeatureCache(tmp_path), []
    whole = probe(structures, sevennet, sevennet.layers, 3, cache=cache)
    for _ in range(2):
        some = probe(structures, sevennet, LAYERS[::-1], 3, cache=cache, progress=lambda *done: seen.append(done))
        for t in range(3):
            assert torch.equal(some(t).features, whole(t, LAYERS[::-1]).features)
            assert torch.equal(some(t).own, whole(t).own)
    assert seen == [(3, 3)] * 2


def test_the_key_holds_labels_probes_and_seed(structures, sevennet):
    one = structures[0]
    other_forces, no_stress = replace(one, forces=one.forces + 1e-9), replace(one, stress=None)
    other_stress = replace(one, stress=one.stress + 1e-9)
    keys = {
        probe([s], sevennet, LAYERS[:1], probes, seed).keys[0]
        for s, probes, seed in (
            (one, 1, 0),
            (one, 2, 0),
            (one, 1, 1),
            (other_forces, 1, 0),
            (other_stress, 1, 0),
            (no_stress, 1, 0),
        )
    }
    assert len(keys) == 6
    relabelled = Structure(one.atoms, -1.0, one.forces, one.stress, weight=3.0)
    assert probe([relabelled], sevennet, LAYERS[:1], 1).keys[0] in keys
    assert probe([structures[3]], sevennet, LAYERS[:1], 1).keys == [None]


def test_seeds_change_random_directions_only(structures, sevennet):
    first, other = (probe(structures[1:2], sevennet, LAYERS[:1], 3, seed)(0) for seed in (0, 1))
    torch.testing.assert_close(first.features[:2], other.features[:2], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(first.features[2:], other.features[2:], atol=1e-2)


@pytest.mark.parametrize("own_cache", [True, False])
def test_derivatives_on_disk_equal_those_in_memory(structures, sevennet, tmp_path, monkeypatch, own_cache):
    in_memory = probe(structures, sevennet, LAYERS, 3)
    assert len(in_memory.kept) == 3
    monkeypatch.setattr("mekrr.features.probes.MEMORY_BYTES", in_memory(1).features.nbytes + 1)
    on_disk = probe(structures, sevennet, LAYERS, 3, cache=FeatureCache(tmp_path) if own_cache else None)
    assert len(on_disk.kept) == 1
    for t in range(3):
        for name in ("features", "dft", "own"):
            assert torch.equal(getattr(on_disk(t), name), getattr(in_memory(t), name))


def test_derivatives_that_vanish_are_reported(structures, sevennet, tmp_path, monkeypatch):
    monkeypatch.setattr("mekrr.features.probes.MEMORY_BYTES", 0)
    store = probe(structures[:1], sevennet, LAYERS[:1], 1, cache=FeatureCache(tmp_path))
    for path in tmp_path.glob("*/*.safetensors"):
        path.unlink()
    with pytest.raises(OSError, match="cached derivatives have vanished"):
        store(0)


def test_without_a_cache_nothing_stays_on_disk_and_nothing_is_said(sevennet, structures, recwarn):
    store = probe(structures, sevennet, LAYERS, 2)
    folder = store.cache.folder
    assert folder.is_dir()
    del store
    gc.collect()
    assert (folder.exists(), [str(w.message) for w in recwarn if w.category is ResourceWarning]) == (False, [])
