"""Sample the candidate structures of cu-formate-mini with SevenNet-0.

Langevin dynamics of formate on Cu(111) and of its dehydrogenation products,
one extxyz file of candidates per trajectory. A trajectory whose file exists
is skipped, so the script can be stopped and started again. Nothing here is a
DFT label: ``label.py`` makes those.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ase import Atoms, units
from ase.build import fcc111
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixAtoms
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.optimize import FIRE
from geometry import (
    CELL_HEIGHT,
    LATTICE_CONSTANT,
    SLAB_BOTTOM,
    ch_distance,
    config_type,
    is_sane,
    top_layer_height,
)
from sevenn.calculator import SevenNetCalculator

TIME_STEP = 2.0  # fs
HYDROGEN_MASS = 4.0  # amu: slower hydrogen, same distribution of structures, longer time step
FRICTION = 0.02  # 1/fs
BIAS_SPRING = 25.0  # eV/A^2, on the C-H distance
WALL_SPRING = 2.0  # eV/A^2, on atoms above the wall
WALL_HEIGHT = 4.0  # A above the top layer
H_HEIGHT_SPRING = 4.0  # eV/A^2, on the height of a hydrogen that has left
H_HEIGHT = 1.2  # A above the top layer
D_BOUND, D_FREE = 1.1, 2.6  # A, ends of a steered run


@dataclass(frozen=True)
class Plan:
    """One trajectory.

    Attributes:
        name: Trajectory id, also the file name.
        part: Part of the data set ("D1", "D2", "D3" or "clean").
        size: Repeats of the surface cell along both directions.
        start: Key of ``STARTS``.
        temperature: Thermostat temperature in K.
        samples: Number of structures to keep.
        interval: Steps of ``TIME_STEP`` between two of them.
        equilibration: Steps before the first.
        steer: First and last centre of the bias on the C-H distance in A, or None.
    """

    name: str
    part: str
    size: int
    start: str
    temperature: float
    samples: int
    interval: int
    equilibration: int = 150
    steer: tuple[float, float] | None = None

    @property
    def seed(self) -> int:
        """Seed made from the name, so that it does not depend on the order of the plans."""
        return zlib.crc32(self.name.encode()) % 2**31


class BiasedCalculator(Calculator):
    """SevenNet-0 plus the biases that steer the dehydrogenation.

    Args:
        base: Calculator that gives the unbiased energy and forces.
        top: Height of the undisturbed top layer in A.
    """

    implemented_properties = ("energy", "forces")

    def __init__(self, base: Calculator, top: float) -> None:
        super().__init__()
        self.base = base
        self.top = top
        self.centre: float | None = None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate the base calculator and add the biases."""
        super().calculate(atoms, properties, system_changes)
        energy = self.base.get_potential_energy(atoms)
        forces = self.base.get_forces(atoms).copy()
        over = np.maximum(atoms.positions[:, 2] - self.top - WALL_HEIGHT, 0.0)
        energy += 0.5 * WALL_SPRING * np.sum(over**2)
        forces[:, 2] -= WALL_SPRING * over
        if self.centre is not None:
            energy += self._steer(atoms, forces)
        self.results = {"energy": float(energy), "forces": forces}

    def _steer(self, atoms: Atoms, forces: np.ndarray) -> float:
        """Add the bias on the C-H distance and on the hydrogen height; return its energy."""
        carbon = atoms.symbols.search("C")[0]
        hydrogen = atoms.symbols.search("H")[0]
        vector = atoms.get_distance(carbon, hydrogen, mic=True, vector=True)
        length = float(np.linalg.norm(vector))
        stretch = length - self.centre
        pull = BIAS_SPRING * stretch * vector / length
        forces[carbon] += pull
        forces[hydrogen] -= pull
        weight = np.clip((self.centre - D_BOUND) / 0.5, 0.0, 1.0)
        lift = atoms.positions[hydrogen, 2] - self.top - H_HEIGHT
        forces[hydrogen, 2] -= weight * H_HEIGHT_SPRING * lift
        return 0.5 * BIAS_SPRING * stretch**2 + 0.5 * weight * H_HEIGHT_SPRING * lift**2


