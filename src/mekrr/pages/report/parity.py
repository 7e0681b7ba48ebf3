"""Parity plots: predicted against DFT."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from ase.data import chemical_symbols

from mekrr.evaluation import Evaluation
from mekrr.pages.figures import (
    BACKBONE,
    GROUPS,
    POTENTIAL,
    SEQUENTIAL,
    Panel,
    colour_bar,
    diagonal,
    panel,
    plain,
    points,
    span,
    square,
    thinned,
)
from mekrr.pages.words import number, short_names

MOST_POINTS = 10_000
MOST_GROUPS = 12  # told apart by colour
MOST_ELEMENTS = 12
BINS = 100
SHOWN_SHARE = 0.999


def energy_parity(evaluation: Evaluation) -> list[Panel]:
    """Predicted against DFT energies relative to the composition fit; backbone with shifts beside, on equal axes."""
    n, reference = evaluation.n_atoms, evaluation.composition_energies
    hover = [plain(name) for name in labels(evaluation)]
    series = [("This potential", "energy-parity", evaluation.predicted_energies, POTENTIAL)]
    if evaluation.backbone_energies is not None:
        series.append(("Backbone with shifts", "energy-parity-backbone", evaluation.backbone_energies, BACKBONE))
    x = 1000 * (evaluation.energies - reference) / n
    all_y = [1000 * (energies - reference) / n for _, _, energies, _ in series]
    low, high = span(x, *all_y)
    axes = square(low, high, "DFT, meV/atom", "predicted, meV/atom")
    return [
        panel(name, heading, go.Figure([diagonal(low, high), *_clouds(evaluation, x, y, colour, hover)], axes), 400)
        for (heading, name, _, colour), y in zip(series, all_y, strict=True)
    ]


def _clouds(
    evaluation: Evaluation, x: np.ndarray, y: np.ndarray, colour: str, hover: Sequence[str]
) -> list[go.Scatter]:
    """The points, in a colour for each group where errors are listed by one."""
    groups = evaluation.group_names()
    names = sorted(set(groups))
    if len(names) < 2 or len(names) > MOST_GROUPS:
        return [points(x, y, colour, 6, hover)]
    clouds = []
    for k, name in enumerate(names):
        mine = [t for t, group in enumerate(groups) if group == name]
        cloud = points(x[mine], y[mine], GROUPS[k % len(GROUPS)], 6, [hover[t] for t in mine])
        clouds.append(cloud.update(name=plain(name), showlegend=True))
    return clouds


def labels(evaluation: Evaluation) -> list[str]:
    """A name for each structure: file, index, formula."""
    names = short_names(s.source for s in evaluation.structures)
    return [
        f"{names.get(s.source, 'structure')}, index {s.index}, {s.atoms.get_chemical_formula()}"
        for s in evaluation.structures
    ]


@dataclass(frozen=True, eq=False)
class ForceComponents:
    """All labelled force components, eV/Angstrom.

    Attributes:
        dft: labels.
        predicted: by the potential.
        backbone: by the backbone itself; None where it has none.
        species: atomic number of the atom each belongs to.
    """

    dft: np.ndarray
    predicted: np.ndarray
    backbone: np.ndarray | None
    species: np.ndarray

    @staticmethod
    def of(evaluation: Evaluation) -> "ForceComponents | None":
        """None where no structure has both labels and predictions."""
        pairs = [
            (s, p)
            for s, p in zip(evaluation.structures, evaluation.predictions, strict=True)
            if s.forces is not None and p.forces is not None
        ]
        if not pairs:
            return None
        own = [p.backbone_forces for _, p in pairs if p.backbone_forces is not None]
        return ForceComponents(
            _flat([s.forces for s, _ in pairs if s.forces is not None]),
            _flat([p.forces for _, p in pairs if p.forces is not None]),
            _flat(own) if len(own) == len(pairs) else None,
            np.repeat(np.concatenate([s.species for s, _ in pairs]), 3),
        )

    def of_element(self, z: int) -> "ForceComponents":
        """Those of one element's atoms."""
        mine = self.species == z
        own = None if self.backbone is None else self.backbone[mine]
        return ForceComponents(self.dft[mine], self.predicted[mine], own, self.species[mine])

    @property
    def elements(self) -> list[int]:
        """Atomic numbers, ascending."""
        return [int(z) for z in np.unique(self.species)]

    @property
    def errors(self) -> np.ndarray:
        """Predicted minus DFT, meV/Angstrom."""
        return 1000 * (self.predicted - self.dft)

    @property
    def backbone_errors(self) -> np.ndarray | None:
        """Of the backbone itself, meV/Angstrom."""
        return None if self.backbone is None else 1000 * (self.backbone - self.dft)


