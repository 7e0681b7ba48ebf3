"""Checks of the labels of cu-formate-mini; the figures go into the data card.

``bulk``: lattice constant of copper at this level of theory.
``kernel``: the faster sums against GPAW's own.
``numerics``: SCF convergence, grid, k-points and basis, on an intact and a dissociated structure.
``forces``: forces against central differences of the free energy.
``cells``: energy per copper atom of the clean slabs of both cells.
``data``: what is in the assembled files.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dft
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.eos import EquationOfState
from ase.io import read

INTACT, DISSOCIATED = "d1-00-000", "d2-out-00-011"  # the two structures most checks use
FINITE_STEP = 0.01  # A
COMPONENTS = ((15, 2), (12, 0), (13, 2), (14, 1), (9, 2), (1, 0))  # atom, axis: H, C, two O, top and bottom copper
FEW = 2  # components of the second structure


def evaluate(atoms: Atoms, **changes: Any) -> tuple[float, np.ndarray, float]:
    """Free energy, forces and seconds of a structure with changed settings."""
    copy = atoms.copy()
    began = time.time()
    copy.calc = dft.calculator(copy, **changes)
    energy = copy.get_potential_energy(force_consistent=True)
    return energy, copy.get_forces(), time.time() - began


def chosen(folder: Path) -> tuple[Atoms, Atoms]:
    """Two structures of the small cell: one intact, one dissociated."""
    found = {}
    for part in ("d1", "d2"):
        found |= {atoms.info["uid"]: atoms for atoms in read(folder / f"cu-formate-mini-{part}.extxyz.gz", ":")}
    return found[INTACT], found[DISSOCIATED]


def variants() -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and changed settings of the numerics check, the reference first."""
    yield "as labelled", {}
    yield "density 1e-7", {"convergence": {"energy": 1e-7, "density": 1e-7}}
    yield "grid 32x32x128", {"gpts": (32, 32, 128)}
    yield "k-points 4x4", {"kpts": {"size": (4, 4, 1), "gamma": True}}
    yield "k-points 6x6", {"kpts": {"size": (6, 6, 1), "gamma": True}}
    yield "smearing 0.05 eV", {"occupations": {"name": "fermi-dirac", "width": 0.05}}


def check_bulk(_: Path) -> None:
    """Equation of state of bulk copper."""
    dft.use_fast_sums()
    constants = np.linspace(3.60, 3.76, 5)
    volumes, energies = [], []
    for constant in constants:
        atoms = bulk("Cu", "fcc", a=constant)
        atoms.calc = dft.GPAW(txt=None, **dft.settings_bulk())
        volumes.append(atoms.get_volume())
        energies.append(atoms.get_potential_energy(force_consistent=True))
    volume, _, modulus = EquationOfState(volumes, energies).fit()
    print(f"lattice constant {(4 * volume) ** (1 / 3):.3f} A, bulk modulus {modulus * 160.218:.0f} GPa")


def check_kernel(folder: Path) -> None:
    """One structure with GPAW's own sums, then with ours."""
    atoms = chosen(folder)[0]
    energy, forces, seconds = evaluate(atoms)
    dft.use_fast_sums()
    fast_energy, fast_forces, fast_seconds = evaluate(atoms)
    change = np.abs(fast_forces - forces).max()
    print(f"energy differs by {abs(fast_energy - energy):.1e} eV, forces by {change:.1e} eV/A")
    print(f"seconds {seconds:.1f} against {fast_seconds:.1f}")


def check_numerics(folder: Path) -> None:
    """Change of the forces and of the energy difference of two structures."""
    dft.use_fast_sums()
    intact, dissociated = chosen(folder)
    print(f"structures {intact.info['uid']} and {dissociated.info['uid']}")
    print("setting; energy difference eV; its change meV; largest and rms change of a force component eV/A; seconds")
    reference: tuple[float, list[np.ndarray]] | None = None
    for name, changes in variants():
        results = [evaluate(atoms, **changes) for atoms in (intact, dissociated)]
        gap, forces = results[1][0] - results[0][0], [result[1] for result in results]
        reference = reference or (gap, forces)
        change = np.concatenate([one - two for one, two in zip(forces, reference[1], strict=True)])
        print(
            f"{name}; {gap:.4f}; {1000 * (gap - reference[0]):+.1f}; {np.abs(change).max():.4f} "
            f"{np.sqrt((change**2).mean()):.4f}; {sum(result[2] for result in results):.0f}",
            flush=True,
        )


def check_forces(folder: Path) -> None:
    """Central differences of the free energy for a few components."""
    dft.use_fast_sums()
    tight = {"convergence": {"energy": 1e-7, "density": 1e-7}}
    for atoms, components in zip(chosen(folder), (COMPONENTS, COMPONENTS[:FEW]), strict=True):
        forces = evaluate(atoms, **tight)[1]
        print(f"structure {atoms.info['uid']}: atom, axis, force, finite difference, difference (eV/A)")
        for atom, axis in components:
            energies = []
            for sign in (1.0, -1.0):
                moved = atoms.copy()
                moved.positions[atom, axis] += sign * FINITE_STEP
                energies.append(evaluate(moved, **tight)[0])
            slope = -(energies[0] - energies[1]) / (2.0 * FINITE_STEP)
            force = forces[atom, axis]
            print(f"{atoms.symbols[atom]}{atom} {'xyz'[axis]} {force:.4f} {slope:.4f} {force - slope:+.4f}", flush=True)


def check_cells(folder: Path) -> None:
    """Energy per copper atom of the ideal slabs."""
    for atoms in read(folder / "cu-formate-mini-clean.extxyz.gz", ":"):
        if atoms.info["uid"].endswith("ideal"):
            print(f"{atoms.info['uid']}: {atoms.get_potential_energy() / len(atoms):.5f} eV per atom")


def check_data(folder: Path) -> None:
    """Counts, ranges and net forces of the assembled files."""
    for path in sorted(folder.glob("cu-formate-mini-*.extxyz.gz")):
        structures = read(path, ":")
        distances = np.array([atoms.info["d_CH"] for atoms in structures])
        forces = [atoms.get_forces() for atoms in structures]
        energies = [atoms.get_potential_energy() for atoms in structures]
        net = np.abs([force.sum(axis=0) for force in forces])
        largest = max(np.linalg.norm(force, axis=1).max() for force in forces)
        counts = np.histogram(distances, bins=(0, 0.5, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.4, 2.6, 3.0, 9.0))[0]
        print(f"{path.name}: {len(structures)} structures, {path.stat().st_size / 1000:.1f} kB")
        print(f"  energies {min(energies):.3f} to {max(energies):.3f} eV, std {np.std(energies):.3f} eV")
        rms = np.sqrt((net**2).mean())
        print(f"  largest force {largest:.2f} eV/A, net force component: largest {net.max():.2f}, rms {rms:.2f} eV/A")
        print(f"  d_CH histogram {json.dumps(counts.tolist())}")


CHECKS = {
    "bulk": check_bulk,
    "kernel": check_kernel,
    "numerics": check_numerics,
    "forces": check_forces,
    "cells": check_cells,
    "data": check_data,
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("check", choices=CHECKS)
    parser.add_argument("--data", type=Path, default=Path("src/mekrr/data/embedded"), help="folder of the data files")
    arguments = parser.parse_args()
    CHECKS[arguments.check](arguments.data)


if __name__ == "__main__":
    main()
