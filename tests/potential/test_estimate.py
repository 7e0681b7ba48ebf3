"""What a dry run counts, and what it refuses."""

import pytest

from mekrr import KernelPotential
from mekrr.errors import DataError


def test_features_that_lie_in_a_file_are_disk_and_no_memory(alloys, checkpoint, monkeypatch):
    options = {"layers": ("interaction_1",), "prior": "composition", "forces": False}
    potential = KernelPotential(f"schnet:{checkpoint}", **options)
    in_memory = potential.estimate(alloys[:6])
    monkeypatch.setattr("mekrr.potential.estimate.MATRIX_BYTES", 0)
    in_file = potential.estimate(alloys[:6])
    one = 4 * in_memory.n_atoms * potential.backbone.layer_widths["interaction_1"]
    assert in_memory.n_atoms == sum(map(len, alloys[:6]))
    assert in_memory.memory_bytes - in_file.memory_bytes == 2 * one
    assert in_file.disk_bytes - in_memory.disk_bytes == one


def test_refining_on_too_few_structures_is_refused_before_anything_is_tried(alloys):
    pytest.importorskip("sevenn", reason="mekrr[sevennet] is not installed")
    potential = KernelPotential("sevennet-0", layers=("interaction_1",), refine=1)
    with pytest.raises(DataError, match="--refine holds some structures out and needs 20 at least; there are 3"):
        potential.estimate(alloys[:3])
