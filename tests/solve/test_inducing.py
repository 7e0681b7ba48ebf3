import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mekrr.features import Environments, Scaler
from mekrr.kernels import Basis, GaussianKernel, StructureKernel
from mekrr.solve import choose_inducing, default_count
from mekrr.solve.inducing import quotas
from support import random_environments


def environments(counts: dict[int, int], n_features: int = 3, seed: int = 0):
    """One structure with so many atoms of each species, in mixed order."""
    species = torch.cat([torch.full((n,), z) for z, n in counts.items()])
    generator = torch.Generator().manual_seed(seed)
    species = species[torch.randperm(len(species), generator=generator)]
    features = torch.randn(len(species), n_features, generator=generator, dtype=torch.float64)
    return Environments(features, species, torch.tensor([len(species)]))


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.data())
def test_quotas_fill_the_count_and_cover_every_species(atoms, data):
    counts = {z + 1: n for z, n in enumerate(atoms)}
    count = data.draw(st.integers(len(atoms), sum(atoms) + 5))
    found = quotas(environments(counts), count)
    assert sum(found.values()) == min(count, sum(atoms))
    assert all(1 <= found[z] <= n for z, n in counts.items())


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=4), st.data())
def test_rarer_species_are_represented_more_completely(atoms, data):
    """Ordered by their numbers of atoms, quotas do not fall and, but for rounding, shares of the atoms do not rise."""
    counts = {z + 1: n for z, n in enumerate(sorted(atoms))}
    found = quotas(environments(counts), data.draw(st.integers(len(atoms), sum(atoms))))
    for z in range(1, len(atoms)):
        assert found[z] <= found[z + 1] + 1
        assert (found[z] + 1) / counts[z] >= (found[z + 1] - 1) / counts[z + 1]


def test_a_rare_species_is_complete():
    x = environments({6: 4, 8: 8, 29: 400})
    chosen = choose_inducing(x, 120)
    species = x.species[chosen]
    assert len(chosen) == len(torch.unique(chosen)) == 120
    assert int((species == 6).sum()) == 4
    assert int((species == 29).sum()) > 90


def test_chosen_rows_are_grouped_by_species():
    x = environments({1: 20, 6: 30, 29: 50})
    species = x.species[choose_inducing(x, 40)]
    assert torch.equal(species, species.sort().values)


def test_more_than_there_are_means_all():
    x = environments({1: 5, 29: 9})
    assert torch.equal(choose_inducing(x, 1000).sort().values, torch.arange(14))


def test_too_few_for_the_species_is_an_error():
    x = environments({1: 5, 6: 5, 29: 9})
    assert len(choose_inducing(x, 3)) == 3
    with pytest.raises(ValueError, match="2 inducing environments cannot cover 3 species; give at least 3"):
        choose_inducing(x, 2)


