"""A file of features, computed where the network is and used where it is not: a cache that travels.

Packages of networks pin each other out of one environment. What a fit needs of a network is what the cache holds, so
the file holds entries of the cache under their keys, and a record of the network; keys name structures, labels and
weights by their hashes, so that nothing can be taken for something else.
"""

import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from ase import Atoms
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mekrr.backbones import Backbone, BackboneCard, BackboneOutput, LinearMap
from mekrr.data import Structure
from mekrr.data.reading.electrons import charge_and_spin
from mekrr.errors import DataError, FeatureFileError
from mekrr.features.cache import FORMAT, FeatureCache, geometry_hash, structure_hash
from mekrr.features.extraction import Progress
from mekrr.features.observe import BATCH_ATOMS, observe
from mekrr.features.probes import PROBE_BATCH_ATOMS, DerivativeStore, cache_key, probe
from mekrr.features.space import space_key, tangent_space
from mekrr.features.tangent import TangentSpace
from mekrr.files import atomic_path
from mekrr.graph import GraphBatch
from mekrr.typing import Float, Tensor

HEADER = "mekrr-features"
SEPARATOR = " / "  # between the key of an entry and the name of a tensor


@dataclass(frozen=True)
class RecordedStructure:
    """Where the features of a structure are.

    Attributes:
        hash: of what a backbone sees.
        geometry: the same without periodicity, which a graph does not hold.
        key: of its features.
        along: of its derivatives; empty without any.
        tangent: of the rows of the tangent kernel that go with them; empty without any.
    """

    hash: str
    geometry: str
    key: str
    along: str = ""
    tangent: str = ""


@dataclass(frozen=True)
class NetworkRecord:
    """What a feature file says of the network and of how it was asked.

    Attributes:
        format: of the entries.
        spec: what `load_backbone` takes.
        card: licence, citation and origin.
        weights_hash: of the network.
        cutoff: Angstrom.
        max_neighbours: None for all.
        layers: all of them.
        widths: of the layers.
        known_species: atomic numbers.
        has_energy: whether it has energies of its own.
        dtype: of its features.
        maps: linear maps.
        probes: random directions a structure; None where there are no derivatives.
        seed: of the directions.
        structures: in order.
        reads: what it reads of a structure beside the geometry.
    """

    format: str
    spec: str
    card: BackboneCard
    weights_hash: str
    cutoff: float
    max_neighbours: int | None
    layers: tuple[str, ...]
    widths: tuple[int, ...]
    known_species: tuple[int, ...]
    has_energy: bool
    dtype: str
    maps: tuple[LinearMap, ...]
    probes: int | str | None
    seed: int
    structures: tuple[RecordedStructure, ...]
    reads: tuple[str, ...] = ()


def write_features(
    path: str | Path,
    structures: Sequence[Structure],
    backbone: Backbone,
    probes: int | str | None = 8,
    seed: int = 0,
    tangent: bool = True,
    cache: FeatureCache | None = None,
    batch_atoms: int | None = None,
    progress: Any = None,
) -> NetworkRecord:
    """Compute features of all layers, energies and derivatives of some structures, and write them as one file.

    Args:
        path: of the file; what was there stays until it is whole.
        structures: with labels where derivatives are wanted: their directions depend on the forces.
        backbone: the network.
        probes: see `probe`; None for no derivatives.
        seed: of the directions.
        tangent: whether rows of the tangent kernel are wanted as well, where the network has linear maps.
        cache: of derivatives; read first.
        batch_atoms: atoms in one batch of the network.
        progress: called with a stage's name, structures done and structures in all.

    Raises:
        OSError: when the file cannot be written.
    """
    first: dict[str, Structure] = {}
    for structure in structures:
        first.setdefault(structure_hash(structure.atoms), structure)
    distinct = list(first.values())
    entries, recorded = _features(distinct, backbone, batch_atoms, _stage(progress, "features"))
    if probes is not None:
        labelled = any(s.forces is not None or s.stress is not None for s in distinct)
        probes = probes if labelled else None
    if probes is not None:
        space = _space(distinct, backbone, cache) if tangent else None
        if space is not None:
            entries[space_key(distinct, backbone)] = space.as_tensors()
        size = min(PROBE_BATCH_ATOMS, batch_atoms or PROBE_BATCH_ATOMS)
        stage = _stage(progress, "derivatives")
        store = probe(distinct, backbone, backbone.layers, probes, seed, cache, stage, size, space)
        plain = [cache_key(store.cache, s, backbone, backbone.layers, probes, seed) for s in distinct]
        entries |= _derivatives(store, plain)
        recorded = [
            replace(one, along=key or "", tangent=found if found and found != key else "")
            for one, key, found in zip(recorded, plain, store.keys, strict=True)
        ]
    made = _record(backbone, probes, seed, tuple(recorded))
    tensors = {f"{key}{SEPARATOR}{name}": t.contiguous() for key, e in entries.items() for name, t in e.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={HEADER: msgspec.json.encode(made).decode()})
    return made


