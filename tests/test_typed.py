"""Annotations are checked in what tests import: a wrong call in several rooms is refused."""

import pytest
import torch
from jaxtyping import TypeCheckError

import typed
from mekrr.cli.outputs import require_apart
from mekrr.data.reading.structure import Structure
from mekrr.dynamics.stability import refuse_leaps
from mekrr.learning.labels import stiffness
from mekrr.linalg import add_diagonal
from mekrr.pages.figures import log_axis
from mekrr.potential.rehearsal import to_hold_out


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: require_apart("a.xyz", "b.xyz"),
        lambda: refuse_leaps(None, 1.0, 1),
        lambda: stiffness(3),
        lambda: log_axis(1, 2.0, 3.0),
        lambda: to_hold_out(["no structure"], 0),
        lambda: Structure("no atoms", 1.0),
    ],
)
@pytest.mark.skipif(not typed.EVERYWHERE, reason="only with MEKRR_TYPED=all are all rooms checked")
def test_a_wrong_call_is_refused_everywhere(wrong):
    with pytest.raises(TypeCheckError):
        wrong()


def test_wrong_shapes_are_refused():
    with pytest.raises(TypeCheckError):
        add_diagonal(torch.zeros(2, 3), 1.0)
