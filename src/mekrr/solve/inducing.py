"""Inducing environments: which atoms of the training set span the sparse solution, with a quota for each species."""

import torch

from mekrr.features.environments import Environments
from mekrr.typing import Int, Tensor

AUTO_LIMIT = 1500
CANDIDATES = 20_000  # of one species; farthest-point sampling goes over all of them for each point it picks


def default_count(x: Environments) -> int:
    """Half of the atoms, at least 100 where there are so many, at most 1,500."""
    n = len(x.species)
    return min(n, AUTO_LIMIT, max(100, n // 2))


def quotas(x: Environments, count: int) -> dict[int, int]:
    """Inducing environments of each species: shares that go with the square root of its number of atoms.

    A rare adsorbate does not drown among the atoms of its slab, and the slab is not starved for it either. What a
    species cannot fill goes to the others.

    Args:
        x: training environments.
        count: in all.
    """
    species, atoms = torch.unique(x.species, return_counts=True)
    roots = atoms.double().sqrt()
    left, weight, shares = min(count, len(x.species)), float(roots.sum()), {}
    for k in (atoms / roots).argsort().tolist():  # those that fill up first come first
        share = max(1, round(left * float(roots[k]) / weight))
        shares[int(species[k])] = min(int(atoms[k]), share)
        left -= shares[int(species[k])]
        weight -= float(roots[k])
    return shares


def choose_inducing(x: Environments, count: int, seed: int = 0) -> Int[Tensor, "inducing"]:
    """Rows of x by farthest-point sampling within each species (scikit-matter), grouped by species.

    Args:
        x: standardised environments.
        count: in all; more than there are environments means all of them.
        seed: of the subset of very many candidates.

    Raises:
        ValueError: for a count below the number of species.
    """
    n_species = len(torch.unique(x.species))
    if count < n_species:
        raise ValueError(f"{count} inducing environments cannot cover {n_species} species; give at least {n_species}")
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for z, share in sorted(quotas(x, count).items()):
        rows = torch.nonzero(x.species == z).flatten()
        if len(rows) > CANDIDATES:
            rows = rows[torch.randperm(len(rows), generator=generator)[:CANDIDATES].sort().values]
        parts.append(rows[_farthest(x.features[rows], min(share, len(rows)))])
    return torch.cat(parts)


def _farthest(features: Tensor, count: int) -> Tensor:
    """Farthest points, starting from the one nearest to the mean."""
    if count >= len(features):
        return torch.arange(len(features))
    from skmatter.sample_selection import FPS  # scikit-learn takes a second to import

    start = int((features - features.mean(0)).square().sum(1).argmin())
    selector = FPS(n_to_select=count, initialize=start).fit(features.numpy())
    return torch.as_tensor(selector.selected_idx_[:count].copy())
