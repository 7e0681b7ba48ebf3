"""What is preferred where leave-one-out hardly tells."""

import pytest
import torch

from mekrr.solve import LinearPrior
from mekrr.tune import Grid, PriorCandidate, SearchProblem, Trial, search
from mekrr.tune.criteria import minus_log_error
from mekrr.tune.safety import prefer_safe, prefer_short, prior_warnings
from support import random_environments


def trial(prior, score, length_scale=1.0):
    return Trial(("a",), prior, length_scale, 0.0, (1.0,), (score,), (1.0,), (1.0,))


def test_the_shortest_length_scale_that_is_hardly_worse_is_taken():
    trials = [trial("backbone", score, scale) for scale, score in ((8.0, 1.0), (4.0, 0.99), (2.0, 0.98), (1.0, 0.9))]
    assert prefer_short(trials, trials[0]).length_scale == 2.0
    assert prefer_short([*trials, trial("none", 1.0, 1.0)], trials[0]).length_scale == 2.0


@pytest.mark.parametrize(("safe_score", "chosen"), [(0.9, "backbone"), (0.8, "none"), (1.1, "backbone")])
def test_a_safe_prior_is_preferred_unless_it_is_clearly_worse(safe_score, chosen):
    trials = [trial("none", 1.0), trial("backbone", safe_score), trial("backbone", 0.2)]
    assert prefer_safe(trials, {"backbone"}).prior == chosen
    assert prefer_safe(trials, set()).prior == max(trials, key=lambda t: t.score).prior


def test_what_another_prior_costs_is_said():
    trials = [trial("none", 1.0), trial("backbone", 0.8)]
    (words,) = prior_warnings(trials, trials[0], {"backbone"})
    assert "the prior 'none' was chosen" in words
    assert "With the prior 'backbone', errors near the data are 22% larger" in words
    assert prior_warnings(trials, trials[1], {"backbone"}) == prior_warnings(trials, trials[0], set()) == []


@pytest.mark.parametrize("criterion", ["loo+evidence", "evidence", "loo", "loo-gaussian", "loo-mae", "loo-rmse"])
def test_a_difference_of_scores_is_the_log_of_a_ratio_of_errors(criterion):
    """All energies doubled: every error is twice as large, and the score falls by log 2 as it is measured."""
    x = random_environments([3, 4, 5] * 8, 4, seed=3)
    n = x.n_atoms.double()
    columns = torch.randn(2, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    y = columns[0] + n * columns[1]

    def score(targets):
        linear = LinearPrior.fit(n[:, None], targets, 1 / n)
        grid = Grid(criterion=criterion, length_scales=(2.0,), species_weights=(0.5,), ridges=(1e-3,))
        candidates = [PriorCandidate("none", targets, linear)]
        found = search(SearchProblem([("a",)], lambda *_: x, lambda _: candidates, n, n, grid), seed=0)
        return minus_log_error(criterion, found.best.score, len(n))

    assert score(y) - score(2 * y) == pytest.approx(float(torch.tensor(2.0).log()))


def test_the_exact_search_takes_the_safer_of_near_equals():
    """Two priors, one with targets a little larger: which of them is called safe decides."""
    x = random_environments([3, 4, 5] * 8, 4, seed=3)
    n = x.n_atoms.double()
    y = torch.randn(24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def candidate(name, targets, safe=False):
        return PriorCandidate(name, targets, LinearPrior.fit(n[:, None], targets, 1 / n), safe)

    def found(factor, safe):
        candidates = [candidate("none", y), candidate("backbone", factor * y, safe)]
        problem = SearchProblem([("a",), ("b",)], lambda *_: x, lambda _: candidates, n, n, Grid())
        return search(problem, seed=0)

    assert found(1.1, safe=False).best.prior == "none"
    assert (found(1.1, safe=True).best.prior, found(1.1, safe=True).warnings) == ("backbone", ())
    clear = found(1.3, safe=True)
    assert clear.best.prior == "none"
    assert any("errors near the data are 30% larger" in words for words in clear.warnings)
