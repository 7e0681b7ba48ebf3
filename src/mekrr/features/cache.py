"""A folder of computed features, safe under several processes and against damaged files."""

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import platformdirs
import torch
from ase import Atoms
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mekrr.data.reading.electrons import NEUTRAL, SINGLET, charge_and_spin
from mekrr.files import atomic_path
from mekrr.typing import Tensor

FORMAT = "1"  # raise it when the meaning of an entry changes


def default_cache_folder() -> Path:
    """Where features are cached when the user names no folder."""
    return Path(platformdirs.user_cache_dir("mekrr")) / "features"


def structure_hash(atoms: Atoms) -> str:
    """SHA-256 of what a backbone sees: numbers, positions, cell and periodicity, total charge and spin."""
    arrays = (atoms.numbers, "<i8"), (atoms.positions, "<f8"), (atoms.cell.array, "<f8"), (atoms.pbc, "?")
    return _digest(*arrays, *_electrons(*charge_and_spin(atoms)))


def geometry_hash(
    numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, charge: float = NEUTRAL, spin: float = SINGLET
) -> str:
    """SHA-256 of atomic numbers, positions and cell, total charge and spin, without periodicity."""
    return _digest((numbers, "<i8"), (positions, "<f8"), (cell, "<f8"), *_electrons(charge, spin))


def _electrons(charge: float, spin: float) -> list[tuple[np.ndarray, str]]:
    """Of neutral singlets nothing, so that their hashes are those of sources that do not say what they are."""
    return [] if (charge, spin) == (NEUTRAL, SINGLET) else [(np.array([charge, spin]), "<f8")]


def _digest(*arrays: tuple[np.ndarray, str]) -> str:
    digest = hashlib.sha256()
    for array, dtype in arrays:
        digest.update(np.ascontiguousarray(array, dtype=dtype).tobytes())
    return digest.hexdigest()


class FeatureCache:
    """Entries of tensors under keys, one safetensors file each, written atomically.

    Args:
        folder: made when the first entry is written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @staticmethod
    def key(atoms: Atoms, backbone_identity: str, layers: Sequence[str], dtype: torch.dtype, what: str) -> str:
        """Key of an entry: the structure, the backbone, the layers, the dtype and what was computed from them."""
        parts = (FORMAT, structure_hash(atoms), backbone_identity, ",".join(layers), str(dtype), what)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def read(self, key: str) -> dict[str, Tensor] | None:
        """The entry, or None when it is missing or damaged (with a warning, and it will be computed again)."""
        path = self._path(key)
        try:
            return load_file(path)
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError) as error:
            warnings.warn(f"{path}: damaged cache entry ({error}); it is computed again", stacklevel=2)
            return None

    def has(self, key: str) -> bool:
        """Whether there is an entry; it may still turn out to be damaged."""
        return self._path(key).exists()

    def write(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Store an entry; two processes may write the same one.

        Raises:
            OSError: when the folder cannot be written; the message says which.
        """
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}.safetensors"
