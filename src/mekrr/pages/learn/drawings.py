"""Figures of a run that learnt while it computed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from ase.data.colors import jmol_colors

from mekrr.pages.figures import (
    BACKBONE,
    POTENTIAL,
    Panel,
    diagonal,
    log_axis,
    panel,
    plain,
    points,
    span,
    square,
    thinned,
)
from mekrr.pages.learn.story import Story

MOST_POINTS, MOST_FRAMES = 4000, 60
LABEL = {"color": BACKBONE, "size": 9, "line": {"width": 1, "color": "white"}}


def way(story: Story) -> list[Panel]:
    """Energy, deviation and force along the run, labels marked."""
    if story.task == "md":
        return _dynamics(story)
    return ([_path(story)] if story.task == "neb" and _moved(story, "energies_ev") else []) + _forces_on_the_way(story)


def _moved(story: Story, key: str) -> list[dict[str, Any]]:
    return [line for line in story.of_kind("moved") if line.get(key) is not None]


def _path(story: Story) -> Panel:
    """The last path, its deviations, and the labels that are images of it."""
    last = _moved(story, "energies_ev")[-1]
    energies = np.array(last["energies_ev"])
    x = np.arange(len(energies))
    deviations = np.array([0.0, *(last["deviations_ev"] or [0.0] * (len(energies) - 2)), 0.0])
    figure = go.Figure()
    figure.add_trace(
        go.Scatter(
            x=x, y=energies, mode="lines+markers", line={"color": POTENTIAL}, name="potential",
            error_y={"type": "data", "array": deviations, "color": POTENTIAL},
        )
    )  # fmt: skip
    first = story.labels[0].get_potential_energy()
    known = [(f.info.get("image"), f.get_potential_energy() - first, k + 1) for k, f in enumerate(story.labels)]
    known = [one for one in known if one[0] is not None]
    ends = [(0, 0.0, 1), (len(energies) - 1, story.labels[1].get_potential_energy() - first, 2)]
    shown = [*ends, *known]
    figure.add_trace(
        go.Scatter(
            x=[one[0] for one in shown], y=[one[1] for one in shown], mode="markers+text", marker=LABEL, name="labels",
            text=[str(one[2]) for one in shown], textposition="top center",
        )
    )  # fmt: skip
    figure.update_layout(xaxis_title="image", yaxis_title="energy above START, eV")
    return panel("path", "Energy along the path; numbers say which label", figure)


def _forces_on_the_way(story: Story) -> list[Panel]:
    """DFT energy and predicted energy by label, and the largest DFT force."""
    n = np.arange(1, len(story.labels) + 1)
    energies = np.array([frame.get_potential_energy() for frame in story.labels])
    before = np.array([frame.info.get("before_energy", np.nan) for frame in story.labels], dtype=float)
    deviation = np.array([frame.info.get("before_energy_std", 0.0) for frame in story.labels], dtype=float)
    zero = energies.min() if len(energies) else 0.0
    figure = go.Figure()
    figure.add_trace(
        go.Scatter(x=n, y=energies - zero, mode="lines+markers", name="DFT", marker=LABEL, line={"color": BACKBONE})
    )
    figure.add_trace(
        go.Scatter(
            x=n, y=before - zero, mode="markers", name="predicted before", marker={"color": POTENTIAL},
            error_y={"type": "data", "array": deviation, "color": POTENTIAL},
        )
    )  # fmt: skip
    figure.update_layout(xaxis_title="label", yaxis_title="energy above the lowest, eV")
    found = [panel("energies", "Energy of each label, and what had been predicted", figure)]
    lines = _moved(story, "fmax")
    if lines:
        forces = go.Figure(
            go.Scatter(
                x=[line["n_labels"] for line in lines], y=[line["fmax"] for line in lines], mode="lines+markers",
                line={"color": BACKBONE}, showlegend=False,
            )
        )  # fmt: skip
        limit = story.options.get("fmax")
        if limit:
            forces.add_hline(y=limit, line_dash="dot")
        forces.update_layout(
            xaxis_title="labels",
            yaxis=_log("largest DFT force, eV/Å", [limit or 1.0, *(line["fmax"] for line in lines)]),
        )
        found.append(panel("fmax", "Largest DFT force; the line is the limit", forces))
    return found


def _dynamics(story: Story) -> list[Panel]:
    """Energy and deviation of every walker over time."""
    energy, deviation = go.Figure(), go.Figure()
    for k, frames in enumerate(story.walkers):
        chosen = [frames[i] for i in thinned(len(frames), MOST_POINTS)]
        t = [frame.info["time_fs"] for frame in chosen]
        name = f"walker {k}"
        energy.add_trace(go.Scatter(x=t, y=[f.info["predicted_energy"] for f in chosen], mode="lines", name=name))
        deviation.add_trace(go.Scatter(x=t, y=[1000 * f.info["worst_std"] for f in chosen], mode="lines", name=name))
    t = [frame.info.get("time_fs") for frame in story.labels]
    y = [frame.get_potential_energy() for frame in story.labels]
    energy.add_trace(go.Scatter(x=t, y=y, mode="markers", marker=LABEL, name="labels"))
    lines = _moved(story, "deviation_mev_per_angstrom")
    at = [line["step"] * story.options.get("timestep", 1.0) for line in lines]
    values = [line["deviation_mev_per_angstrom"] for line in lines]
    limits = [line["threshold_mev_per_angstrom"] for line in lines]
    deviation.add_trace(go.Scatter(x=at, y=values, mode="markers", marker=LABEL, name="waited for a label"))
    deviation.add_trace(go.Scatter(x=at, y=limits, mode="markers", marker={"symbol": "line-ew-open"}, name="threshold"))
    seen = [*values, *limits, *(1000 * f.info["worst_std"] for frames in story.walkers for f in frames)]
    energy.update_layout(xaxis_title="time, fs", yaxis_title="potential energy, eV")
    deviation.update_layout(xaxis_title="time, fs", yaxis=_log("deviation of the worst force, meV/Å", seen))
    return [panel("energy", "Energy, labels marked", energy), panel("deviation", "Deviation of forces", deviation)]


def honest(story: Story) -> list[Panel]:
    """Forces predicted before they were labelled, and their errors with the number of labels."""
    pairs = [(f.arrays["before_forces"], f.get_forces()) for f in story.labels if "before_forces" in f.arrays]
    if not pairs:
        return []
    before, after = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
    kept = thinned(len(before), MOST_POINTS)
    low, high = span(before, after)
    parity = go.Figure([diagonal(low, high), points(after[kept], before[kept], POTENTIAL, 5)])
    parity.update_layout(**square(low, high, "DFT force, eV/Å", "predicted before, eV/Å"))
    n = [k + 1 for k, frame in enumerate(story.labels) if "before_forces" in frame.arrays]
    errors = [1000 * float(np.sqrt(np.mean((b - a) ** 2))) for b, a in pairs]
    expected = [(k + 1, 1000 * f.info["before_force_std"]) for k, f in enumerate(story.labels) if _expected(f)]
    curve = go.Figure()
    curve.add_trace(go.Scatter(x=n, y=errors, mode="lines+markers", name="error found", line={"color": BACKBONE}))
    curve.add_trace(
        go.Scatter(
            x=[one[0] for one in expected], y=[one[1] for one in expected], mode="lines+markers",
            name="deviation expected", line={"color": POTENTIAL},
        )
    )  # fmt: skip
    curve.update_layout(
        xaxis_title="label", yaxis=_log("forces, meV/Å (RMS)", [*errors, *(one[1] for one in expected)])
    )
    return [
        panel("parity", "Forces predicted before they were labelled", parity),
        panel("curve", "Error of forces, each before its label", curve),
    ]


def _log(title: str, values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis around values."""
    positive = [value for value in values if value > 0] or [1.0]
    return log_axis(title, min(positive) / 1.5, max(positive) * 1.5)


