"""Probed derivatives: a few directions a structure in place of all 3n, with the labels' span taken exactly.

The normal equations of forces need sum_a (dphi/dr_a)(dphi/dr_a)', over all 3n components. With directions v for which
E[sum v v'] = 1, sum_v (dphi along v)(dphi along v)' is an unbiased estimate of it. Two orthonormal directions span the
DFT forces and the backbone's own, so that the right-hand side is exact for every prior; P orthonormal random ones, each
times sqrt((3n - 2) / P), sample the complement. Orthonormal directions sample it with less variance than independent
ones, and are the whole of it when P reaches 3n - 2.
"""

import hashlib
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from mekrr.backbones import Backbone
from mekrr.backbones.derivatives import PulledBack, stress_of
from mekrr.data import Structure
from mekrr.features.cache import FeatureCache, structure_hash
from mekrr.features.extraction import Progress, read_entry
from mekrr.features.observe import Pass, batches, look
from mekrr.features.stored import Entry, computed
from mekrr.features.tangent import TangentSpace
from mekrr.graph import build_batch
from mekrr.shards import HERE, Shards
from mekrr.typing import Float, Tensor

ALL = "all"
PROBE_BATCH_ATOMS = 208
CHUNK = 16  # directions whose tangents are in memory at once
MEMORY_BYTES = 1_000_000_000  # beyond, derivatives are read from disk when needed
STRAINS = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))  # ASE's Voigt order


@dataclass(frozen=True, eq=False)
class Derivatives:
    """Rows of first derivatives of one structure, all with respect to one parameter each.

    Attributes:
        features: derivative of each atom's features along each direction; force rows first, then six strains.
        dft: derivative of the DFT energy along each: -F . v, or V sigma for a strain; eV/Angstrom, or eV.
        own: the same of the backbone's energy; zeros when it has none.
        n_strains: 6 with a stress label, else 0.
        tangent: T of the energy, then its derivatives (see TangentSpace); None where no tangent kernel is wanted.
    """

    features: Float[Tensor, "rows atoms features"]
    dft: Float[Tensor, "rows"]
    own: Float[Tensor, "rows"]
    n_strains: int
    tangent: Float[Tensor, "all_rows elements width"] | None = None

    @property
    def n_forces(self) -> int:
        """Rows that come from forces."""
        return len(self.dft) - self.n_strains

    def labels(self) -> "Derivatives":
        """The same rows for no atoms: what is small."""
        return replace(self, features=self.features.new_empty(len(self.dft), 0, 0), tangent=None)


def force_directions(
    labels: Float[Tensor, "columns components"], probes: int | str, generator: torch.Generator
) -> Float[Tensor, "rows components"]:
    """Directions whose outer products add up to the identity in expectation.

    Args:
        labels: force vectors whose span is taken exactly.
        probes: number of random directions; "all", or more than there are left, for a complete basis.
        generator: of the random directions.
    """
    components = labels.shape[1]
    U, s, _ = torch.linalg.svd(labels.T, full_matrices=False)
    span = U[:, s > 1e-9 * s.max().clamp_min(1e-300)] if len(s) else U
    rest = components - span.shape[1]
    count = rest if probes == ALL else min(int(probes), rest)
    random = torch.randn(components, count, dtype=torch.float64, generator=generator)
    complement = torch.linalg.qr(torch.cat([span, random], dim=1))[0][:, span.shape[1] :]
    return torch.cat([span, complement * (rest / max(1, count)) ** 0.5], dim=1).T


@dataclass(eq=False)
class DerivativeStore:
    """The derivatives of many structures, in memory while they fit and on disk otherwise.

    Attributes:
        layers: tapped layers of the stored features.
        widths: channels of each.
        keys: one a structure, None without forces and stress.
        cache: where entries are.
        kept: entries held in memory.
        tangent_rows: of each structure that has been seen, how many rows of T it brings.
    """

    layers: tuple[str, ...]
    widths: tuple[int, ...]
    keys: list[str | None]
    cache: FeatureCache
    kept: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    bytes_kept: int = 0
    tangent_rows: dict[int, int] = field(default_factory=dict)

    def __call__(self, t: int, layers: Sequence[str] | None = None) -> Derivatives | None:
        """Derivatives of structure t with some of the layers, or None when it has no derivative labels."""
        key = self.keys[t]
        if key is None:
            return None
        entry = self.kept.get(t)
        entry = self.cache.read(key) if entry is None else entry
        if entry is None:
            raise OSError(f"{self.cache.folder}: cached derivatives have vanished during the fit; fit again")
        features = entry["derivatives"]
        if layers is not None and tuple(layers) != self.layers:
            features = torch.cat([features[..., self._columns(name)] for name in layers], dim=-1)
        return Derivatives(features, entry["dft"], entry["own"], int(entry["n_strains"]), entry.get("tangent"))

    def keep(self, t: int, entry: dict[str, Tensor]) -> bool:
        """Hold an entry in memory if there is room."""
        self.tangent_rows[t] = len(entry["tangent"]) if "tangent" in entry else 0
        size = sum(tensor.nbytes for tensor in entry.values())
        if self.bytes_kept + size > MEMORY_BYTES:
            return False
        self.bytes_kept += size
        self.kept[t] = entry
        return True

    def _columns(self, name: str) -> slice:
        index = self.layers.index(name)
        start = sum(self.widths[:index])
        return slice(start, start + self.widths[index])


