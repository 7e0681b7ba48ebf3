"""Distributions of errors, and of errors beside their predicted deviations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import plotly.graph_objects as go

from mekrr.evaluation import Evaluation, rank_correlation
from mekrr.pages.figures import BACKBONE, COMPOSITION, INK, POTENTIAL, Panel, log_axis, panel, plain, points
from mekrr.pages.report.parity import ForceComponents, labels
from mekrr.potential import Fitted

COLOURS = {"this potential": POTENTIAL, "backbone": BACKBONE, "composition": COMPOSITION}
BINS = 50
Series = Mapping[str, np.ndarray | None]


def energy_errors(evaluation: Evaluation) -> dict[str, np.ndarray | None]:
    """Predicted minus DFT, meV/atom, of potential, backbone with shifts and composition fit."""

    def errors(energies: np.ndarray) -> np.ndarray:
        return 1000 * (energies - evaluation.energies) / evaluation.n_atoms

    own = evaluation.backbone_energies
    return {
        "this potential": evaluation.energy_errors,
        "backbone": None if own is None else errors(own),
        "composition": errors(evaluation.composition_energies),
    }


def loo_errors(fitted: Fitted) -> dict[str, np.ndarray | None]:
    """Predicted minus DFT of every training structure when it is left out, meV/atom."""
    return {"this potential": -1000 * fitted.labels.loo_residuals.numpy() / fitted.labels.n_atoms.numpy()}


def error_panels(name: str, what: str, unit: str, series: Series) -> list[Panel]:
    """Histograms of signed errors, each in bins of its own, and the cumulative distribution of their sizes.

    The composition fit, usually far wider, is left to the cumulative plot.

    Args:
        name: of the quantity, for identifiers.
        what: of the quantity, for headings.
        unit: of the errors.
        series: errors by the keys of COLOURS; None where there are none.
    """
    known = {key: errors for key, errors in series.items() if errors is not None}
    shown = {key: errors for key, errors in known.items() if key != "composition"}
    heads = {key: f"{what}: signed errors" + (f" of {key}" if len(shown) > 1 else "") for key in shown}
    return [
        *(
            panel(f"{name}-histogram-{key.split()[-1]}", heads[key], _histogram(key, errors, unit), 320)
            for key, errors in shown.items()
        ),
        panel(f"{name}-cumulative", f"{what}: share below a size", _cumulative(known, unit), 320),
    ]


def _histogram(key: str, errors: np.ndarray, unit: str) -> go.Figure:
    """Shares in equal bins."""
    limit = float(np.quantile(np.abs(errors), 0.98)) * 1.1 or 1.0
    n_bins = int(np.clip(2 * np.sqrt(len(errors)), 9, BINS)) | 1
    axes = {
        "showlegend": False,
        "bargap": 0,
        "xaxis": {"title": {"text": f"predicted minus DFT, {unit}"}, "range": [-limit, limit]},
        "yaxis": {"title": {"text": "share"}, "tickformat": ".0%", "rangemode": "tozero"},
    }
    return go.Figure(_bars(key, errors, np.linspace(-limit, limit, n_bins + 1), unit), axes)


def _bars(key: str, errors: np.ndarray, edges: np.ndarray, unit: str) -> go.Bar:
    """Errors beyond the range are put into the outermost bins."""
    counts, _ = np.histogram(np.clip(errors, edges[0], edges[-1]), bins=edges)
    return go.Bar(
        x=(edges[:-1] + edges[1:]) / 2, y=counts / len(errors), width=np.diff(edges), name=key, opacity=0.6,
        marker={"color": COLOURS[key], "line": {"width": 0}},
        hovertemplate=f"around %{{x:.3~g}} {unit}: %{{y:.1%}}<extra>{key}</extra>",
    )  # fmt: skip


def _cumulative(series: Mapping[str, np.ndarray], unit: str) -> go.Figure:
    shares = np.linspace(0.005, 1, 200)
    lines = [
        go.Scatter(
            x=np.maximum(np.quantile(np.abs(errors), shares), 1e-6), y=shares, name=key, mode="lines",
            line={"color": COLOURS[key], "width": 2},
            hovertemplate=f"%{{y:.0%}} below %{{x:.3~g}} {unit}<extra>{key}</extra>",
        )
        for key, errors in series.items()
    ]  # fmt: skip
    low = min(float(np.quantile(np.abs(errors), 0.03)) for errors in series.values())
    high = max(float(np.abs(errors).max()) for errors in series.values())
    axes = {
        "showlegend": len(series) > 1,
        "xaxis": log_axis(f"size of the error, {unit}", max(low, high * 1e-4), high * 1.1),
        "yaxis": {"title": {"text": "share below"}, "tickformat": ".0%", "range": [0, 1.02]},
    }
    return go.Figure(lines, axes)


def force_errors(forces: ForceComponents) -> dict[str, np.ndarray | None]:
    """Predicted minus DFT, meV/Angstrom, of potential and backbone; zero forces stand for the composition fit."""
    return {
        "this potential": forces.errors,
        "backbone": forces.backbone_errors,
        "composition": -1000 * forces.dft,
    }


@dataclass(frozen=True)
class Calibration:
    """Predicted deviations beside errors.

    Attributes:
        panels: scatter and coverage curve.
        within_one: share of errors within one deviation, 68% if calibrated.
        within_two: share within two, 95% if calibrated.
        mean_deviation: meV/atom.
        correlation: rank correlation of deviations and error sizes; None where all are equal.
    """

    panels: list[Panel]
    within_one: float
    within_two: float
    mean_deviation: float
    correlation: float | None


def calibration(evaluation: Evaluation) -> Calibration | None:
    """None where a prediction lacks its deviation."""
    deviations = [p.energy_std for p in evaluation.predictions if p.energy_std is not None]
    if len(deviations) != len(evaluation.predictions):
        return None
    std = 1000 * np.array(deviations) / evaluation.n_atoms
    errors = np.abs(evaluation.energy_errors)
    ratio = errors / np.maximum(std, 1e-300)
    hover = [plain(name) for name in labels(evaluation)]
    panels = [
        panel("calibration-scatter", "Error against predicted deviation", _scatter(std, errors, hover), 340),
        panel("calibration-curve", "How often the error stays within", _coverage(ratio), 340),
    ]
    return Calibration(
        panels,
        float(np.mean(ratio <= 1)),
        float(np.mean(ratio <= 2)),
        float(std.mean()),
        rank_correlation(std, errors),
    )


def force_calibration(evaluation: Evaluation) -> Calibration | None:
    """The same of force components; None without deviations of forces."""
    found = evaluation.force_ratios()
    if found is None:
        return None
    ratio, correlation, mean = found
    panels = [panel("force-calibration-curve", "How often a force error stays within", _coverage(ratio), 340)]
    return Calibration(panels, float(np.mean(ratio <= 1)), float(np.mean(ratio <= 2)), mean, correlation)


def _scatter(std: np.ndarray, errors: np.ndarray, hover: Sequence[str]) -> go.Figure:
    floor = max(float(errors.max()) * 1e-3, 1e-6)
    shown = np.maximum(errors, floor)
    low, high = float(std.min()) / 1.5, float(std.max()) * 1.5
    ends = np.array([low, high])
    heights = float(shown.min()) / 1.5, max(float(shown.max()), high) * 1.5
    lines = [
        go.Scatter(x=ends, y=times * ends, mode="lines", name=name, line={"color": INK, "width": 1, "dash": dash})
        for times, name, dash in ((1, "one deviation", "solid"), (2, "two deviations", "dot"))
    ]
    axes = {
        "xaxis": log_axis("predicted deviation, meV/atom", low, high),
        "yaxis": log_axis("size of the error, meV/atom", *heights),
    }
    return go.Figure([*lines, points(std, shown, POTENTIAL, 6, hover)], axes)


def _coverage(ratio: np.ndarray) -> go.Figure:
    """Share of errors within the central interval of a normal distribution, for each nominal coverage."""
    nominal = np.linspace(0.01, 0.99, 99)
    widths = np.array([NormalDist().inv_cdf(0.5 + share / 2) for share in nominal])
    observed = np.searchsorted(np.sort(ratio), widths, side="right") / len(ratio)
    lines = [
        go.Scatter(x=[0, 1], y=[0, 1], mode="lines", name="calibrated", line={"color": INK, "width": 1, "dash": "dot"}),
        go.Scatter(x=nominal, y=observed, mode="lines", name="this potential", line={"color": POTENTIAL, "width": 2,
                                                                                       "shape": "hv"}),
    ]  # fmt: skip
    axes = {
        "xaxis": {"title": {"text": "predicted share"}, "tickformat": ".0%", "range": [0, 1]},
        "yaxis": {"title": {"text": "observed share"}, "tickformat": ".0%", "range": [0, 1.02]},
    }
    return go.Figure(lines, axes)