class FeatureFile(FeatureCache):
    """The entries of a feature file, read when asked for; what is derived from them goes to a temporary folder.

    Args:
        path: written by `write_features`.

    Attributes:
        path: of the file.
        made: the network, and how it was asked.

    Raises:
        FileNotFoundError: when there is no such file.
        FeatureFileError: when it is no feature file, truncated, or of another format.
    """

    def __init__(self, path: str | Path) -> None:
        folder = tempfile.TemporaryDirectory(prefix="mekrr-")
        weakref.finalize(self, folder.cleanup)
        super().__init__(folder.name)
        self.path = Path(path)
        self.made, names = _opened(self.path)
        self._names: dict[str, list[str]] = {}
        for name in names:
            key, _, tensor = name.partition(SEPARATOR)
            self._names.setdefault(key, []).append(tensor)
        self._hashes = {one.hash for one in self.made.structures}
        self._beside = {one.tangent: one.along for one in self.made.structures if one.tangent and one.along}

    def read(self, key: str) -> dict[str, Tensor] | None:
        """See FeatureCache.read."""
        if key not in self._names:
            return super().read(key)
        keys = [key, *([self._beside[key]] if key in self._beside else [])]
        with safe_open(self.path, framework="pt") as file:
            return {name: file.get_tensor(f"{k}{SEPARATOR}{name}") for k in keys for name in self._names[k]}

    def holds(self, key: str) -> bool:
        """Whether the file has an entry under this key."""
        return key in self._names

    def require(self, structures: Sequence[Structure | Atoms]) -> None:
        """Refuse structures without features here.

        Raises:
            DataError: naming the first.
        """
        atoms = [s.atoms if isinstance(s, Structure) else s for s in structures]
        missing = [t for t, a in enumerate(atoms) if structure_hash(a) not in self._hashes]
        if missing:
            first = structures[missing[0]]
            where = first.where if isinstance(first, Structure) else f"structure {missing[0]}"
            raise DataError(
                f"{self.path} holds no features of {len(missing)} of {len(atoms)} structures, first {where}; features "
                f"belong to exact positions. Make a file of these: mekrr features --backbone {self.made.spec}"
            )

    def has_derivatives(self, structures: Sequence[Structure], forces_asked_for: bool) -> bool:
        """Whether a fit to these labels can learn from forces and stress.

        Args:
            structures: of the fit.
            forces_asked_for: whether the user insists.

        Raises:
            DataError: when derivatives are there, but for other labels, or none are and they are asked for.
        """
        labelled = [s for s in structures if s.forces is not None or s.stress is not None]
        if not labelled or self.made.probes is None:
            if labelled and forces_asked_for:
                raise DataError(
                    f"{self.path} holds no derivatives, so there is no fit to forces; make it from labelled "
                    "structures, and without --no-forces"
                )
            return False
        network = RecordedBackbone(self)
        for s in labelled:
            key = cache_key(self, s, network, network.layers, self.made.probes, self.made.seed)
            if not (key and self.holds(key)):
                raise DataError(
                    f"{self.path} holds no derivatives of {s.where} along its forces: the labels were others when the "
                    "file was made. Make it again from the data you fit to"
                )
        return True