def test_the_chosen_spread_out():
    """Three tight clusters of very different sizes: farthest points take one of each, random ones would not."""
    features = torch.tensor([[0.0, 0.0]] * 50 + [[9.0, 0.0]] + [[0.0, 9.0]], dtype=torch.float64)
    features += 0.01 * torch.randn(52, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = Environments(features, torch.full((52,), 29), torch.tensor([52]))
    assert {50, 51} < set(choose_inducing(x, 3).tolist())


def plain_farthest(h, count):
    """Farthest points with all distances at hand, starting from the point nearest to the mean."""
    distances = torch.cdist(h, h, compute_mode="donot_use_mm_for_euclid_dist")
    chosen = [int((h - h.mean(0)).norm(dim=1).argmin())]
    while len(chosen) < count:
        nearest = distances[:, chosen].min(1).values
        nearest[chosen] = -1.0
        chosen.append(int(nearest.argmax()))
    return chosen


def test_chosen_are_the_farthest_points_of_each_species():
    x = environments({1: 30, 6: 8, 29: 70}, n_features=4, seed=5)
    expected = []
    for z, share in sorted(quotas(x, 45).items()):
        rows = torch.nonzero(x.species == z).flatten()
        own = plain_farthest(x.features[rows], share)
        expected += rows[own].tolist() if share < len(rows) else rows.tolist()
    assert choose_inducing(x, 45).tolist() == expected
    assert 0 < quotas(x, 45)[6] < 45


def test_duplicated_environments_are_chosen_without_repeating_a_row():
    features = torch.ones(30, 3, dtype=torch.float64)
    features[:3] += torch.eye(3, dtype=torch.float64)
    x = Environments(features, torch.full((30,), 29), torch.tensor([30]))
    assert len(torch.unique(choose_inducing(x, 8))) == 8


def test_very_many_candidates_are_thinned_by_the_seed(monkeypatch):
    monkeypatch.setattr("mekrr.solve.inducing.CANDIDATES", 30)
    x = environments({29: 200})
    first, same, other = (choose_inducing(x, 10, seed) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("n", "count"), [(20, 20), (150, 100), (600, 300), (10_000, 1500)])
def test_default_count(n, count):
    assert default_count(environments({29: n}, n_features=1)) == count


def test_raw_environments_with_their_scaler_give_the_same(monkeypatch):
    """Also where candidates are a subset."""
    raw = random_environments([30] * 8, 5)
    scaler = Scaler.fit(raw.features, (5,))
    for candidates in (20_000, 25):
        monkeypatch.setattr("mekrr.solve.inducing.CANDIDATES", candidates)
        assert torch.equal(choose_inducing(raw, 40, 1, scaler), choose_inducing(scaler(raw), 40, 1))


def several(n_structures=12, n_atoms=20, seed=0):
    """Structures of two species; the first half of them ordered: atoms of a species all but alike."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n_structures, n_atoms, 4, generator=generator, dtype=torch.float64)
    half = n_structures // 2
    centre = 0.3 * torch.randn(half, 1, 4, generator=generator, dtype=torch.float64)
    features[:half] = centre + 0.01 * features[:half]
    species = torch.tensor([29, 29, 29, 8] * (n_atoms // 4)).repeat(n_structures)
    return Environments(features.flatten(0, 1), species, torch.full((n_structures,), n_atoms))


def plain_usual(x, z):
    """Of each structure, the row of the atom of this species that is nearest to their mean."""
    found = []
    for t in range(x.n_structures):
        rows = torch.nonzero((x.structure == t) & (x.species == z)).flatten()
        h = x.features[rows]
        found.append(int(rows[(h - h.mean(0)).norm(dim=1).argmin()]))
    return found


@pytest.mark.parametrize("count", [60, 30])
def test_half_of_the_places_are_for_a_usual_atom_of_each_structure(count):
    """All of them where there is room, otherwise the farthest among them; farthest points follow."""
    x = several()
    expected = []
    for z, share in sorted(quotas(x, count).items()):
        usual = plain_usual(x, z)
        room = round(share / 2)
        first = usual if room >= len(usual) else [usual[k] for k in plain_farthest(x.features[usual], room)]
        rows = torch.nonzero(x.species == z).flatten()
        distances = torch.cdist(x.features[rows], x.features[rows], compute_mode="donot_use_mm_for_euclid_dist")
        chosen = [int((rows == one).nonzero()) for one in first]
        while len(chosen) < share:
            nearest = distances[:, chosen].min(1).values
            nearest[chosen] = -1.0
            chosen.append(int(nearest.argmax()))
        expected += rows[chosen].tolist()
    assert choose_inducing(x, count).tolist() == expected


def test_ordered_structures_are_known_as_well_as_others(monkeypatch):
    """Alike atoms are a small part of space, which farthest points pass over, and what is unknown of them adds up."""

    def unknown():
        """Prior variance that the basis leaves, over all of it, of ordered structures."""
        x = several()
        rows = choose_inducing(x, 48).sort().values
        centres = Environments(x.features[rows], x.species[rows], torch.ones_like(rows))
        kernel = StructureKernel.weighted(GaussianKernel(1.0), 0.5)
        basis = Basis.of(centres, kernel)
        psi = torch.cat([basis.rows(x[torch.tensor([t])], None) for t in range(6)])
        own = kernel.diagonal(x)[:6]
        return float(((own - psi.square().sum(1)) / own).max())

    now = unknown()
    monkeypatch.setattr("mekrr.solve.inducing.USUAL_SHARE", 0.0)
    assert now < 0.05
    assert unknown() > 10 * now
