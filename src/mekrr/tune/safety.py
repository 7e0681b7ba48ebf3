"""What leave-one-out cannot see: what a prior and a length scale do far from the data.

Leave-one-out knows the neighbourhood of the data only. There a prior without a model can win by little and be far off
elsewhere, and the score hardly depends on the length scale, while a long one lets the fit extrapolate like a polynomial
instead of falling back on its prior (docs/results.md, far from the data). Beside a tangent kernel it hardly depends on
how much elements learn from one another either.
"""

import math
from collections.abc import Collection, Sequence

from mekrr.tune.trial import Trial, best_of

SAFETY_MARGIN = 0.15  # a safe prior is taken unless another one is better by more, in the log of the error


def prefer_safe(trials: Sequence[Trial], safe: Collection[str]) -> Trial:
    """The best trial, or the best one with a safe prior where that is hardly worse."""
    best = best_of(trials)
    candidates = [trial for trial in trials if trial.prior in safe]
    if not candidates:
        return best
    safest = best_of(candidates)
    return safest if safest.score > best.score - SAFETY_MARGIN else best


def prefer_short(trials: Sequence[Trial], best: Trial, margin: float) -> Trial:
    """The best trial with the same layers and prior and the shortest length scale that is not worse by the margin."""
    alike = [t for t in trials if (t.layers, t.prior) == (best.layers, best.prior)]
    near = [t for t in alike if t.score > best.score - margin] or [best]
    shortest = min(trial.length_scale for trial in near)
    return best_of([trial for trial in near if trial.length_scale == shortest])


def prefer_near(trials: Sequence[Trial], best: Trial, margin: float) -> Trial:
    """That of the shortest reach with the same layers and prior which is not worse than the best by the margin.

    What was learned of one element should say little of another; a change of the network holds further out than one of
    a function of its features; and what was learned of one environment should say little of those unlike it: the
    largest species weight, with it the largest share of the tangent kernel, with that the shortest length scale.
    """
    alike = [t for t in trials if (t.layers, t.prior) == (best.layers, best.prior)]
    near = [t for t in alike if t.score > best.score - margin] or [best]
    return max(near, key=lambda t: (t.species_weight, t.tangent_share, -t.length_scale, t.score))


def prior_warnings(trials: Sequence[Trial], best: Trial, safe: Collection[str]) -> list[str]:
    """What a prior without a model costs far away, where it was chosen over a safe one."""
    candidates = [trial for trial in trials if trial.prior in safe]
    if best.prior in safe or not candidates:
        return []
    other = best_of(candidates)
    worse = 100 * (math.exp(best.score - other.score) - 1)
    return [
        f"the prior {best.prior!r} was chosen: far from the training data the potential has no physical model to fall "
        f"back on. With the prior {other.prior!r}, errors near the data are {worse:.0f}% larger; take it if the "
        "potential will meet structures unlike its data"
    ]
