"""What was chosen and why, in words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mekrr.pages.report.surface import best_by
from mekrr.pages.words import layer_names, listed, number, plural, power
from mekrr.potential import AUTO, FitOptions, Fitted
from mekrr.potential.search_record import SearchRecord, TrialRecord, at_one_stage, why_not
from mekrr.prior import NEEDS_BACKBONE

PRIOR_MEANINGS = {
    "none": "far from the data the potential falls back on one mean energy per atom",
    "composition": "far from the data the potential falls back on one energy per element, without forces",
    "backbone": "far from the data the potential falls back on the foundation model plus one shift per element",
    "backbone-scaled": "far from the data the potential falls back on the foundation model, its energy scaled by a "
    "fitted factor, plus one shift per element",
}
CRITERION_MEANINGS = {
    "loo+evidence": "mean of the log density of the leave-one-out residuals under a Student t and of the log evidence "
    "per structure: larger is better",
    "loo": "mean log density of the leave-one-out residuals under a Student t: larger is better, and a few violent "
    "structures cannot rule it",
    "loo-gaussian": "mean log density of the leave-one-out residuals under a Gaussian: larger is better",
    "loo-mae": "minus the logarithm of the mean absolute leave-one-out error: larger is better",
    "loo-rmse": "minus the logarithm of the root mean square leave-one-out error: larger is better",
    "evidence": "log evidence of the training energies per structure: larger is better",
}
WITH_FORCES = "; the geometric mean of energies' and forces'"
CLOSE = 0.05  # 5% of the error
TWIN = 1e-6  # scores this near come from the same problem
OUTLIER_RATIO = 1.5


@dataclass(frozen=True)
class ChoiceRow:
    """One hyperparameter: its value, how it came about and what it means."""

    name: str
    value: str
    how: str
    meaning: str


def choice_rows(fitted: Fitted) -> list[ChoiceRow]:
    """All hyperparameters of a fit."""
    options = fitted.record.options
    trials = _trials(fitted)
    among = {}
    if trials:
        among["layers"] = plural(len({tuple(t.layers) for t in trials}), "set")
        among["prior"] = plural(len({t.prior for t in trials}), "prior")

    def how(name: str) -> str:
        if getattr(options, name) not in (AUTO, "median"):
            return _given(options, name)
        return "median heuristic" if getattr(options, name) == "median" else _chosen(among.get(name))

    return [
        ChoiceRow("Layers", layer_names(fitted.layers), how("layers"), "depths of the backbone the features come from"),
        ChoiceRow("Prior", fitted.prior.name, how("prior"), PRIOR_MEANINGS.get(fitted.prior.name, "")),
        ChoiceRow(
            "Species weight",
            number(fitted.species_weight, 2),
            how("species_weight"),
            "0 compares every atom with every other, 1 only atoms of the same element",
        ),
        ChoiceRow(
            "Length scale",
            number(fitted.length_scale),
            how("length_scale"),
            "distance of standardised features over which environments stop being alike",
        ),
        ChoiceRow(
            "Tangent share",
            number(fitted.tangent_share, 2),
            how("tangent_share"),
            "0 learns from the features alone, towards 1 from what a change of the network's weights would do",
        ),
        *_sparse_rows(fitted, how),
        ChoiceRow("Ridge", power(fitted.ridge), how("ridge"), _ridge_meaning(fitted)),
        ChoiceRow("Kernel", fitted.kernel.name, how("kernel"), "between two atomic environments"),
        ChoiceRow("Embedding", fitted.embedding, how("embedding"), _embedding_meaning(fitted.embedding)),
        ChoiceRow("Criterion", criterion_of(fitted), how("criterion"), criterion_meaning(fitted)),
    ]


def criterion_of(fitted: Fitted) -> str:
    """What was maximised; older files name it in the options only."""
    return fitted.record.search.criterion or fitted.record.options.criterion


def criterion_meaning(fitted: Fitted) -> str:
    """What the score that was maximised means."""
    meaning = CRITERION_MEANINGS.get(criterion_of(fitted), "")
    return meaning + WITH_FORCES if fitted.record.solver.forces else meaning


def _sparse_rows(fitted: Fitted, how: Callable[[str], str]) -> list[ChoiceRow]:
    """What only the sparse solver has."""
    if fitted.model.solver == "exact":
        return []
    solver = fitted.record.solver
    basis = ", ".join(f"{n} {symbol}" for symbol, n in solver.inducing_per_species.items())
    rows = [ChoiceRow("Inducing environments", str(solver.n_inducing), how("inducing"), basis)]
    if not solver.forces:
        return rows
    weight = fitted.model.weights.force
    meaning = "what a squared force error counts in Å², where a squared energy error counts 1/atoms"
    share = f"{100 * solver.probed_share:.0f}% of the directions"
    went_on = "the solution of all force components" if solver.exact_forces else "the probed solution"
    return [
        *rows,
        ChoiceRow("Force weight", power(weight), how("force_weight"), meaning),
        ChoiceRow("Probes", share, how("probes"), went_on),
    ]


def _trials(fitted: Fitted) -> list[TrialRecord]:
    return [*fitted.record.search.surface, *fitted.record.search.screening]


def _given(options: FitOptions, name: str) -> str:
    return "default" if getattr(options, name) == getattr(FitOptions(), name) else "given"


def _chosen(among: str | None) -> str:
    return "leave-one-out" if among is None else f"leave-one-out, {among} tried"


def _ridge_meaning(fitted: Fitted) -> str:
    per = "the number of atoms" if fitted.embedding == "sum" else "1"
    text = f"strength of the smoothing; times {per} of each structure" if fitted.embedding == "sum" else "smoothing"
    if fitted.model.solver == "sparse":
        return "strength of the smoothing, beside squared energy errors over the number of atoms"
    return text


def _embedding_meaning(embedding: str) -> str:
    if embedding == "sum":
        return "size-extensive: a sum of atomic energies"
    return "energy per atom from the mean of all environments; not size-extensive"


def is_close(best: float, other: float) -> bool:
    """Whether a score is so near the best one that the data hardly tell them apart."""
    return best - other < CLOSE


def verdict(fitted: Fitted) -> list[str]:
    """Sentences on the runner-up and on what the choice of prior means away from the data."""
    search = fitted.record.search
    return [*_runner_up(search), *_safety(fitted, search)]


def _runner_up(search: SearchRecord) -> list[str]:
    best = at_one_stage(search)[0]
    others = best_by([t for t in search.surface if not _same(t, best)], ("prior", "layers"))
    twins = [t for t in others if t.layers == best.layers and abs(best.score - t.score) < TWIN]
    same_prior = {t.prior for t in twins}
    rivals = [t for t in others if t.prior not in same_prior]
    if not others:
        return ["Layers and prior were given, so there is no runner-up."]
    sentences = [_twin(best, t) for t in twins]
    return [*sentences, _rival(best, rivals[0])] if rivals else sentences


def _same(trial: TrialRecord, best: TrialRecord) -> bool:
    return trial.prior == best.prior and trial.layers == best.layers


def _twin(best: TrialRecord, other: TrialRecord) -> str:
    return (
        f"The prior {other.prior} scores the same as {best.prior}: on these compositions the two are one and the same."
    )


def _rival(best: TrialRecord, other: TrialRecord) -> str:
    close = is_close(best.score, other.score)
    differs = [name for name in ("prior", "layers") if getattr(best, name) != getattr(other, name)]
    kept = "" if len(differs) == 2 else f", with the same {'layers' if differs == ['prior'] else 'prior'}"
    named = {"prior": f"prior {other.prior}", "layers": f"layers {layer_names(other.layers)}"}
    gap = number(abs(best.score - other.score), 2)
    reason = why_not(best, other)
    words = f"ahead, and was passed over: {reason}" if reason else "behind"
    if close and not reason:
        words += ": so near that the data hardly tell the two apart"
    return (
        f"Runner-up in the search, on features alone: {listed(named[name] for name in differs)}{kept}. There it scores "
        f"{number(other.score, 4)} against {number(best.score, 4)} of the choice, {gap} {words}. Leave-one-out MAE and "
        f"RMSE there, meV/atom: {_errors(other)} for the runner-up, {_errors(best)} for the choice."
    )


def _errors(trial: TrialRecord) -> str:
    return f"{number(trial.loo_mae_mev_per_atom)} and {number(trial.loo_rmse_mev_per_atom)}"


def _safety(fitted: Fitted, search: SearchRecord) -> list[str]:
    """Accuracy near the data and safety far from it may point to different priors."""
    ranking = best_by(search.surface, ("prior",))
    safe = [t for t in ranking if t.prior in NEEDS_BACKBONE]
    plain = [t for t in ranking if t.prior not in NEEDS_BACKBONE]
    if fitted.baseline is None:
        return ["This backbone has no energy of its own, so no prior can fall back on it far from the data."]
    if not safe or not plain:
        return _untried(fitted)
    choice = at_one_stage(search)[0]  # one number for one thing: the choice as the search saw it, here as above
    if fitted.prior.name in NEEDS_BACKBONE and plain[0].score > choice.score:
        return [_safer_was_taken(choice, plain[0])]
    if fitted.prior.name in NEEDS_BACKBONE:
        return [_both_point_to_backbone(choice, plain[0])]
    return [_they_differ(choice, safe[0])]


def _untried(fitted: Fitted) -> list[str]:
    kind = "with" if fitted.prior.name in NEEDS_BACKBONE else "without"
    return [f"Only priors {kind} the backbone's energy were tried: {PRIOR_MEANINGS.get(fitted.prior.name, '')}."]


def _safer_was_taken(safe: TrialRecord, plain: TrialRecord) -> str:
    gap = number(plain.score - safe.score, 2)
    return (
        f"Near the data the prior {plain.prior} does slightly better ({gap} ahead), by less than it may lose far "
        f"away, where it falls back on a constant; so {safe.prior} was taken, which falls back on the foundation "
        "model. If the potential will meet nothing but structures like its data, fit again with --prior "
        f"{plain.prior} and compare."
    )


def _both_point_to_backbone(safe: TrialRecord, plain: TrialRecord) -> str:
    gap = number(safe.score - plain.score, 2)
    if is_close(safe.score, plain.score):
        return (
            f"Near the data the prior {plain.prior} does almost as well ({gap} behind). Far from the data only the "
            f"prior {safe.prior} falls back on the foundation model, which is the safer of two near equals."
        )
    return (
        f"Accuracy near the data and safety far from it point to the same prior here: {safe.prior} leads the best "
        f"prior without the backbone's energy ({plain.prior}) by {gap}, and far from the data it falls back on the "
        "foundation model."
    )


def _they_differ(plain: TrialRecord, safe: TrialRecord) -> str:
    close = is_close(plain.score, safe.score)
    return (
        f"Accuracy near the data and safety far from it point to different priors here. By leave-one-out the prior "
        f"{plain.prior} leads {safe.prior} by {number(plain.score - safe.score, 2)}"
        f"{', which is hardly a difference' if close else ''}; but far from the data it falls back on a constant, "
        f"while {safe.prior} falls back on the foundation model. {_outliers(plain, safe)}"
        f"For reactions, temperatures or compositions beyond the training set, fit again with --prior {safe.prior} "
        "and compare."
    )


def _outliers(plain: TrialRecord, safe: TrialRecord) -> str:
    """Training structures far from all others already show what happens far from the data."""
    wide, narrow = plain.loo_rmse_mev_per_atom, safe.loo_rmse_mev_per_atom
    if wide < OUTLIER_RATIO * narrow:
        return ""
    return (
        f"The training set itself shows it: the leave-one-out RMSE is {number(wide)} meV/atom with {plain.prior} "
        f"and {number(narrow)} with {safe.prior}, because a few structures lie far from all others. "
    )


@dataclass(frozen=True)
class Screening:
    """Layers against priors.

    Attributes:
        priors: columns.
        rows: name of the layers with one cell a prior: the trial, or None where it was not tried.
        best: the trial with the best score.
        on_subset: whether the scores come from the screening subset instead of the whole search.
    """

    priors: list[str]
    rows: list[tuple[str, list[TrialRecord | None]]]
    best: TrialRecord
    on_subset: bool


def screening(search: SearchRecord) -> Screening | None:
    """The best score of every choice of layers and prior; None where there was only one."""
    pool: Sequence[TrialRecord] = search.screening
    trials = best_by(pool or search.surface, ("layers", "prior"))
    if len(trials) < 2:
        return None
    priors = list(dict.fromkeys(t.prior for t in trials))
    layers = list(dict.fromkeys(tuple(t.layers) for t in trials))
    cells = {(tuple(t.layers), t.prior): t for t in trials}
    rows = [(layer_names(names), [cells.get((names, prior)) for prior in priors]) for names in layers]
    return Screening(priors, rows, trials[0], bool(pool))