def _flat(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays])


@dataclass(frozen=True)
class ForceDensity:
    """Density panels with the range they show.

    Attributes:
        panels: of the potential and, where it has forces, the backbone.
        limit: eV/Angstrom, the largest component shown.
        n_beyond: components that lie outside.
    """

    panels: list[Panel]
    limit: float
    n_beyond: int


def force_density(forces: ForceComponents) -> ForceDensity:
    """All force components as counts on a grid, so that nothing is thinned."""
    series = [("This potential", "force-density", forces.predicted)]
    if forces.backbone is not None:
        series.append(("Backbone", "force-density-backbone", forces.backbone))
    largest = np.maximum.reduce([np.abs(forces.dft), *(np.abs(values) for _, _, values in series)])
    limit = float(np.quantile(largest, SHOWN_SHARE)) * 1.02 or 1.0
    panels = [panel(name, heading, _density(forces.dft, values, limit)) for heading, name, values in series]
    return ForceDensity(panels, limit, int((largest > limit).sum()))


def _density(x: np.ndarray, y: np.ndarray, limit: float) -> go.Figure:
    counts, edges, _ = np.histogram2d(x, y, bins=BINS, range=[[-limit, limit]] * 2)
    centres = (edges[:-1] + edges[1:]) / 2
    logs = np.where(counts > 0, np.log10(np.maximum(counts, 1)), np.nan).T
    tens = np.arange(int(np.nanmax(logs)) + 1 if np.isfinite(logs).any() else 1)
    heat = go.Heatmap(
        x=centres, y=centres, z=logs.astype(np.float32), colorscale=SEQUENTIAL, customdata=counts.T.astype(np.int32),
        hovertemplate="DFT %{x:.2f}, predicted %{y:.2f}: %{customdata} components<extra></extra>",
        colorbar=colour_bar("components per cell", tickvals=tens, ticktext=[f"{10**int(t):,}" for t in tens]),
    )  # fmt: skip
    axes = square(-limit, limit, "DFT, eV/Å", "predicted, eV/Å")
    return go.Figure([heat, diagonal(-limit, limit)], axes)


def force_by_element(forces: ForceComponents, most: int = MOST_POINTS) -> list[Panel]:
    """One scatter an element, thinned to `most` points together; the most frequent elements first."""
    elements = sorted(forces.elements, key=lambda z: -int((forces.species == z).sum()))[:MOST_ELEMENTS]
    return [_element_panel(forces.of_element(z), z, max(1, most // len(elements))) for z in elements]


def _element_panel(forces: ForceComponents, z: int, most: int) -> Panel:
    chosen = thinned(len(forces.dft), most)
    low, high = span(forces.dft, forces.predicted)
    cloud = points(forces.dft[chosen], forces.predicted[chosen], POTENTIAL, 4, opacity=0.35)
    figure = go.Figure([diagonal(low, high), cloud], square(low, high, "DFT, eV/Å", "predicted, eV/Å"))
    symbol = chemical_symbols[z]
    rmse = float(np.sqrt(np.mean(forces.errors**2)))
    return panel(f"force-parity-{symbol}", f"{symbol}: RMSE {number(rmse)} meV/Å", figure, 300)
