"""Matrices with a row for each atom of a data set: the one thing of a fit that grows with the number of atoms."""

import os
import tempfile
from pathlib import Path

import numpy as np
import torch

from mekrr.typing import Float, Tensor

MEMORY_BYTES = 1_000_000_000  # a larger matrix lies in a file
ROWS_AT_ONCE = 50_000


def new_matrix(
    rows: int, columns: int, dtype: torch.dtype, folder: Path | None = None
) -> Float[Tensor, "rows columns"]:
    """A matrix to be filled: in memory while it is small, otherwise the map of a file that is gone with it.

    What is not in use of a map need not be in memory: the system writes it to the file and reads it again.

    Args:
        rows: of the matrix.
        columns: of the matrix.
        dtype: of the numbers.
        folder: of the file; None for the system's temporary one.

    Raises:
        OSError: when the folder has no room for the file.
    """
    size = rows * columns * dtype.itemsize
    if size <= MEMORY_BYTES:
        return torch.empty(rows, columns, dtype=dtype)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        _reserve(file.fileno(), size, folder)
        mapped = np.memmap(file, dtype=np.uint8, mode="r+", shape=(size,))
    return torch.from_numpy(mapped).view(dtype).view(rows, columns)


def chosen_columns(
    matrix: Float[Tensor, "rows columns"], columns: Tensor, folder: Path | None = None
) -> Float[Tensor, "rows chosen"]:
    """Some columns of a matrix as one of their own, in memory or in a file as `new_matrix` has it."""
    if len(matrix) * len(columns) * matrix.dtype.itemsize <= MEMORY_BYTES:
        return matrix[:, columns]
    found = new_matrix(len(matrix), len(columns), matrix.dtype, folder)
    for start in range(0, len(matrix), ROWS_AT_ONCE):
        found[start : start + ROWS_AT_ONCE] = matrix[start : start + ROWS_AT_ONCE, columns]
    return found


def _reserve(descriptor: int, size: int, folder: Path | None) -> None:
    """Take the room at once: a map of a file that cannot grow ends the process when it is written to."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
        else:
            os.truncate(descriptor, size)
    except OSError as error:
        where = folder or tempfile.gettempdir()
        raise OSError(
            f"{where}: no room for {size / 1e9:.1f} GB of features; make room, or name another folder with --cache"
        ) from error
