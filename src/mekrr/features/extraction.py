"""Features and backbone energies of many structures, in batches sized by atoms, through the cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from ase import Atoms

from mekrr.backbones import Backbone
from mekrr.features.cache import FeatureCache
from mekrr.features.environments import Environments
from mekrr.features.observe import BATCH_ATOMS, Pass, observe
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
    """

    environments: Environments
    layers: tuple[str, ...]
    widths: tuple[int, ...]
    energies: Float[Tensor, "structures"] | None

    def __getitem__(self, indices: Tensor) -> "Extraction":
        """The extraction of the chosen structures."""
        energies = None if self.energies is None else self.energies[indices]
        return Extraction(self.environments[indices], self.layers, self.widths, energies)

    def select(self, layers: Sequence[str]) -> "Extraction":
        """The same structures with only some of the layers."""
        starts = dict(zip(self.layers, torch.tensor((0, *self.widths)).cumsum(0).tolist(), strict=False))
        width = dict(zip(self.layers, self.widths, strict=True))
        columns = torch.cat([torch.arange(starts[name], starts[name] + width[name]) for name in layers])
        environments = self.environments.with_features(self.environments.features[:, columns])
        return Extraction(environments, tuple(layers), tuple(width[name] for name in layers), self.energies)


def extract(
    structures: Sequence[Atoms],
    backbone: Backbone,
    layers: Sequence[str],
    cache: FeatureCache | None = None,
    batch_atoms: int = BATCH_ATOMS,
    progress: Progress | None = None,
) -> Extraction:
    """Features of all structures.

    Args:
        structures: non-empty.
        backbone: frozen network.
        layers: tapped layers, concatenated in this order.
        cache: read first, also for entries of all layers; what is computed is written to it.
        batch_atoms: a batch holds structures up to so many atoms together (at least one structure).
        progress: called with structures done, first those that the cache had, and structures in all.
    """
    what = "features"
    keys = [cache.key(a, backbone.identity, layers, backbone.dtype, what) if cache else "" for a in structures]
    entries = [read_entry(cache, a, backbone, layers, what, "features") if cache else None for a in structures]
    missing = [t for t, entry in enumerate(entries) if entry is None]
    done = len(structures) - len(missing)
    if progress is not None:  # what the cache had, first
        progress(done, len(structures))
    new = [structures[t] for t in missing]
    for batch, seen in observe(new, backbone, layers, batch_atoms=batch_atoms):
        for i, entry in zip(batch, _entries(seen), strict=True):
            entries[missing[i]] = entry
            if cache:
                cache.write(keys[missing[i]], entry)
        done += len(batch)
        if progress is not None:
            progress(done, len(structures))
    return _assemble(structures, [entry for entry in entries if entry is not None], backbone, layers)


def read_entry(
    cache: FeatureCache, atoms: Atoms, backbone: Backbone, layers: Sequence[str], what: str, name: str
) -> dict[str, Tensor] | None:
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


def _entries(seen: Pass) -> list[dict[str, Tensor]]:
    """What the cache keeps of each structure of a batch."""
    counts = seen.graph.n_atoms.tolist()
    entries = [{"features": part.cpu().clone()} for part in seen.environments.features.split(counts)]
    if seen.atomic_energies is not None:
        for entry, part in zip(entries, seen.atomic_energies.split(counts), strict=True):
            entry["energy"] = part.sum().cpu()
    return entries


def _assemble(
    structures: Sequence[Atoms], entries: Sequence[dict[str, Tensor]], backbone: Backbone, layers: Sequence[str]
) -> Extraction:
    environments = Environments(
        torch.cat([entry["features"] for entry in entries]),
        torch.cat([torch.as_tensor(atoms.numbers, dtype=torch.int64) for atoms in structures]),
        torch.tensor([len(atoms) for atoms in structures]),
    )
    energies = torch.stack([entry["energy"] for entry in entries]) if backbone.has_energy else None
    return Extraction(environments, tuple(layers), tuple(backbone.layer_widths[name] for name in layers), energies)