class RecordedBackbone(Backbone):
    """A network that is not here: what was recorded of it, by structure.

    Args:
        file: where its features are.
        training: structures of a fit; rows of the tangent kernel belong to exactly one training set.
    """

    forward_mode = False
    without_maps = "is not here, and the feature file has no rows of its tangent kernel for exactly this training set"

    def __init__(self, file: FeatureFile, training: Sequence[Structure] = ()) -> None:
        made = file.made
        self.card, self.weights_hash = made.card, made.weights_hash
        self.cutoff, self.max_neighbours = made.cutoff, made.max_neighbours
        self.layers, self.layer_widths = made.layers, dict(zip(made.layers, made.widths, strict=True))
        self.known_species, self.has_energy = frozenset(made.known_species), made.has_energy
        self.reads, self.dtype = made.reads, getattr(torch, made.dtype)
        self._spec = made.spec
        self._file = file
        self._key_of = {one.geometry: one.key for one in made.structures}
        if made.maps and training and file.holds(space_key(training, self)):
            self.linear_maps = made.maps

    @property
    def spec(self) -> str:
        """What `load_backbone` takes where the network is."""
        return self._spec

    def forward(
        self,
        graph: GraphBatch,
        edge_vectors: Float[Tensor, "edges 3"],
        layers: Sequence[str],
        energies: bool = True,
    ) -> BackboneOutput:
        """See Backbone.forward; without derivatives.

        Raises:
            FeatureFileError: where gradients are asked for, or a structure is not in the file.
        """
        graph, edge_vectors = self.prepare(graph, edge_vectors, layers)
        if edge_vectors.requires_grad:
            raise FeatureFileError(
                f"{self._file.path} holds what {self.name} makes of some structures, not the network: it has no forces"
            )
        entries = [self._entry(*one) for one in _split(graph)]
        columns = [self._columns(layer) for layer in layers]
        features = torch.cat([torch.cat([entry["features"][:, c] for c in columns], dim=1) for entry in entries])
        own = torch.cat([entry["atomic_energies"] for entry in entries]) if self.has_energy and energies else None
        return BackboneOutput(features, own)

    def _entry(self, species: Tensor, positions: Tensor, cell: Tensor, charge: float, spin: float) -> dict[str, Tensor]:
        key = self._key_of.get(geometry_hash(species.numpy(), positions.numpy(), cell.numpy(), charge, spin))
        entry = None if key is None else self._file.read(key)
        if entry is None:
            raise FeatureFileError(
                f"{self._file.path} holds no features of a structure of {len(species)} atoms; mekrr features makes them"
            )
        return entry

    def _columns(self, layer: str) -> slice:
        start = sum(self.layer_widths[name] for name in self.layers[: self.layers.index(layer)])
        return slice(start, start + self.layer_widths[layer])


def _stage(progress: Any, name: str) -> Progress | None:
    return None if progress is None else lambda done, total: progress(name, done, total)


def _features(
    structures: Sequence[Structure], backbone: Backbone, batch_atoms: int | None, progress: Progress | None
) -> tuple[dict[str, dict[str, Tensor]], list[RecordedStructure]]:
    """Entries of the features of all layers, as the cache has them, with the energies of atoms; where each is."""
    entries, recorded, done = {}, [], 0
    atoms = [s.atoms for s in structures]
    for batch, seen in observe(atoms, backbone, backbone.layers, batch_atoms=batch_atoms or BATCH_ATOMS):
        counts = seen.graph.n_atoms.tolist()
        own = seen.atomic_energies
        parts = [None] * len(batch) if own is None else own.cpu().split(counts)
        for t, features, energies in zip(batch, seen.environments.features.cpu().split(counts), parts, strict=True):
            a = atoms[t]
            key = FeatureCache.key(a, backbone.identity, backbone.layers, backbone.dtype, "features")
            entries[key] = {"features": features.clone()}
            if energies is not None:
                entries[key] |= {"energy": energies.sum(), "atomic_energies": energies.clone()}
            geometry = geometry_hash(a.numbers, a.positions, a.cell.array, *charge_and_spin(a))
            recorded.append(RecordedStructure(structure_hash(a), geometry, key))
        done += len(batch)
        if progress is not None:
            progress(done, len(atoms))
    _require_one_periodicity(structures, recorded)
    return entries, recorded


