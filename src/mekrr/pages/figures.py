"""What all figures share: looks, sizes and the way onto the page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup

from mekrr.pages.template import embeddable

POTENTIAL, BACKBONE, COMPOSITION = "#1f5fa6", "#d1701f", "#8b919a"
INK, GRID = "#28303a", "#e4e7eb"
GROUPS = (POTENTIAL, BACKBONE, "#3b8f6b", "#8a5fa8", "#b23a48", "#5d6773", "#c2a11b", "#3aa0b8", "#7a4b2a", "#d86fa8")
SEQUENTIAL = [[0.0, "#dbe6f2"], [0.35, "#a3c1e0"], [0.7, "#4a84c1"], [1.0, "#123a6b"]]
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"

_AXIS = {
    "gridcolor": GRID,
    "linecolor": "#9aa3ad",
    "showline": True,
    "ticks": "outside",
    "tickcolor": "#9aa3ad",
    "ticklen": 4,
    "zeroline": False,
    "title": {"standoff": 8, "font": {"size": 13}},
    "automargin": True,
}

TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "colorway": [POTENTIAL, BACKBONE, COMPOSITION, "#3b8f6b", "#8a5fa8", "#b23a48"],
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "margin": {"l": 56, "r": 14, "t": 12, "b": 48},
        "hoverlabel": {"font": {"family": FONT}},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
    }
)


@dataclass(frozen=True)
class Panel:
    """One drawing with its heading; panels of a section stand side by side where there is room.

    Attributes:
        name: unique on the page.
        heading: a short line above the drawing.
        spec: the drawing as JSON.
        height: pixels.
    """

    name: str
    heading: str
    spec: Markup
    height: int


def panel(name: str, heading: str, figure: go.Figure, height: int = 360) -> Panel:
    """A figure in the page's looks."""
    figure.update_layout(template=TEMPLATE, height=height, autosize=True)
    return Panel(name, heading, embeddable(figure.to_json()), height)


def plain(text: str) -> str:
    """Text of a stranger as plotly must be given it: without what plotly reads as markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def thinned(size: int, most: int, seed: int = 0) -> np.ndarray:
    """Indices of at most `most` of `size` points, chosen at random but always the same ones."""
    if size <= most:
        return np.arange(size)
    return np.sort(np.random.default_rng(seed).choice(size, most, replace=False))


def span(*values: np.ndarray, margin: float = 0.05) -> tuple[float, float]:
    """A range that shows all finite values with some air around them."""
    flat = np.concatenate([np.ravel(v) for v in values])
    flat = flat[np.isfinite(flat)]
    if not len(flat):
        return -1.0, 1.0
    low, high = float(flat.min()), float(flat.max())
    air = margin * (high - low) or max(1e-6, abs(high) * margin)
    return low - air, high + air


def diagonal(low: float, high: float) -> go.Scatter:
    """The line on which prediction equals DFT."""
    return go.Scatter(
        x=[low, high], y=[low, high], mode="lines", line={"color": INK, "width": 1, "dash": "dot"}, hoverinfo="skip",
        showlegend=False,
    )  # fmt: skip


def points(
    x: np.ndarray, y: np.ndarray, colour: str, size: float, hover: Sequence[str] | None = None, opacity: float = 0.65
) -> go.Scatter:
    """A cloud of points; hover texts must be `plain`."""
    return go.Scatter(
        x=np.asarray(x, dtype=np.float32),
        y=np.asarray(y, dtype=np.float32),
        mode="markers",
        marker={"color": colour, "size": size, "opacity": opacity, "line": {"width": 0}},
        text=None if hover is None else list(hover),
        hovertemplate=None if hover is None else "%{text}<br>%{x:.4~g}, %{y:.4~g}<extra></extra>",
        showlegend=False,
    )


def square(low: float, high: float, x_title: str, y_title: str) -> dict:
    """Layout of a parity plot: the same range on both axes, and square whatever the room."""
    axis = {"range": [low, high], "nticks": 7, "constrain": "domain"}
    upright = axis | {"title": {"text": y_title}, "scaleanchor": "x", "scaleratio": 1}
    return {"xaxis": axis | {"title": {"text": x_title}}, "yaxis": upright}


def log_axis(title: str, low: float, high: float) -> dict:
    """A logarithmic axis, labelled at 1, 2, 5 where it spans few decades and at powers of ten otherwise."""
    low = max(low, 1e-12)
    low, high = np.log10(low), np.log10(max(high, low * 1.01))
    axis = {"type": "log", "title": {"text": title}, "range": [low, high], "exponentformat": "none"}
    if high - low >= 1.7:
        return axis | {"dtick": 1}
    # written out: plotly's own ticks there are a 2 for 200
    decades = range(math.floor(low), math.floor(high) + 1)
    for digits in ((1, 2, 5), range(1, 10), [tenth / 10 for tenth in range(10, 100)]):
        ticks = [digit * 10.0**k for k in decades for digit in digits if low <= math.log10(digit) + k <= high]
        if len(ticks) >= 2:
            break
    text = [np.format_float_positional(tick, precision=3, fractional=False, trim="-") for tick in ticks]
    return axis | {"tickvals": ticks, "ticktext": text}


def colour_bar(title: str, **options: Any) -> dict:
    """A slim colour bar with its title along it."""
    text = {"text": title, "side": "right", "font": {"size": 13}}
    return {"title": text, "thickness": 10, "outlinewidth": 0} | options
