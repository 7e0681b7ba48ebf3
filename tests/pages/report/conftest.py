"""A real potential, fitted to a few slabs with adsorbed atoms."""

import warnings
from dataclasses import dataclass

import pytest
from slabs import HOSTILE, slab

from mekrr.data import Structure
from mekrr.evaluation import Evaluation, evaluate
from mekrr.potential import Fitted, KernelPotential


@dataclass(frozen=True)
class Example:
    """A fit with its evaluation, and the potential itself for further evaluations."""

    fitted: Fitted
    evaluation: Evaluation
    potential: KernelPotential
    test: list[Structure]


@pytest.fixture(scope="session")
def example() -> Example:
    """Fitted to 12 slabs and evaluated on 7 others, with a hostile value of an info key."""
    pytest.importorskip("sevenn", reason="mekrr[sevennet] is not installed")
    training = [slab(i, "data/train.extxyz") for i in range(12)]
    test = [slab(i, "data/test.extxyz", {"kind": HOSTILE if i % 3 else "plain"}) for i in range(20, 27)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        potential = KernelPotential("sevennet-0", layers=("interaction_2",), tangent_share=0.0).fit(training)
        return Example(potential.fitted_, evaluate(potential, test, by="kind"), potential, test)