@dataclass(frozen=True, eq=False)
class Probe:
    """Derivatives of a batch of structures with the same kinds of labels: what the cache keeps of each."""

    backbone: Backbone
    layers: tuple[str, ...]
    probes: int | str
    seed: int
    tangent: TangentSpace | None

    def __call__(self, batch: Sequence[Structure]) -> list[Entry]:
        """An entry a structure."""
        return _compute(batch, self.backbone, self.layers, self.probes, self.seed, self.tangent)


def probe(
    structures: Sequence[Structure],
    backbone: Backbone,
    layers: Sequence[str],
    probes: int | str,
    seed: int = 0,
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
    batch_atoms: int = PROBE_BATCH_ATOMS,
    tangent: TangentSpace | None = None,
    shards: Shards = HERE,
) -> DerivativeStore:
    """Derivatives of all structures that have forces or a stress, along their probes.

    With a tangent space, structures without either have an entry too: that of the energy alone.

    Args:
        structures: labelled; each contributes what it has.
        backbone: frozen network.
        layers: tapped layers, concatenated in this order.
        probes: random directions a structure beside the span of the forces, or "all".
        seed: of the directions; each structure has its own generator, so its directions do not depend on the others.
        cache: read first; what is computed is written to it.
        progress: called with structures done, first those that the cache had, and structures in all.
        batch_atoms: a batch holds structures up to so many atoms together (at least one structure).
        tangent: where gradients in the weights are described; None leaves them out.
        shards: who computes.
    """
    folder = None
    if cache is None:
        folder = tempfile.TemporaryDirectory(prefix="mekrr-")
        cache = FeatureCache(Path(folder.name))
    keys = [cache_key(cache, s, backbone, layers, probes, seed, tangent) for s in structures]
    widths = tuple(backbone.layer_widths[name] for name in layers)
    store = DerivativeStore(tuple(layers), widths, keys, cache)
    if folder is not None:
        weakref.finalize(store, folder.cleanup)
    wanted = [t for t, key in enumerate(keys) if key is not None]
    missing = []
    for t in wanted:
        s = structures[t]
        what = _what(s, probes, seed, tangent)
        entry = None if folder else read_entry(cache, s.atoms, backbone, layers, what, "derivatives")
        missing += [t] if entry is None else []
        if entry is not None:
            store.keep(t, entry)
    done = len(wanted) - len(missing)
    if progress is not None:  # what the cache had, first
        progress(done, len(wanted))
    groups = list(_groups(structures, missing, probes, batch_atoms))
    keyed = [[(keys[t] or "", structures[t]) for t in group] for group in groups]
    task = Probe(backbone, tuple(layers), probes, seed, tangent)
    for group, (entries, is_kept) in zip(groups, computed(shards, task, keyed, cache, "derivatives"), strict=True):
        for t, entry in zip(group, entries, strict=True):
            if (not store.keep(t, entry) or folder is None) and not is_kept:
                cache.write(keys[t] or "", entry)
        done += len(group)
        if progress is not None:
            progress(done, len(wanted))
    return store


def cache_key(
    cache: FeatureCache,
    structure: Structure,
    backbone: Backbone,
    layers: Sequence[str],
    probes: int | str,
    seed: int,
    tangent: TangentSpace | None = None,
) -> str | None:
    """Key of a structure's derivatives, None without labels for them.

    The directions depend on the labels, the number of probes and the seed.
    """
    if structure.forces is None and structure.stress is None and tangent is None:
        return None
    what = _what(structure, probes, seed, tangent)
    return cache.key(structure.atoms, backbone.identity, layers, backbone.dtype, what)


def _what(structure: Structure, probes: int | str, seed: int, tangent: TangentSpace | None = None) -> str:
    digest = hashlib.sha256()
    for label in (structure.forces, structure.stress):
        digest.update(b"-" if label is None else np.ascontiguousarray(label, dtype="<f8").tobytes())
    described = "" if tangent is None else f" tangent {tangent.digest}"
    return f"probes {probes} {seed} {digest.hexdigest()}{described}"


def _groups(
    structures: Sequence[Structure], missing: Sequence[int], probes: int | str, batch_atoms: int
) -> Iterator[list[int]]:
    """Batches of structures with the same kinds of labels; with all directions, one structure at a time."""
    kinds: dict[tuple[bool, bool, int], list[int]] = {}
    for t in missing:
        s = structures[t]
        few = 3 * len(s) if probes == ALL or 3 * len(s) <= int(probes) + 2 else 0
        kinds.setdefault((s.forces is not None, s.stress is not None, few), []).append(t)
    for members in kinds.values():
        for batch in batches([len(structures[t]) for t in members], batch_atoms):
            yield [members[i] for i in batch]


