"""The part of a potential's record that says what was chosen, from what."""

from dataclasses import dataclass

from mekrr.prior import NEEDS_BACKBONE
from mekrr.tune import Choice, Trial


@dataclass(frozen=True)
class TrialRecord:
    """One trial at its best ridge; the surface's with their ridge paths. See Trial.

    Attributes:
        score: minus the log of an error, up to a constant.
        scores: along `ridges`.
        loo_rmse_path: meV/atom, along `ridges`.
    """

    layers: tuple[str, ...]
    prior: str
    length_scale: float
    species_weight: float
    ridge: float
    score: float
    loo_rmse_mev_per_atom: float
    loo_mae_mev_per_atom: float
    log_evidence: float | None = None
    force_weight: float | None = None
    loo_forces_mev_per_angstrom: float | None = None
    ridges: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()
    loo_rmse_path: tuple[float, ...] = ()
    tangent_share: float = 0.0

    @staticmethod
    def of(trial: Trial, path: bool = False) -> "TrialRecord":
        """Of a trial, with its ridge path where asked."""
        best = trial.best
        return TrialRecord(
            trial.layers,
            trial.prior,
            trial.length_scale,
            trial.species_weight,
            trial.ridge,
            trial.score,
            trial.loo_rmse[best],
            trial.loo_mae[best],
            trial.evidence[best] if trial.evidence else None,
            trial.force_weight,
            trial.loo_forces[best] if trial.loo_forces else None,
            trial.ridges if path else (),
            tuple(round(score, 6) for score in trial.scores) if path else (),
            tuple(round(value, 5) for value in trial.loo_rmse) if path else (),
            trial.tangent_share,
        )


@dataclass(frozen=True)
class SearchRecord:
    """The search, with the whole surface for the report.

    Attributes:
        best: the chosen trial as it was solved, on all structures.
        runner_up: the best trial with another prior or other layers.
        screening: best trial of each choice of layers and prior on the screening subset.
        surface: all trials of the finalists, without the tangent kernel.
        factorisations: number of eigendecompositions made.
        criterion: what was maximised; empty in files older than the one search.
        mixing: trials of the tangent kernel's share.
    """

    best: TrialRecord
    runner_up: TrialRecord | None
    screening: tuple[TrialRecord, ...]
    surface: tuple[TrialRecord, ...]
    factorisations: int
    criterion: str = ""
    mixing: tuple[TrialRecord, ...] = ()

    @staticmethod
    def of(choice: Choice, final: Trial, criterion: str) -> "SearchRecord":
        """Of a choice; `final` is the best trial as it was solved."""
        return SearchRecord(
            TrialRecord.of(final),
            None if choice.runner_up is None else TrialRecord.of(choice.runner_up),
            tuple(TrialRecord.of(trial) for trial in choice.screening),
            tuple(TrialRecord.of(trial, path=True) for trial in choice.trials),
            choice.factorisations,
            criterion,
            tuple(TrialRecord.of(trial) for trial in choice.mixing),
        )


def at_one_stage(search: SearchRecord) -> tuple[TrialRecord, TrialRecord | None]:
    """The choice as the search saw it, on features alone, and the runner-up: their scores may be compared.

    The choice's own record is of the solution: of all structures and with the tangent kernel, where there is one. The
    search may have seen fewer structures, and knows no tangent kernel. Beside a tangent kernel the length scale was
    taken later, for other reasons: there the best trial of these layers and this prior stands for the choice.
    """
    best = search.best

    def is_choice(trial: TrialRecord) -> bool:
        return (trial.layers, trial.prior) == (best.layers, best.prior)

    mine = [t for t in search.surface if is_choice(t)]
    at_scale = [] if best.tangent_share else [t for t in mine if t.length_scale == best.length_scale]
    others = [t for t in search.surface if not is_choice(t)]
    runner_up = max(others, key=lambda t: t.score, default=None)
    return max(at_scale or mine, key=lambda t: t.score, default=best), runner_up


def why_not(choice: TrialRecord, other: TrialRecord) -> str:
    """Why a runner-up that scored better in the search was passed over; empty where it did not.

    Args:
        choice: as the search saw it.
        other: the runner-up.
    """
    if other.score <= choice.score:
        return ""
    if other.prior not in NEEDS_BACKBONE and choice.prior in NEEDS_BACKBONE:
        return f"a prior with the backbone's energy is safer far from the data, and {choice.prior} was taken for that"
    if other.layers != choice.layers:
        return "compared once more in a basis as large as the solution's, the layers that were chosen did better"
    return (
        "for a few per cent of the error the choice takes the shorter reach: a shorter length scale, a larger species "
        "weight, or the prior that goes best with the tangent kernel"
    )