def _require_one_periodicity(structures: Sequence[Structure], recorded: Sequence[RecordedStructure]) -> None:
    seen: dict[str, int] = {}
    for t, one in enumerate(recorded):
        other = seen.setdefault(one.geometry, t)
        if other != t:
            raise DataError(
                f"{structures[other].where} and {structures[t].where} differ in their periodicity alone; put them in "
                "two feature files"
            )


def _space(structures: Sequence[Structure], backbone: Backbone, cache: FeatureCache | None) -> TangentSpace | None:
    possible = backbone.has_energy and backbone.linear_maps
    return tangent_space(structures, backbone, cache) if possible else None


def _derivatives(store: DerivativeStore, plain: Sequence[str | None]) -> dict[str, dict[str, Tensor]]:
    """Entries of derivatives under their plain keys, and beside them the rows of the tangent kernel alone."""
    entries: dict[str, dict[str, Tensor]] = {}
    for t, (key, found) in enumerate(zip(plain, store.keys, strict=True)):
        d = store(t)
        if d is None or found is None:
            continue
        whole = {"derivatives": d.features, "dft": d.dft, "own": d.own, "n_strains": torch.tensor(d.n_strains)}
        entries[key or found] = whole
        if d.tangent is not None:
            entries[found] = entries.get(found, {}) | {"tangent": d.tangent}
    return entries


def _record(
    backbone: Backbone, probes: int | str | None, seed: int, recorded: tuple[RecordedStructure, ...]
) -> NetworkRecord:
    return NetworkRecord(
        FORMAT,
        backbone.spec,
        backbone.card,
        backbone.weights_hash,
        backbone.cutoff,
        backbone.max_neighbours,
        backbone.layers,
        tuple(backbone.layer_widths[layer] for layer in backbone.layers),
        tuple(sorted(backbone.known_species)),
        backbone.has_energy,
        str(backbone.dtype).removeprefix("torch."),
        backbone.linear_maps,
        probes,
        seed,
        recorded,
        backbone.reads,
    )


def _opened(path: Path) -> tuple[NetworkRecord, list[str]]:
    try:
        with safe_open(path, framework="pt") as file:
            header, names = (file.metadata() or {}).get(HEADER), list(file.keys())
    except SafetensorError as error:
        raise FeatureFileError(f"{path} is truncated, or no file of mekrr features ({error}); make it again") from error
    if header is None:
        raise FeatureFileError(f"{path} is no feature file; mekrr features DATA -o FILE makes one")
    try:
        made = msgspec.json.decode(header, type=NetworkRecord)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise FeatureFileError(f"{path} was written by another version of mekrr ({error}); make it again") from error
    if made.format != FORMAT:
        raise FeatureFileError(f"{path} has entries of format {made.format}, here it is {FORMAT}; make it again")
    return made, names


def _split(graph: GraphBatch) -> list[tuple[Tensor, Tensor, Tensor, float, float]]:
    """Species, positions, cell, charge and spin of each structure."""
    counts = graph.n_atoms.tolist()
    assert graph.charge is not None
    assert graph.spin is not None
    atoms = graph.species.split(counts), graph.positions.split(counts)
    return list(zip(*atoms, graph.cells, graph.charge.tolist(), graph.spin.tolist(), strict=True))
