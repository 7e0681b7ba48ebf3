"""A skinned graph equals a fresh one at every step, with fewer searches."""

import numpy as np
import pytest
import torch
from ase.build import bulk

from mekrr.graph import SkinnedGraph, build_batch


def walk(atoms, steps, stride, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        atoms.positions += stride * rng.normal(size=atoms.positions.shape)
        yield atoms


def assert_same(batch, fresh):
    for name, expected in vars(fresh).items():
        found = getattr(batch, name)
        assert found is None if expected is None else torch.equal(found, expected), name


@pytest.mark.parametrize("cap", [None, 9])
def test_equals_fresh_list_along_a_walk_with_few_searches(cap):
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    skinned = SkinnedGraph(4.0, skin=0.6, max_neighbours=cap)
    for moved in walk(atoms, steps=40, stride=0.05):
        assert_same(skinned.batch(moved), build_batch([moved], 4.0, cap))
    assert 1 < skinned.n_searches < 20


@pytest.mark.parametrize("change", ["cell", "pbc", "numbers", "atoms", "far"])
def test_searches_again_after_a_change(change):
    atoms = bulk("Cu", cubic=True)
    skinned = SkinnedGraph(4.0, skin=0.6)
    skinned.batch(atoms)
    if change == "cell":
        atoms.set_cell(atoms.cell * 1.01, scale_atoms=True)
    elif change == "pbc":
        atoms.pbc = (True, True, False)
    elif change == "numbers":
        atoms.numbers[0] = 47
    elif change == "atoms":
        atoms = atoms[1:]
    else:
        atoms.positions[0] += 0.31
    assert_same(skinned.batch(atoms), build_batch([atoms], 4.0))
    assert skinned.n_searches == 2


def test_negative_skin_is_refused():
    with pytest.raises(ValueError, match="skin"):
        SkinnedGraph(4.0, skin=-0.1)