def _compute(
    structures: Sequence[Structure],
    backbone: Backbone,
    layers: Sequence[str],
    probes: int | str,
    seed: int,
    tangent: TangentSpace | None,
) -> list[dict[str, Tensor]]:
    graph = build_batch([s.atoms for s in structures], backbone.cutoff, backbone.max_neighbours).to(backbone.device)
    counts = graph.n_atoms.tolist()
    seen = look(graph, backbone, layers, gradients=backbone.has_energy)
    own = _own_labels(seen) if backbone.has_energy else [(None, None)] * len(counts)
    moves = [_moves(s, forces, probes, seed) for s, (forces, _) in zip(structures, own, strict=True)]
    rows = max(len(move) for move in moves)
    n_strains = 6 if structures[0].stress is not None else 0
    directions = torch.zeros(rows + n_strains, sum(counts), 3, dtype=torch.float64)
    start = 0
    for move, n in zip(moves, counts, strict=True):
        directions[: len(move), start : start + n] = move.reshape(-1, n, 3)
        start += n
    strains = _strains(rows, n_strains, len(counts)).to(graph.positions)
    found, T = _along(seen, directions.to(graph.positions), strains, tangent)
    features = found.cpu().split(counts, dim=1)
    entries = []
    for i, (s, move, derivative, (forces, stress)) in enumerate(zip(structures, moves, features, own, strict=True)):
        kept = [*range(len(move)), *range(rows, rows + n_strains)]
        volume = s.atoms.get_volume() if n_strains else 0.0
        described = {} if T is None else {"tangent": T[[0, *(1 + k for k in kept)], i].clone()}
        entries.append(
            described
            | {
                "derivatives": derivative[kept].clone(),
                "dft": _energy_derivatives(move, _tensor(s.forces), _tensor(s.stress), volume, n_strains),
                "own": _energy_derivatives(move, forces, stress, volume, n_strains),
                "n_strains": torch.tensor(n_strains),
            }
        )
    return entries


def _along(
    seen: Pass, directions: Tensor, strains: Tensor, tangent: TangentSpace | None
) -> tuple[Float[Tensor, "probes atoms features"], Float[Tensor, "all_rows structures elements width"] | None]:
    """Derivatives of the features, and T with its derivatives in single precision."""
    if tangent is None:
        return seen.along(directions, strains, CHUNK), None
    if not len(directions):
        T = tangent.of(seen.backbone, seen.graph)[None]
        return seen.output.features.detach().new_zeros(0, *seen.output.features.shape), T[:, :, :-1].float().cpu()
    parts = list(tangent.along(seen.backbone, seen.graph, directions, strains, seen.layers, CHUNK))
    T = parts[0][0]
    derived, features = [moved for _, moved, _ in parts], [part for _, _, part in parts]
    # the last element stands for those that are not in the training set
    return torch.cat(features), torch.cat([T[None], *derived])[:, :, :-1].float().cpu()


def _own_labels(seen: Pass) -> list[tuple[Tensor | None, Tensor | None]]:
    """The backbone's forces and stress of each structure."""
    own: PulledBack = seen.pull_back(seen.edge_gradient(factor=1.0))
    stress = stress_of(seen.graph, own.strain_gradient)
    return list(zip(own.forces.cpu().split(seen.graph.n_atoms.tolist()), stress.cpu(), strict=True))


def _tensor(label: np.ndarray | None) -> Tensor | None:
    return None if label is None else torch.as_tensor(label, dtype=torch.float64)


def _moves(
    structure: Structure, own: Float[Tensor, "atoms 3"] | None, probes: int | str, seed: int
) -> Float[Tensor, "rows components"]:
    """The force directions of one structure, none without forces."""
    components = 3 * len(structure)
    if structure.forces is None:
        return torch.zeros(0, components, dtype=torch.float64)
    labels = [torch.as_tensor(structure.forces, dtype=torch.float64).flatten()]
    labels += [] if own is None else [own.double().flatten()]
    number = int(structure_hash(structure.atoms)[:12], 16) ^ seed
    return force_directions(torch.stack(labels), probes, torch.Generator().manual_seed(number))


def _strains(rows: int, n_strains: int, n_structures: int) -> Float[Tensor, "probes structures 3 3"]:
    """No strain along the force rows, then six symmetric unit strains; shear takes eps_xy = eps_yx = 1/2."""
    strains = torch.zeros(rows + n_strains, n_structures, 3, 3, dtype=torch.float64)
    for k, (a, b) in enumerate(STRAINS[:n_strains]):
        strains[rows + k, :, a, b] += 0.5
        strains[rows + k, :, b, a] += 0.5
    return strains


def _energy_derivatives(
    moves: Float[Tensor, "rows components"],
    forces: Float[Tensor, "atoms 3"] | None,
    stress: Float[Tensor, "3 3"] | None,
    volume: float,
    n_strains: int,
) -> Float[Tensor, "all_rows"]:
    """-F . v along each move and V sigma for each strain; zero for what is None."""
    along = moves.new_zeros(len(moves)) if forces is None else -moves @ forces.double().flatten()
    if n_strains == 0:
        return along
    strained = moves.new_zeros(6) if stress is None else volume * torch.stack([stress[a, b] for a, b in STRAINS])
    return torch.cat([along, strained])
