import itertools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mekrr.prior import PRIORS
from mekrr.shards import HERE, merge
from mekrr.solve import Factor, NormalEquations
from shards import EquationsOf, ResidualsOf

RIDGES = torch.tensor([1e-4, 1e-1], dtype=torch.float64)


def residuals_of(case):
    factor = Factor.of(NormalEquations.of(case.observations, case.weights))
    return ResidualsOf(case.observations, case.weights, factor, *case.priors(PRIORS[:2]), RIDGES)


def assert_same(found, expected, **tolerance):
    for name, value in vars(expected).items():
        torch.testing.assert_close(getattr(found, name), value, equal_nan=True, **tolerance)


@settings(max_examples=10, deadline=None)
@given(cuts=st.sets(st.integers(1, 7)))
def test_any_cut_gives_the_same_equations_and_residuals(in_environments, cuts):
    edges = [0, *sorted(cuts), 8]
    shards = [list(range(a, b)) for a, b in itertools.pairwise(edges)]
    equations, residuals = (
        EquationsOf(in_environments.observations, in_environments.weights),
        residuals_of(in_environments),
    )
    whole = list(range(8))
    assert_same(HERE.sum(equations, shards), equations(whole), rtol=1e-12, atol=1e-13)
    assert_same(HERE.sum(residuals, shards), residuals(whole), rtol=1e-10, atol=1e-12)


def test_a_process_pool_gives_the_same_bits(in_environments, in_structures):
    """Whoever computes a shard: the sums are made in their order."""
    shards = [[0, 1, 2], [3], [4, 5, 6, 7]]
    functions = [
        function
        for case in (in_environments, in_structures)
        for function in (EquationsOf(case.observations, case.weights), residuals_of(case))
    ]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for function in functions:
            found, expected = merge(pool.map(function, shards)), HERE.sum(function, shards)
            assert_same(found, expected, rtol=0, atol=0)
