"""Figures of benchmarks, in the looks of the report."""

import statistics
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from mekrr.benchmark.tables import Group
from mekrr.report.figures import INK, SEQUENTIAL, Panel, colour_bar, log_axis, panel, plain

COLOURS = (
    "#1f5fa6", "#d1701f", "#3b8f6b", "#8a5fa8", "#b23a48", "#8b919a", "#c29a1b", "#2f9aa0", "#d46a9f", "#5b4b3a",
    "#7fa650", "#28303a", "#a86fd1",
)  # fmt: skip
ENERGY = "energy RMSE, meV/atom"
FORCES = "force RMSE, meV/Å"
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
        y=names, x=means, orientation="h", marker={"color": colours}, error_x={"array": errors, "color": INK},
        hovertemplate="%{y}: %{x:.4~g}<extra></extra>",
    )  # fmt: skip
    axis = {"type": "log", "title": {"text": title}, "exponentformat": "none", "dtick": "D2"}
    if max(means) < 30 * max(min(means), 1e-9):
        axis = {"title": {"text": title}, "rangemode": "tozero"}
    figure = go.Figure(trace, {"xaxis": axis, "yaxis": {"autorange": "reversed", "showgrid": False}})
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
        lines.append(
            go.Scatter(
                x=x, y=y, name=plain(label), mode="lines+markers",
                line={"color": COLOURS[k % len(COLOURS)], "width": 2}, error_y={"array": error, "thickness": 1},
                hovertemplate="%{x:.4~g}: %{y:.4~g}",
            )
        )  # fmt: skip
    x_axis = log_axis(x_title, min(xs) / 1.15, max(xs) * 1.15) if log_x else {"title": {"text": x_title}}
    y_axis = log_axis(y_title, min(ys) / 1.3, max(ys) * 1.3)
    return panel(name, heading, go.Figure(lines, {"xaxis": x_axis, "yaxis": y_axis, "showlegend": True}), 420)


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
        "xaxis": {"type": "log", "title": {"text": "ridge"}, "exponentformat": "power", "dtick": 1},
        "yaxis": {"type": "log", "title": {"text": "length scale"}, "exponentformat": "none", "dtick": "D2"},
        "showlegend": True,
    }
    return panel(name, heading, go.Figure([trace, *points], axes), 400)