def clean_slab(size: int) -> Atoms:
    """Three-layer Cu(111) slab at the bulk lattice constant, non-periodic along z."""
    slab = fcc111("Cu", (size, size, 3), a=LATTICE_CONSTANT, vacuum=1.0)
    slab.set_cell([slab.cell[0], slab.cell[1], [0.0, 0.0, CELL_HEIGHT]])
    slab.positions[:, 2] += SLAB_BOTTOM - slab.positions[:, 2].min()
    slab.pbc = (True, True, False)
    return slab


def surface_frame(slab: Atoms, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Origin (a top atom), unit vector to one of its six neighbours, and the normal to it in the plane."""
    top = [atom.index for atom in slab if atom.tag == 1]
    origin = slab.positions[rng.choice(top)]
    angle = np.pi / 3 * rng.integers(6)
    along = np.array([np.cos(angle), np.sin(angle), 0.0])
    return origin, along, np.array([-along[1], along[0], 0.0])


def bidentate(slab: Atoms, rng: np.random.Generator) -> Atoms:
    """Upright formate, both oxygens near top sites, with a random shift and rotation."""
    origin, along, across = surface_frame(slab, rng)
    half = LATTICE_CONSTANT / np.sqrt(8.0)
    shift = rng.normal(0.0, 0.15, 2)
    turn = rng.normal(0.0, 0.3)
    axis = np.cos(turn) * along + np.sin(turn) * across
    centre = origin + half * along + shift[0] * along + shift[1] * across
    up = np.array([0.0, 0.0, 1.0])
    return Atoms(
        "CO2H",
        [centre + 2.55 * up, centre - 1.13 * axis + 2.0 * up, centre + 1.13 * axis + 2.0 * up, centre + 3.66 * up],
    )


def hydrogen_down(slab: Atoms, rng: np.random.Generator) -> Atoms:
    """Formate lying over the surface with its hydrogen towards a bridge site."""
    origin, along, across = surface_frame(slab, rng)
    up = np.array([0.0, 0.0, 1.0])
    carbon = origin + rng.normal(0.0, 0.15) * across + 0.9 * along + 2.45 * up
    return Atoms(
        "CO2H",
        [
            carbon,
            carbon - 0.9 * along - 0.1 * across - 0.45 * up + 0.6 * across,
            carbon + 0.15 * along + 0.2 * across + 1.2 * up,
            carbon + 0.75 * along - 0.35 * across - 0.7 * up,
        ],
    )


def dissociated(slab: Atoms, rng: np.random.Generator) -> Atoms:
    """Carbon dioxide about 3 A above the surface and a hydrogen in a hollow site."""
    origin, along, across = surface_frame(slab, rng)
    nearest = LATTICE_CONSTANT / np.sqrt(2.0)
    hollow = origin + 0.5 * nearest * along + nearest / np.sqrt(12.0) * across
    turn = rng.uniform(0.0, np.pi)
    axis = np.cos(turn) * along + np.sin(turn) * across
    up = np.array([0.0, 0.0, 1.0])
    carbon = hollow + 1.9 * along + rng.normal(0.0, 0.3) * across + 2.9 * up
    return Atoms("CO2H", [carbon, carbon - 1.17 * axis, carbon + 1.17 * axis, hollow + 1.0 * up])


STARTS = {"bidentate": bidentate, "hydrogen_down": hydrogen_down, "dissociated": dissociated}


def build(plan: Plan, rng: np.random.Generator) -> Atoms:
    """Starting structure of a trajectory, with the bottom layer fixed."""
    atoms = clean_slab(plan.size)
    if plan.start in STARTS:
        atoms += STARTS[plan.start](atoms, rng)
    atoms.set_masses(np.where(atoms.symbols == "H", HYDROGEN_MASS, atoms.get_masses()))
    atoms.set_constraint(FixAtoms(indices=[atom.index for atom in atoms if atom.tag == 3]))
    return atoms


def described(atoms: Atoms, plan: Plan, suffix: str, temperature: float, displacement: float) -> Atoms:
    """Copy of a structure without constraints, rounded, with its info."""
    copy = Atoms(atoms.symbols, atoms.positions, cell=np.round(atoms.cell.array, 6), pbc=atoms.pbc)
    copy.wrap()
    copy.positions = np.round(copy.positions, 6)
    copy.info = {
        "uid": f"{plan.name}-{suffix}",
        "part": plan.part,
        "config_type": config_type(copy),
        "d_CH": round(ch_distance(copy), 4),
        "temperature": temperature,
        "trajectory": plan.name,
        "seed": plan.seed,
        "displacement": displacement,
    }
    return copy


def candidate(atoms: Atoms, plan: Plan, index: int, rng: np.random.Generator) -> Atoms:
    """Copy of a snapshot with small random displacements of all atoms."""
    width = round(rng.uniform(0.01, 0.03), 4)
    copy = atoms.copy()
    copy.set_constraint()
    copy.positions += rng.normal(0.0, width, copy.positions.shape)
    return described(copy, plan, f"{index:03d}", plan.temperature, width)


def run(plan: Plan, base: Calculator) -> list[Atoms]:
    """Run one trajectory and return its sane candidates."""
    rng = np.random.default_rng(plan.seed)
    atoms = build(plan, rng)
    calculator = BiasedCalculator(base, top_layer_height(atoms))
    calculator.centre = plan.steer[0] if plan.steer else None
    atoms.calc = calculator
    FIRE(atoms, logfile=None).run(fmax=0.1, steps=60)
    MaxwellBoltzmannDistribution(atoms, temperature_K=plan.temperature, rng=rng)
    step, friction = TIME_STEP * units.fs, FRICTION / units.fs
    dynamics = Langevin(atoms, step, temperature_K=plan.temperature, friction=friction, rng=rng)
    dynamics.run(plan.equilibration)
    kept = []
    for index in range(plan.samples):
        for step in range(plan.interval):
            if plan.steer:
                progress = (index + step / plan.interval) / plan.samples
                calculator.centre = plan.steer[0] + progress * (plan.steer[1] - plan.steer[0])
            dynamics.run(1)
        structure = candidate(atoms, plan, index, rng)
        reason = is_sane(structure)
        if reason:
            print(f"{structure.info['uid']} dropped: {reason}", flush=True)
        else:
            kept.append(structure)
    return kept


def plans() -> Iterator[Plan]:
    """All trajectories, parts alternating so that the first files already cover everything."""
    for size in (2, 3):
        yield Plan(f"clean-{size}x{size}", "clean", size, "none", 400.0, 2, 50)
    temperatures = (300.0, 400.0, 500.0)
    for number in range(12):
        warm = temperatures[number % 3]
        yield Plan(f"d1-{number:02d}", "D1", 2, "bidentate", warm, 11, 50)
        if number % 4 == 3:
            yield Plan(f"d2-free-{number:02d}", "D2", 2, "dissociated", warm, 9, 50)
        elif number % 4 == 2:
            yield Plan(f"d2-back-{number:02d}", "D2", 2, "dissociated", warm, 12, 35, steer=(D_FREE, D_BOUND))
        else:
            yield Plan(f"d2-out-{number:02d}", "D2", 2, "hydrogen_down", warm, 12, 35, steer=(D_BOUND, D_FREE))
        if number % 3 == 0:
            yield Plan(f"d3-intact-{number:02d}", "D3", 3, "bidentate", temperatures[(number // 3) % 3], 5, 50)
        elif number % 3 == 1:
            yield Plan(f"d3-out-{number:02d}", "D3", 3, "hydrogen_down", warm, 5, 60, 100, steer=(1.3, D_FREE))


def ideal_candidate(plan: Plan) -> Atoms:
    """The undisplaced bulk-terminated slab of a plan."""
    slab = clean_slab(plan.size)
    return described(slab, plan, "ideal", temperature=0.0, displacement=0.0)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the candidate files")
    parser.add_argument("--only", default="", help="run only trajectories whose name begins like this")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (default 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    base = SevenNetCalculator("7net-0", device="cpu")
    for plan in plans():
        target = arguments.out / f"{plan.name}.xyz"
        if target.exists() or not plan.name.startswith(arguments.only):
            continue
        structures = run(plan, base)
        if plan.part == "clean":
            structures.insert(0, ideal_candidate(plan))
        temporary = target.with_suffix(".tmp")
        write(temporary, structures, format="extxyz")
        temporary.rename(target)
        distances = " ".join(f"{structure.info['d_CH']:.2f}" for structure in structures)
        print(f"{plan.name}: {len(structures)} structures, d_CH {distances}", flush=True)


if __name__ == "__main__":
    main()
