"""Geometry shared by the scripts of cu-formate-mini."""

from __future__ import annotations

import numpy as np
from ase import Atoms

LATTICE_CONSTANT = 3.69  # A, bulk Cu at RPBE/LCAO(dzp): see checks.py bulk
CELL_HEIGHT = 18.4  # A
SLAB_BOTTOM = 5.0  # A, height of the bottom layer in the cell
TOP_MARGIN = 3.5  # A, smallest distance of an atom to the upper end of the cell
BOTTOM_MARGIN = 4.5  # A, the same at the lower end
SHORTEST = 0.75  # A, no two atoms closer than this
D_INTACT, D_DISSOCIATED = 1.35, 1.9  # A, bounds of the C-H distance between the config types


def ch_distance(atoms: Atoms) -> float:
    """Distance from the carbon to the hydrogen under periodic images in A; 0 without them."""
    carbon, hydrogen = atoms.symbols.search("C"), atoms.symbols.search("H")
    if len(carbon) == 0 or len(hydrogen) == 0:
        return 0.0
    return float(atoms.get_distance(carbon[0], hydrogen[0], mic=True))


def config_type(atoms: Atoms) -> str:
    """Name the structure after its C-H distance."""
    distance = ch_distance(atoms)
    if distance == 0.0:
        return "clean"
    if distance < D_INTACT:
        return "intact"
    return "stretched" if distance < D_DISSOCIATED else "dissociated"


def top_layer_height(atoms: Atoms) -> float:
    """Height of the top copper layer in A: the mean of the third of the copper that is highest."""
    heights = np.sort(atoms.positions[atoms.symbols.search("Cu"), 2])
    return float(heights[-(len(heights) // 3) :].mean())


def is_sane(atoms: Atoms) -> str:
    """Reason to drop a structure, or an empty string.

    A structure is kept if no two atoms overlap, all are inside the cell with
    room for their orbitals, and carbon still has its two oxygens.
    """
    distances = atoms.get_all_distances(mic=True)
    shortest = float(distances[np.triu_indices(len(atoms), 1)].min())
    if shortest < SHORTEST:
        return f"two atoms {shortest:.2f} A apart"
    heights = atoms.positions[:, 2]
    if heights.max() > atoms.cell[2, 2] - TOP_MARGIN or heights.min() < BOTTOM_MARGIN:
        return f"heights from {heights.min():.2f} to {heights.max():.2f} A"
    carbon, oxygen = atoms.symbols.search("C"), atoms.symbols.search("O")
    if len(carbon) and distances[carbon[0], oxygen].max() > 1.6:
        return f"C-O distance {distances[carbon[0], oxygen].max():.2f} A"
    return ""