def _expected(frame: Atoms) -> bool:
    return "before_force_std" in frame.info


def atoms(story: Story) -> list[Panel]:
    """The path, the last trajectory or the labels in 3D, with a slider."""
    frames = list(story.result) if story.task == "neb" else list(story.walkers[0] if story.walkers else ())
    frames = frames or list(story.labels)
    if not frames:
        return []
    shown = [frames[i] for i in thinned(len(frames), MOST_FRAMES)]
    figure = go.Figure(_balls(shown[0]), frames=[go.Frame(data=[_balls(f)], name=str(k)) for k, f in enumerate(shown)])
    arguments = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    steps = [{"args": [[str(k)], arguments], "label": str(k), "method": "animate"} for k in range(len(shown))]
    hidden = {"visible": False}
    figure.update_layout(
        scene={"xaxis": hidden, "yaxis": hidden, "zaxis": hidden, "aspectmode": "data"},
        sliders=[{"steps": steps, "currentvalue": {"prefix": "frame "}}],
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
    )
    what = "Images of the path" if story.task == "neb" and story.result else "Atoms along the run"
    return [panel("atoms", what, figure, 520)]


def _balls(structure: Atoms) -> go.Scatter3d:
    x, y, z = np.round(structure.positions, 3).T
    colours = ["#{:02x}{:02x}{:02x}".format(*(int(255 * c) for c in jmol_colors[k])) for k in structure.numbers]
    return go.Scatter3d(
        x=x, y=y, z=z, mode="markers",
        marker={"size": [14 * covalent_radii[k] for k in structure.numbers], "color": colours, "opacity": 1.0},
        text=[plain(f"{chemical_symbols[k]} {i}") for i, k in enumerate(structure.numbers)],
        hovertemplate="%{text}<extra></extra>", showlegend=False,
    )  # fmt: skip
