"""Figures of benchmarks, in the looks of the report."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from mekrr.pages.figures import INK, SEQUENTIAL, Panel, colour_bar, log_axis, panel, plain
from mekrr.pages.words import number
from mekrr_comparison.tables import Group

COLOURS = (
    "#1f5fa6", "#d1701f", "#3b8f6b", "#8a5fa8", "#b23a48", "#8b919a", "#c29a1b", "#2f9aa0", "#d46a9f", "#5b4b3a",
    "#7fa650", "#28303a", "#a86fd1",
)  # fmt: skip
ENERGY = "energy RMSE, meV/atom"
FORCES = "force RMSE, meV/Å"
CHOSEN = ", chosen"
"""Ends the name of a series that is drawn as marks."""
QUANTITIES = {"energy_rmse_mev_per_atom": ENERGY, "forces_rmse_mev_per_angstrom": FORCES}

Curves = Mapping[str, Sequence[tuple[float, Sequence[float]]]]


def bars(name: str, groups: Sequence[Group], metric: str, title: str) -> Panel | None:
    """One bar a group, with the spread over seeds; None when no group has the metric."""
    shown = [(group, group.values(metric)) for group in groups if group.values(metric)]
    if not shown:
        return None
    names = [plain(_name(group, groups)) for group, _ in shown]
    means = [statistics.fmean(values) for _, values in shown]
    errors = [statistics.stdev(values) if len(values) > 1 else 0.0 for _, values in shown]
    methods = list(dict.fromkeys(group.method for group in groups))
    colours = [COLOURS[methods.index(group.method) % len(COLOURS)] for group, _ in shown]
    trace = go.Bar(
        y=names, x=means, orientation="h", marker={"color": colours},
        error_x={"array": errors, "color": INK, "visible": any(errors)},
        hovertemplate="%{y}: %{x:.4~g}<extra></extra>",
    )  # fmt: skip
    figure = go.Figure(
        trace, {"xaxis": _error_axis(title, means), "yaxis": {"autorange": "reversed", "showgrid": False}}
    )
    return panel(name, title, figure, 90 + 24 * len(shown))


def _name(group: Group, groups: Sequence[Group]) -> str:
    """The method, with whatever else differs between groups."""
    differing = [str(value) for key, value in group.labels.items() if len({str(g.labels.get(key)) for g in groups}) > 1]
    test = [group.test] if len({g.test for g in groups}) > 1 else []
    return " · ".join([group.method, *differing, *test])


def curves(name: str, heading: str, series: Curves, x_title: str, y_title: str, log_x: bool = True) -> Panel:
    """Lines through means, with the spread over seeds."""
    lines = []
    xs: list[float] = []
    ys: list[float] = []
    for k, (label, points) in enumerate(series.items()):
        x = [at for at, _ in points]
        y = [statistics.fmean(values) for _, values in points]
        error = [statistics.stdev(values) if len(values) > 1 else 0.0 for _, values in points]
        xs, ys = xs + x, ys + y
        is_mark = label.endswith(CHOSEN)
        marker = {"symbol": "diamond-open", "size": 14, "line": {"width": 2.5}} if is_mark else {}
        lines.append(
            go.Scatter(
                x=x, y=y, name=plain(label), mode="markers" if is_mark else "lines+markers", marker=marker,
                line={"color": COLOURS[k % len(COLOURS)], "width": 2},
                error_y={"array": error, "thickness": 1, "visible": any(error)}, hovertemplate="%{x:.4~g}: %{y:.4~g}",
            )
        )  # fmt: skip
    x_axis = log_axis(x_title, min(xs) / 1.15, max(xs) * 1.15) if log_x else {"title": {"text": x_title}}
    axes = {"xaxis": x_axis, "yaxis": _error_axis(y_title, ys), "showlegend": True}
    return panel(name, heading, go.Figure(lines, axes), 420)


def _error_axis(title: str, values: Sequence[float]) -> dict[str, Any]:
    """Logarithmic only where values span more than a decade."""
    if max(values) > 10 * max(min(values), 1e-12):
        return log_axis(title, min(values) / 1.3, max(values) * 1.3)
    return {"title": {"text": title}, "rangemode": "tozero"}


def series_of(groups: Sequence[Group], x: str, metric: str) -> dict[str, list[tuple[float, list[float]]]]:
    """Curves over the label x, one for each choice of everything else."""
    found: dict[str, list[tuple[float, list[float]]]] = {}
    others = [g for g in groups if x in g.labels and isinstance(g.labels[x], int | float)]
    for group in others:
        stripped = [_without(g, x) for g in others]
        values = group.values(metric)
        if values:
            found.setdefault(_name(_without(group, x), stripped), []).append((float(group.labels[x]), values))
    return {label: sorted(points) for label, points in found.items()}


def _without(group: Group, label: str) -> Group:
    return Group({k: v for k, v in group.labels.items() if k != label}, group.method, group.test, group.results)


def heat_map(
    name: str,
    heading: str,
    x: Sequence[float],
    y: Sequence[float],
    z: Sequence[Sequence[float]],
    marks: Mapping[str, tuple[float, float]],
) -> Panel:
    """Errors over two logarithmic axes, with named points on it."""
    limit = 4 * min(min(row) for row in z)
    trace = go.Heatmap(
        x=x, y=y, z=z, zmax=limit, colorscale=SEQUENTIAL, reversescale=True, colorbar=colour_bar(ENERGY),
        hovertemplate="ridge %{x:.2e}, length scale %{y:.3g}: %{z:.4~g}<extra></extra>",
    )  # fmt: skip
    symbols = ("x", "circle-open", "diamond-open")
    points = [
        go.Scatter(
            x=[at[0]], y=[at[1]], name=plain(label), mode="markers", hoverinfo="name",
            marker={"symbol": symbols[k % 3], "size": 13, "color": "#d1701f", "line": {"width": 2.5}},
        )
        for k, (label, at) in enumerate(marks.items())
    ]  # fmt: skip
    axes = {
        "xaxis": {"type": "log", "title": {"text": "ridge"}, "exponentformat": "power", "dtick": 2, "tickangle": 0},
        "yaxis": {"type": "log", "title": {"text": "length scale"}, "tickvals": list(y), "ticktext": [*map(number, y)]},
        "showlegend": True,
    }
    return panel(name, heading, go.Figure([trace, *points], axes), 400)
