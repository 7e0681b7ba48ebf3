"""Inducing environments: which atoms of the training set span the sparse solution, with a quota for each species."""

import torch

from mekrr.features.environments import Environments
from mekrr.features.scaling import Scaler
from mekrr.typing import Float, Int, Tensor

AUTO_LIMIT = 1500
USUAL_SHARE = 0.5  # of the places of a species, at most, for one usual atom of each structure
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


def choose_inducing(
    x: Environments, count: int, seed: int = 0, scaler: Scaler | None = None
) -> Int[Tensor, "inducing"]:
    """Rows of x by farthest-point sampling within each species, grouped by species.

    Args:
        x: standardised environments, or raw ones with their scaler.
        count: in all; more than there are environments means all of them.
        seed: of the subset of very many candidates.
        scaler: standardises the candidates of one species at a time; None where x is standardised.

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
            rows = rows[torch.randperm(len(rows), generator=generator)[:CANDIDATES].sort().values.to(rows.device)]
        h = x.features[rows] if scaler is None else scaler.features(x.features[rows])
        usual = _usual(h, x.structure[rows])
        first = usual[_farthest(h[usual], round(USUAL_SHARE * share))]
        parts.append(rows[_farthest(h, min(share, len(rows)), first)])
    return torch.cat(parts)


def _usual(features: Float[Tensor, "atoms features"], structure: Int[Tensor, "atoms"]) -> Int[Tensor, "structures"]:
    """Of each structure that is there, the atom nearest to the mean of its atoms."""
    present, of = torch.unique(structure, return_inverse=True)
    counts = torch.bincount(of)
    mean = features.new_zeros(len(present), features.shape[1]).index_add_(0, of, features) / counts[:, None]
    distance = (features - mean[of]).square().sum(1)
    by_distance = distance.argsort(stable=True)
    by_structure = by_distance[of[by_distance].argsort(stable=True)]
    return by_structure[counts.cumsum(0) - counts]


def _farthest(
    features: Float[Tensor, "atoms features"], count: int, first: Int[Tensor, "first"] | None = None
) -> Int[Tensor, "chosen"]:
    """Farthest points, from those given or the one nearest to the mean (Gonzalez, Theor. Comput. Sci. 38, 293, 1985).

    Each point is the one whose distance to those already chosen is largest; |h - u|^2 = |h|^2 + |u|^2 - 2 h . u, so one
    product a point keeps the distances up to date.
    """
    if count >= len(features):
        return torch.arange(len(features), device=features.device)
    squares = features.square().sum(1)
    if first is None or len(first) == 0:
        first = (features - features.mean(0)).square().sum(1).argmin()[None]
    nearest = torch.full_like(squares, torch.inf)
    chosen = first.tolist()[:count]
    for k in range(count - 1):
        last = chosen[k]
        nearest = torch.minimum(nearest, squares + squares[last] - 2 * (features @ features[last]))
        nearest[last] = -torch.inf  # rounding may leave a duplicate nearer than a point to itself
        if k + 1 == len(chosen):
            chosen.append(int(nearest.argmax()))
    return torch.tensor(chosen, dtype=torch.int64, device=features.device)
