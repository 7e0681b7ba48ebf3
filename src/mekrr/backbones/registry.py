"""Backbones by name, found through entry points and imported when asked for."""

import difflib
import platform
import threading
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path

import torch

from mekrr.backbones.base import Backbone, BackboneCard, BackboneEntry
from mekrr.backbones.fetch import Progress, fetch_weights
from mekrr.backbones.weights import require_file
from mekrr.errors import BackboneUnavailableError

_GROUP = "mekrr.backbones"
# Packages of networks change settings of the process while they load, e3nn its use of TorchScript.
_loading = threading.Lock()


@dataclass(frozen=True)
class BackboneListing:
    """One line of `mekrr backbones`.

    Attributes:
        name: the name given to --backbone.
        installed: whether the package it needs is there.
        install: the command that brings it.
        weights: where the weights come from, in words.
        layers: empty when they depend on the checkpoint.
        card: licence, citation and origin.
    """

    name: str
    installed: bool
    install: str
    weights: str
    layers: tuple[str, ...]
    card: BackboneCard


def load_backbone(
    name_or_path: str,
    device: str | torch.device = "cpu",
    *,
    dtype: torch.dtype = torch.float32,
    trust_checkpoint: bool = False,
) -> Backbone:
    """The backbone of that name, loaded once per process, device and dtype.

    Args:
        name_or_path: a name that `available_backbones` lists, or `name:path` for a checkpoint of your own.
        device: "cpu", "cuda" or "auto" (the GPU where there is one).
        dtype: of weights and features.
        trust_checkpoint: allow unpickling a file that can run code when loaded.

    Raises:
        BackboneUnavailableError: if the name is unknown, its package is not installed or its weights are not there.
        ValueError: if the device does not exist.
    """
    name, _, path = name_or_path.partition(":")
    entry = find_entry(name)
    entry.require_installed()
    modified = 0
    if path:
        path = str(Path(path).expanduser().resolve())
        require_file(Path(path))
        modified = Path(path).stat().st_mtime_ns
    with _loading:
        return _load(entry, path, modified, resolve_device(device), dtype, trust_checkpoint)


def load_equal(spec: str, device: str, dtype: torch.dtype, trust_checkpoint: bool, identity: str) -> Backbone:
    """The backbone another process has, loaded here.

    Raises:
        BackboneUnavailableError: if it is not here, or its weights are others.
    """
    found = load_backbone(spec, device, dtype=dtype, trust_checkpoint=trust_checkpoint)
    if found.identity != identity:
        raise BackboneUnavailableError(
            f"{spec} on {platform.node()} has the weights {found.identity}, but {identity} is asked for; give all "
            "workers the same weights"
        )
    return found


def fetch_backbone(name: str, progress: Progress | None = None) -> Path:
    """Path of the published weights of `name`, downloaded into the user's cache if they are not there yet.

    Args:
        name: as for `load_backbone`.
        progress: called with the bytes received so far and the total, None where the server does not tell.

    Raises:
        BackboneUnavailableError: if the name is unknown, it has nothing to fetch, or the download fails.
    """
    return fetch_weights(find_entry(name).card, progress)


def available_backbones() -> list[BackboneListing]:
    """Every registered backbone, installed or not, sorted by name; no network package is imported."""
    return [_listing(name, find_entry(name)) for name in sorted(_entry_points())]


def find_entry(name: str) -> BackboneEntry:
    """The entry registered under `name`.

    Raises:
        BackboneUnavailableError: if there is none; the nearest names are suggested.
    """
    known = _entry_points()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(sorted(known))}"
        raise BackboneUnavailableError(
            f"no backbone is called {name!r}; {hint} (a checkpoint of your own is given as name:path, "
            "e.g. schnet:weights.pt)"
        )
    try:
        return known[name].load()
    except ImportError as error:
        raise BackboneUnavailableError(
            f"backbone {name} is registered as {known[name].value}, which cannot be imported ({error}); reinstall the "
            "package that brings it"
        ) from error


def resolve_device(device: str | torch.device) -> torch.device:
    """The torch device meant by "auto", "cpu", "cuda" or "cuda:1".

    Raises:
        ValueError: if torch does not know it or this machine does not have it.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device must be auto, cpu or cuda; received {device!r}") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} was asked for, but torch sees no GPU here; use cpu or auto")
    return found


def entry_module(name: str) -> str | None:
    """The module of the adapter registered under `name`, not imported; None where there is none."""
    point = _entry_points().get(name)
    return None if point is None else point.module


def _entry_points() -> dict:
    return {point.name: point for point in entry_points(group=_GROUP)}


def _listing(name: str, entry: BackboneEntry) -> BackboneListing:
    install = f'pip install "mekrr[{entry.card.extra}]"' if entry.card.extra else "pip install mekrr"
    return BackboneListing(name, entry.is_installed(), install, entry.weights, entry.layers, entry.card)


@lru_cache(maxsize=8)
def _load(
    entry: BackboneEntry, path: str, modified: int, device: torch.device, dtype: torch.dtype, trust_checkpoint: bool
) -> Backbone:
    backbone = entry.load(Path(path) if path else None, device, dtype, trust_checkpoint)
    backbone.trusted = trust_checkpoint
    return backbone
