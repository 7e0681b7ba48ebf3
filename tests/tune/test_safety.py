"""What is preferred where leave-one-out hardly tells."""

from dataclasses import replace

import pytest

from mekrr.tune import Trial
from mekrr.tune.safety import prefer_near, prefer_safe, prefer_short, prior_warnings


def trial(prior, score, length_scale=1.0, layers=("a",)):
    return Trial(layers, prior, length_scale, 0.0, (1.0,), (score,), (1.0,), (1.0,))


LADDER = [trial("backbone", score, scale) for scale, score in ((8.0, 1.0), (4.0, 0.99), (2.0, 0.98), (1.0, 0.9))]


def test_the_shortest_length_scale_that_is_hardly_worse_is_taken():
    others = [trial("none", 1.0, 1.0), trial("backbone", 1.0, 1.0, ("b",))]
    assert prefer_short([*LADDER, *others], LADDER[0], 0.03).length_scale == 2.0
    assert prefer_short(LADDER, LADDER[0], 0.015).length_scale == 4.0
    assert prefer_short(LADDER, LADDER[0], 0.0) is LADDER[0]


def test_of_one_length_scale_the_best_is_taken():
    again = trial("backbone", 0.985, 2.0)
    assert prefer_short([*LADDER, again], LADDER[0], 0.03) is again


def test_the_shortest_reach_has_the_largest_species_weight_then_the_largest_share_then_the_shortest_scale():
    def reach(score, species_weight, share, length_scale, prior="backbone"):
        one = trial(prior, score, length_scale)
        return replace(one, species_weight=species_weight, tangent_share=share)

    best = reach(1.0, 0.2, 0.3, 8.0)
    trials = [best, reach(0.98, 0.8, 0.3, 8.0), reach(0.97, 0.8, 0.5, 8.0), reach(0.96, 0.8, 0.5, 4.0)]
    others = [reach(0.9, 1.0, 0.9, 2.0), reach(0.99, 0.5, 0.9, 1.0), reach(1.0, 1.0, 0.9, 1.0, "none")]
    for margin, expected in ((0.0, 0), (0.025, 1), (0.035, 2), (0.05, 3)):
        chosen = prefer_near([*trials, *others], best, margin)
        assert chosen is (trials[expected] if expected else best)


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
