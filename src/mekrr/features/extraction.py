"""Features and backbone energies of many structures, in batches sized by atoms, through the cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from ase import Atoms

from mekrr.backbones import Backbone
from mekrr.features.cache import FeatureCache
from mekrr.features.environments import Environments
from mekrr.features.matrix import chosen_columns, new_matrix
from mekrr.features.observe import BATCH_ATOMS, Pass, batches, look
from mekrr.features.stored import Entry, computed
from mekrr.graph import build_batch
from mekrr.shards import HERE, Shards
from mekrr.typing import Float, Tensor

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Extraction:
    """What one pass of the backbone over a data set gives.

    Attributes:
        environments: raw features of the layers asked for, in the backbone's dtype.
        layers: their names.
        widths: channels of each.
        energies: the backbone's own energies in eV, float64; None when it has none.
        folder: of features that do not fit into memory; None for the system's temporary one.
    """

    environments: Environments
    layers: tuple[str, ...]
    widths: tuple[int, ...]
    energies: Float[Tensor, "structures"] | None
    folder: Path | None = None

    def __getitem__(self, indices: Tensor) -> "Extraction":
        """The extraction of the chosen structures."""
        energies = None if self.energies is None else self.energies[indices]
        return replace(self, environments=self.environments[indices], energies=energies)

    def select(self, layers: Sequence[str]) -> "Extraction":
        """The same structures with only some of the layers; with all of them, no copy."""
        if tuple(layers) == self.layers:
            return self
        starts = dict(zip(self.layers, torch.tensor((0, *self.widths)).cumsum(0).tolist(), strict=False))
        width = dict(zip(self.layers, self.widths, strict=True))
        columns = torch.cat([torch.arange(starts[name], starts[name] + width[name]) for name in layers])
        features = chosen_columns(self.environments.features, columns, self.folder)
        return replace(
            self,
            environments=self.environments.with_features(features),
            layers=tuple(layers),
            widths=tuple(width[name] for name in layers),
        )


@dataclass(frozen=True, eq=False)
class Extract:
    """Features and energies of a batch of structures: what the cache keeps of each."""

    backbone: Backbone
    layers: tuple[str, ...]

    def __call__(self, batch: Sequence[Atoms]) -> list[Entry]:
        """An entry a structure."""
        graph = build_batch(batch, self.backbone.cutoff, self.backbone.max_neighbours)
        return _entries(look(graph, self.backbone, self.layers))


def extract(
    structures: Sequence[Atoms],
    backbone: Backbone,
    layers: Sequence[str],
    cache: FeatureCache | None = None,
    batch_atoms: int = BATCH_ATOMS,
    progress: Progress | None = None,
    shards: Shards = HERE,
) -> Extraction:
    """Features of all structures.

    Args:
        structures: non-empty.
        backbone: frozen network.
        layers: tapped layers, concatenated in this order.
        cache: read first, also for entries of all layers; what is computed is written to it.
        batch_atoms: a batch holds structures up to so many atoms together (at least one structure).
        progress: called with structures done, first those that the cache had, and structures in all.
        shards: who computes.
    """
    found = _Assembly(structures, backbone, layers, None if cache is None else cache.folder)
    missing = []
    for t, atoms in enumerate(structures):
        entry = read_entry(cache, atoms, backbone, layers, "features", "features") if cache else None
        if entry is None:
            missing.append(t)
        else:
            found.put(t, entry)
    groups = [[missing[i] for i in batch] for batch in batches([len(structures[t]) for t in missing], batch_atoms)]
    keyed = [[(_key(cache, structures[t], backbone, layers), structures[t]) for t in group] for group in groups]
    done = len(structures) - len(missing)
    if progress is not None:  # what the cache had, first
        progress(done, len(structures))
    results = computed(shards, Extract(backbone, tuple(layers)), keyed, cache, "features")
    for group, shard, (entries, is_kept) in zip(groups, keyed, results, strict=True):
        for t, (key, _), entry in zip(group, shard, entries, strict=True):
            found.put(t, entry)
            if cache is not None and not is_kept:
                cache.write(key, entry)
        done += len(group)
        if progress is not None:
            progress(done, len(structures))
    return found.extraction()


def _key(cache: FeatureCache | None, atoms: Atoms, backbone: Backbone, layers: Sequence[str]) -> str:
    return cache.key(atoms, backbone.identity, layers, backbone.dtype, "features") if cache else ""


def read_entry(
    cache: FeatureCache, atoms: Atoms, backbone: Backbone, layers: Sequence[str], what: str, name: str
) -> Entry | None:
    """An entry of the cache, or that of all layers cut to those asked for, which is then kept as well.

    Args:
        cache: of the entries.
        atoms: structure.
        backbone: network.
        layers: asked for.
        what: part of the key, see FeatureCache.key.
        name: of the tensor that has the layers' features along its last axis.
    """
    identity, dtype = backbone.identity, backbone.dtype
    key = cache.key(atoms, identity, layers, dtype, what)
    entry = cache.read(key)
    if entry is not None or tuple(layers) == backbone.layers:
        return entry
    whole = cache.read(cache.key(atoms, identity, backbone.layers, dtype, what))
    if whole is None:
        return None
    widths = [backbone.layer_widths[layer] for layer in backbone.layers]
    parts = dict(zip(backbone.layers, whole[name].split(widths, dim=-1), strict=True))
    entry = whole | {name: torch.cat([parts[layer] for layer in layers], dim=-1)}
    cache.write(key, entry)
    return entry


def _entries(seen: Pass) -> list[Entry]:
    """What the cache keeps of each structure of a batch."""
    counts = seen.graph.n_atoms.tolist()
    entries: list[Entry] = [{"features": part.cpu().clone()} for part in seen.environments.features.split(counts)]
    if seen.atomic_energies is not None:
        for entry, part in zip(entries, seen.atomic_energies.split(counts), strict=True):
            entry["energy"] = part.sum().cpu()
    return entries


class _Assembly:
    """Features of all structures as one matrix, filled as they come: there is never a second one."""

    def __init__(
        self, structures: Sequence[Atoms], backbone: Backbone, layers: Sequence[str], folder: Path | None
    ) -> None:
        self.folder = folder
        self.layers, self.widths = tuple(layers), tuple(backbone.layer_widths[name] for name in layers)
        self.n_atoms = torch.tensor([len(atoms) for atoms in structures])
        self.species = torch.cat([torch.as_tensor(atoms.numbers, dtype=torch.int64) for atoms in structures])
        self.features = new_matrix(len(self.species), sum(self.widths), backbone.dtype, folder)
        self.energies = torch.zeros(len(structures), dtype=torch.float64) if backbone.has_energy else None
        self.starts = (self.n_atoms.cumsum(0) - self.n_atoms).tolist()

    def put(self, t: int, entry: Entry) -> None:
        """Structure t."""
        self.features[self.starts[t] : self.starts[t] + len(entry["features"])] = entry["features"]
        if self.energies is not None:
            self.energies[t] = entry["energy"]

    def extraction(self) -> Extraction:
        """When all are there."""
        environments = Environments(self.features, self.species, self.n_atoms)
        return Extraction(environments, self.layers, self.widths, self.energies, self.folder)
