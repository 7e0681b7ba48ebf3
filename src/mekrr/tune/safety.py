"""What leave-one-out cannot see: what a prior and a length scale do far from the data.

Leave-one-out knows the neighbourhood of the data only. There a prior without a model can win by little and be far off
elsewhere, and the score hardly depends on the length scale, while a long one lets the fit extrapolate like a polynomial
instead of falling back on its prior (`comparison/figures/forces.py segments` with --option length_scale=...).
"""

import math
from collections.abc import Callable, Collection, Sequence

from mekrr.tune.problem import Trial, best_of

SAFETY_MARGIN = 0.15  # a safe prior is taken unless another one is better by more, in the log of the error
SHORTEST_MARGIN = 0.03  # and the shortest length scale that is not worse by more

Measure = Callable[[float], float]  # of a score: minus the log of an error


def prefer_safe(trials: Sequence[Trial], safe: Collection[str], measure: Measure = float) -> Trial:
    """The best trial, or the best one with a safe prior where that is hardly worse."""
    best = best_of(trials)
    candidates = [trial for trial in trials if trial.prior in safe]
    if not candidates:
        return best
    safest = best_of(candidates)
    return safest if measure(safest.score) > measure(best.score) - SAFETY_MARGIN else best


def prefer_short(trials: Sequence[Trial], best: Trial) -> Trial:
    """The best trial with the same layers and prior and the shortest length scale that is hardly worse."""
    alike = [t for t in trials if (t.layers, t.prior) == (best.layers, best.prior)]
    near = [t for t in alike if t.score > best.score - SHORTEST_MARGIN]
    shortest = min(trial.length_scale for trial in near)
    return best_of([trial for trial in near if trial.length_scale == shortest])


def prior_warnings(trials: Sequence[Trial], best: Trial, safe: Collection[str], measure: Measure = float) -> list[str]:
    """What a prior without a model costs far away, where it was chosen over a safe one."""
    candidates = [trial for trial in trials if trial.prior in safe]
    if best.prior in safe or not candidates:
        return []
    other = best_of(candidates)
    worse = 100 * (math.exp(measure(best.score) - measure(other.score)) - 1)
    return [
        f"the prior {best.prior!r} was chosen: far from the training data the potential has no physical model to fall "
        f"back on. With the prior {other.prior!r}, errors near the data are {worse:.0f}% larger; take it if the "
        "potential will meet structures unlike its data"
    ]
