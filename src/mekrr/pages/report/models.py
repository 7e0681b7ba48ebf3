"""The worst structures in three dimensions."""

from itertools import product

import numpy as np
import plotly.graph_objects as go
from ase.data import covalent_radii
from ase.data.colors import jmol_colors

from mekrr.evaluation import Evaluation
from mekrr.pages.figures import SEQUENTIAL, Panel, colour_bar, panel, plain
from mekrr.pages.report.parity import labels

DRAWN = 3  # by energy, and by forces
MOST_ATOMS = 2000  # of a structure that is drawn
HEIGHT = 340
SIZE = 11.0  # of a marker, points per Angstrom of covalent radius
HIDDEN = {"visible": False, "showspikes": False}


def worst_panels(evaluation: Evaluation) -> list[Panel]:
    """Structures with the largest energy errors, then those with the largest force errors that are not among them."""
    energies = np.abs(evaluation.energy_errors)
    forces = np.array([_rms(_atom_errors(evaluation, t)) for t in range(len(energies))])
    by_energy = [int(t) for t in (-energies).argsort(kind="stable")[:DRAWN]]
    by_forces = [int(t) for t in (-forces).argsort(kind="stable")[:DRAWN] if forces[t] > 0]
    names = labels(evaluation)
    chosen = [t for t in dict.fromkeys([*by_energy, *by_forces]) if len(evaluation.structures[t]) <= MOST_ATOMS]
    return [panel(f"worst-{t}", _heading(evaluation, t, names[t]), _model(evaluation, t), HEIGHT) for t in chosen]


def _heading(evaluation: Evaluation, t: int, name: str) -> str:
    errors = _atom_errors(evaluation, t)
    forces = "" if errors is None else f", {_rms(errors):.3g} meV/Å"
    return f"{name}: {evaluation.energy_errors[t]:+.3g} meV/atom{forces}"


def _atom_errors(evaluation: Evaluation, t: int) -> np.ndarray | None:
    """Length of each atom's force error, meV/Angstrom; None without labels."""
    label, found = evaluation.structures[t].forces, evaluation.predictions[t].forces
    return None if label is None or found is None else 1000 * np.linalg.norm(found - label, axis=1)


def _rms(errors: np.ndarray | None) -> float:
    """Over components, from lengths."""
    return 0.0 if errors is None else float(np.sqrt(np.mean(errors**2) / 3))


def _model(evaluation: Evaluation, t: int) -> go.Figure:
    atoms = evaluation.structures[t].atoms
    errors = _atom_errors(evaluation, t)
    symbols = atoms.get_chemical_symbols()
    said = [
        "" if errors is None else f", off by {error:.3g} meV/Å" for error in (errors if errors is not None else symbols)
    ]
    marker = {
        "size": SIZE * covalent_radii[atoms.numbers],
        "opacity": 1.0,
        "line": {"color": "#5d6773", "width": 1},
    } | (_by_error(errors) if errors is not None else {"color": _colours(atoms.numbers)})
    cloud = go.Scatter3d(
        x=atoms.positions[:, 0].astype(np.float32),
        y=atoms.positions[:, 1].astype(np.float32),
        z=atoms.positions[:, 2].astype(np.float32),
        mode="markers+text",
        text=[symbol if symbols.count(symbol) <= len(symbols) // 4 else "" for symbol in symbols],
        textfont={"size": 10},
        marker=marker,
        customdata=[plain(f"{s} {i}{words}") for i, (s, words) in enumerate(zip(symbols, said, strict=True))],
        hovertemplate="%{customdata}<extra></extra>",
        showlegend=False,
    )
    scene = {"xaxis": HIDDEN, "yaxis": HIDDEN, "zaxis": HIDDEN, "aspectmode": "data"}
    scene["camera"] = {"projection": {"type": "orthographic"}, "eye": {"x": 1.6, "y": -1.3, "z": 0.5}}
    margin = {"l": 0, "r": 0, "t": 0, "b": 0}
    return go.Figure([cloud, *_cell(atoms.cell.array if atoms.pbc.any() else None)], {"scene": scene, "margin": margin})


def _by_error(errors: np.ndarray) -> dict:
    bar = colour_bar("force error, meV/Å", nticks=5, len=0.8)
    return {"color": errors.astype(np.float32), "colorscale": SEQUENTIAL, "cmin": 0.0, "colorbar": bar}


def _colours(numbers: np.ndarray) -> list[str]:
    return ["rgb(" + ",".join(str(int(255 * part)) for part in jmol_colors[z]) + ")" for z in numbers]


def _cell(cell: np.ndarray | None) -> list[go.Scatter3d]:
    """Its twelve edges as one line with gaps."""
    if cell is None:
        return []
    corners = []
    for axis in range(3):
        for others in product((0, 1), repeat=2):
            start = np.insert(np.array(others, dtype=float), axis, 0.0)
            end = np.insert(np.array(others, dtype=float), axis, 1.0)
            corners += [start @ cell, end @ cell, np.full(3, np.nan)]
    x, y, z = np.array(corners, dtype=np.float32).T
    line = {"color": "#9aa3ad", "width": 2}
    return [go.Scatter3d(x=x, y=y, z=z, mode="lines", line=line, hoverinfo="skip", showlegend=False)]
