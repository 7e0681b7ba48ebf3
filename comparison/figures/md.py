"""Molecular dynamics: drift of the energy, and the time of a step against the backbone's own.

52 atoms of cu_formate, a potential fitted to frames of cu_formate/systematic. Times are of the same moving atoms, taken
in turn in one process: our calculator (energy, forces, stress, deviation), our own reverse pass through the backbone
alone on the same skinned neighbour list, and sevenn's calculator.

python comparison/figures/md.py [--structures 60] [--steps 2000] [--rounds 30] [--model MODEL] [--tangent-share S]
"""

import argparse
import os
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from ase import units
from ase.md.verlet import VelocityVerlet
from sevenn.calculator import SevenNetCalculator

import mekrr
from mekrr.backbones.derivatives import energy_forces_stress
from mekrr.calculators import DEFAULT_SKIN
from mekrr.data import read_structures
from mekrr.dynamics import Settings, Watch, WatchOptions, draw_velocities, run
from mekrr.graph import SkinnedGraph

DATA = Path(os.environ.get("MEKRR_DATA", Path(__file__).parents[3] / "shared" / "data"))
SOURCE = DATA / "cu_formate" / "systematic.extxyz.gz"
INTACT = (0, 1, 4)
LARGEST_FORCE = 10.0  # eV/Angstrom; frames beyond are left out


def potential(count, cache, share):
    """Fitted to frames of intact formate drawn at random."""
    usable = [s for s in read_structures(SOURCE) if s.info["segment"] in INTACT and abs(s.forces).max() < LARGEST_FORCE]
    chosen = np.sort(np.random.default_rng(0).permutation(len(usable))[:count])
    return mekrr.KernelPotential(cache=cache, tangent_share=share).fit([usable[i] for i in chosen])


def start():
    """The first frame, with velocities drawn at 300 K."""
    atoms = read_structures(SOURCE, index=0)[0].atoms
    draw_velocities(atoms, 300.0, seed=0)
    return atoms


def step_times(fitted, rounds):
    """Times of one step of each kind, shape (rounds, kinds), on one trajectory; the order turns with the rounds."""
    backbone = fitted.backbone
    skinned = SkinnedGraph(backbone.cutoff, DEFAULT_SKIN)
    own = SevenNetCalculator("7net-0", device="cpu")
    ours = mekrr.Calculator(fitted, uncertainty=True)
    mover = start()
    mover.calc = mekrr.Calculator(fitted)
    dynamics = VelocityVerlet(mover, 0.5 * units.fs)

    def with_calculator(calculator):
        atoms = mover.copy()
        atoms.calc = calculator
        atoms.get_potential_energy()
        atoms.get_forces()

    kinds = {
        "mekrr": lambda: with_calculator(ours),
        "backbone alone": lambda: energy_forces_stress(backbone, skinned.batch(mover).to(backbone.device)),
        "sevenn": lambda: with_calculator(own),
    }
    found = []
    for turn in range(-2, rounds):
        dynamics.run(1)
        times = dict.fromkeys(kinds, 0.0)
        order = list(kinds)
        for name in order[turn % 3 :] + order[: turn % 3]:
            began = time.perf_counter()
            kinds[name]()
            times[name] = time.perf_counter() - began
        if turn >= 0:
            found.append(list(times.values()))
    return np.array(found)


def ratio(times, a, b):
    """Median, and the quartiles."""
    low, middle, high = np.quantile(times[:, a] / times[:, b], [0.25, 0.5, 0.75])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structures", type=int, default=60)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--model", type=Path, help="a fitted model instead of fitting one")
    parser.add_argument("--cache", type=Path, help="folder of features")
    parser.add_argument("--tangent-share", type=lambda text: text if text == "auto" else float(text), default="auto")
    given = parser.parse_args()
    fitted = (
        mekrr.KernelPotential.load(given.model)
        if given.model
        else potential(given.structures, given.cache, given.tangent_share)
    )
    print(f"{torch.get_num_threads()} threads, {fitted.fitted_.record.data.n_structures} training structures")
    times = step_times(fitted, given.rounds)
    medians = ", ".join(f"{1000 * t:.0f}" for t in np.median(times, axis=0))
    print(f"ms a step, mekrr with deviation, backbone alone, sevenn: {medians} (medians of {given.rounds})")
    print(f"mekrr / backbone alone: {ratio(times, 0, 1)}; mekrr / sevenn: {ratio(times, 0, 2)}", flush=True)
    if given.steps:
        atoms = start()
        atoms.calc = mekrr.Calculator(fitted, uncertainty=True)
        watch = Watch(WatchOptions(), fitted.fitted_.record)
        summary = run(atoms, Settings(given.steps), watch=watch)
        for name, value in (summary.as_dict() | watch.as_dict()).items():
            print(f"{name}: {value}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
