"""Anchors: structures without labels at which the correction by features is asked to vanish.

A kernel on features extrapolates: what it learned of one region it adds, changed by chance, in another, where the prior
alone is better. Anchors are pseudo-observations there, with little weight and with zero as their target. They are asked
of the kernel on features only. The tangent kernel corrects the network as a whole, and errors that are the same
everywhere, such as one that is too soft, are left to it: anchored as well, it forgets them.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mekrr.data import Structure, read_structures
from mekrr.errors import DataError
from mekrr.potential.options import AUTO, NO_ANCHORS

WEIGHT = 0.3  # of an anchor, where a labelled structure counts 1
RATTLE = 0.1  # Angstrom, the standard deviation of each coordinate
FEWEST, SHARE, MOST = 20, 4, 80  # anchors: one for so many training structures, between bounds


def anchor_structures(anchors: str, structures: Sequence[Structure], seed: int) -> list[Structure]:
    """Where the correction is asked to vanish, with the labels that say so.

    Args:
        anchors: "auto" for training structures with every atom moved at random, "none", or a file of structures,
            in Angstrom.
        structures: of the training set.
        seed: of the moves.

    Raises:
        DataError: when the file cannot be read, or has elements that are not in training.
    """
    if anchors == NO_ANCHORS:
        return []
    if anchors == AUTO:
        found = _rattled(structures, seed)
    else:
        found = read_structures(Path(anchors), require_energy=False, strict=False)
        _check_elements(anchors, found, structures)
    return [
        replace(one, energy=0.0, forces=np.zeros((len(one), 3)), stress=None, weight=WEIGHT, index=i)
        for i, one in enumerate(found)
    ]


def _rattled(structures: Sequence[Structure], seed: int) -> list[Structure]:
    rng = np.random.default_rng(seed)
    count = min(MOST, max(FEWEST, len(structures) // SHARE))
    found = []
    for t in rng.integers(0, len(structures), count):
        atoms = structures[t].atoms.copy()
        atoms.positions += rng.normal(0.0, RATTLE, atoms.positions.shape)
        found.append(Structure(atoms, source="anchor"))
    return found


def _check_elements(source: str, anchors: Sequence[Structure], structures: Sequence[Structure]) -> None:
    known = {int(z) for s in structures for z in s.species}
    for one in anchors:
        strangers = sorted({int(z) for z in one.species} - known)
        if strangers:
            raise DataError(
                f"{source}: anchor {one.index} has elements with atomic numbers {strangers}, which no training "
                "structure has; drop it"
            )
