"""Level of theory of cu-formate-mini: one function that makes the GPAW calculator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fast_grid
import fast_radial
import gpaw.lfc
import gpaw.xc.gga
from ase import Atoms
from gpaw import GPAW

GRID_PER_REPEAT = 12  # grid points along each repeat of the surface cell
GRID_HEIGHT = 96  # grid points along z
KPOINTS = {2: 3, 3: 2}  # Gamma-centred mesh along both directions, by repeats
SMEARING = 0.1  # eV, Fermi-Dirac
CONVERGENCE = {"energy": 1e-5, "density": 2e-5, "maximum iterations": 80}


def repeats(atoms: Atoms) -> int:
    """Repeats of the surface cell: 2 or 3, from the number of copper atoms in three layers."""
    return {12: 2, 27: 3}[len(atoms.symbols.search("Cu"))]


def settings(atoms: Atoms, **changes: Any) -> dict[str, Any]:
    """Arguments of the GPAW calculator for a structure.

    Args:
        atoms: Structure of one of the two cells.
        **changes: Arguments to change, for convergence checks.

    Returns:
        Keyword arguments of ``gpaw.GPAW``.
    """
    size = repeats(atoms)
    points = GRID_PER_REPEAT * size
    arguments: dict[str, Any] = {
        "mode": "lcao",
        "basis": "dzp",
        "xc": "RPBE",
        "gpts": (points, points, GRID_HEIGHT),
        "kpts": {"size": (KPOINTS[size], KPOINTS[size], 1), "gamma": True},
        "occupations": {"name": "fermi-dirac", "width": SMEARING},
        "symmetry": {"point_group": False},
        "poissonsolver": {"dipolelayer": "xy"},
        "convergence": dict(CONVERGENCE),
    }
    arguments.update(changes)
    return arguments


def settings_bulk() -> dict[str, Any]:
    """Arguments for one primitive cell of bulk copper, with denser k-points than the slabs."""
    return {
        "mode": "lcao",
        "basis": "dzp",
        "xc": "RPBE",
        "gpts": (16, 16, 16),
        "kpts": {"size": (10, 10, 10), "gamma": True},
        "occupations": {"name": "fermi-dirac", "width": SMEARING},
        "symmetry": {"point_group": False},
    }


def calculator(atoms: Atoms, log: Path | None = None, **changes: Any) -> GPAW:
    """GPAW calculator at the level of theory of the data set, nothing reused from other structures."""
    return GPAW(txt=None if log is None else str(log), **settings(atoms, **changes))


def use_fast_sums() -> None:
    """Use the faster sums over the grid and the atomic spheres in this process."""
    fast_grid.install(gpaw.lfc)
    fast_radial.install(gpaw.xc.gga)
