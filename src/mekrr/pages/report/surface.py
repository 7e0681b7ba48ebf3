"""The leave-one-out surface: what the search tried and how it scored."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from mekrr.pages.figures import COMPOSITION, POTENTIAL, SEQUENTIAL, Panel, colour_bar, log_axis, panel
from mekrr.pages.words import MINUS, number
from mekrr.potential.search_record import SearchRecord, TrialRecord, at_one_stage

PRIOR_COLOURS = {"none": "#b23a48", "composition": COMPOSITION, "backbone": "#d1701f", "backbone-scaled": "#3b8f6b"}
SHOWN_SPREAD = 0.6  # share of the scores, from the best down, that the colours tell apart


def score_maps(search: SearchRecord) -> list[Panel]:
    """Best score along the ridge path over length scale and species weight: a panel a prior, at the chosen layers."""
    best = at_one_stage(search)[0]
    mine = [t for t in search.surface if t.layers == best.layers and np.isfinite(t.score)]
    priors = [best.prior, *sorted({t.prior for t in mine} - {best.prior})]
    scores = np.array([t.score for t in mine])
    low, high = (float(np.quantile(scores, 1 - SHOWN_SPREAD)), float(scores.max())) if len(scores) else (0.0, 1.0)
    panels = []
    for prior in priors:
        trials = [t for t in mine if t.prior == prior]
        if trials:
            chosen = best if prior == best.prior else None
            heading = f"Prior {prior}" + (" (chosen)" if chosen else "")
            panels.append(panel(f"surface-{prior}", heading, _map(trials, (low, high), chosen), 320))
    return panels


def _map(trials: Sequence[TrialRecord], colours: tuple[float, float], chosen: TrialRecord | None) -> go.Figure:
    """Gaps are points the search did not need."""
    scales = sorted({t.length_scale for t in trials})
    weights = sorted({t.species_weight for t in trials})
    shape = (len(weights), len(scales))
    z, ridge, rmse = np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, np.nan)
    for t in trials:
        at = weights.index(t.species_weight), scales.index(t.length_scale)
        z[at], ridge[at], rmse[at] = t.score, t.ridge, t.loo_rmse_mev_per_atom
    ticks = [number(scale, 2) for scale in scales]
    heat = go.Heatmap(
        x=ticks, y=[f"{weight:g}" for weight in weights], z=z, customdata=np.stack([ridge, rmse], axis=-1),
        zmin=colours[0], zmax=colours[1], colorscale=SEQUENTIAL, xgap=1, ygap=1,
        colorbar=colour_bar(f"score ({MINUS}ln error)", nticks=5),
        hovertemplate="length scale %{x}, species weight %{y}<br>score %{z:.4f} at ridge %{customdata[0]:.1e}"
        "<br>leave-one-out RMSE %{customdata[1]:.3~g} meV/atom<extra></extra>",
    )  # fmt: skip
    figure = go.Figure(heat, _category_axes())
    if chosen is not None:
        mark = {"symbol": "circle-open", "size": 13, "color": "#d1701f", "line": {"width": 3}}
        figure.add_scatter(
            x=[number(chosen.length_scale, 2)], y=[f"{chosen.species_weight:g}"], mode="markers", marker=mark,
            hoverinfo="skip", showlegend=False,
        )  # fmt: skip
    return figure


def _category_axes() -> dict[str, Any]:
    return {
        "xaxis": {"type": "category", "title": {"text": "length scale"}, "showgrid": False, "tickangle": -90},
        "yaxis": {"type": "category", "title": {"text": "species weight"}, "showgrid": False, "dtick": 1},
    }


def ridge_paths(search: SearchRecord) -> list[Panel]:
    """Score and leave-one-out error along the ridge, for the chosen point and the best point of every other prior."""
    best = at_one_stage(search)[0]
    finalists = best_by(search.surface, ("prior",), layers=best.layers)
    trials = sorted(finalists, key=lambda t: t.prior != best.prior)
    if max((len(t.ridges) for t in trials), default=0) < 2:
        return []
    scores = _paths(trials, "scores", best, _score_axis(trials))
    errors = _paths(trials, "loo_rmse_path", best, _error_axis(trials))
    return [
        panel("ridge-score", "Score along the ridge", scores, 320),
        panel("ridge-error", "Leave-one-out RMSE along the ridge", errors, 320),
    ]


def _score_axis(trials: Sequence[TrialRecord]) -> dict[str, Any]:
    """The upper part of the scores: far too large ridges would flatten everything else."""
    scores = np.concatenate([t.scores for t in trials])
    scores = scores[np.isfinite(scores)]
    high, low = float(scores.max()), float(np.quantile(scores, 0.15))
    air = 0.06 * (high - low) or 1.0
    return {"title": {"text": "score"}, "range": [low - air, high + air]}


def _error_axis(trials: Sequence[TrialRecord]) -> dict[str, Any]:
    errors = np.concatenate([t.loo_rmse_path for t in trials])
    errors = errors[np.isfinite(errors) & (errors > 0)]
    low, high = (float(errors.min()), float(errors.max())) if len(errors) else (1.0, 10.0)
    return log_axis("leave-one-out RMSE, meV/atom", low / 1.2, high * 1.2)


def _paths(trials: Sequence[TrialRecord], key: str, best: TrialRecord, y_axis: Mapping[str, Any]) -> go.Figure:
    lines = [_path(t, key, chosen=t.prior == best.prior) for t in trials]
    x_axis = {
        "type": "log",
        "title": {"text": "ridge"},
        "exponentformat": "power",
        "nticks": 5,
        "tickfont": {"size": 11},
    }
    figure = go.Figure(lines, {"xaxis": x_axis, "yaxis": dict(y_axis)})
    figure.add_vline(x=best.ridge, line={"color": POTENTIAL, "width": 1, "dash": "dot"})
    return figure


def _path(trial: TrialRecord, key: str, chosen: bool) -> go.Scatter:
    colour = PRIOR_COLOURS.get(trial.prior, POTENTIAL)
    return go.Scatter(
        x=trial.ridges, y=getattr(trial, key), mode="lines+markers" if chosen else "lines",
        name=f"{trial.prior}{' (chosen)' if chosen else ''}",
        line={"color": POTENTIAL if chosen else colour, "width": 2.5 if chosen else 1.5,
              "dash": "solid" if chosen else "dash"},
        marker={"size": 5},
        hovertemplate="ridge %{x:.1e}: %{y:.4~g}<extra></extra>",
    )  # fmt: skip


def best_by(trials: Sequence[TrialRecord], keys: Sequence[str], **fixed: Any) -> list[TrialRecord]:
    """The best trial of each combination of `keys`, best first, among those with the `fixed` values."""
    found: dict[str, TrialRecord] = {}
    for trial in trials:
        if all(getattr(trial, name) == value for name, value in fixed.items()):
            name = repr([getattr(trial, key) for key in keys])
            if name not in found or trial.score > found[name].score:
                found[name] = trial
    return sorted(found.values(), key=lambda trial: -trial.score)
