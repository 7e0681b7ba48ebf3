"""Seconds a step of a potential exported to metatomic, beside mekrr's calculator and sevenn's own.

Formate on copper, 16 atoms, and repeated to 64; the same moved structures for all, in turn in one process.

python comparison/figures/exported.py MODEL [MODEL ...] [--rounds 9]
"""

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from metatomic_ase import MetatomicCalculator
from sevenn.calculator import SevenNetCalculator

import mekrr
from mekrr.engines.metatomic import export_metatomic

WARM = 4  # TorchScript compiles in the first ones


def calculators(model, folder):
    """By name; of the exported one with and without the deviations of atoms, which its calculator looks at."""
    potential = mekrr.KernelPotential.load(model, device="cpu")
    path = folder / "model.pt"
    began = time.perf_counter()
    export_metatomic(potential, path)
    print(f"{model.name}: {model.stat().st_size / 1e6:.1f} MB, exported {path.stat().st_size / 1e6:.1f} MB "
          f"in {time.perf_counter() - began:.0f} s", flush=True)  # fmt: skip
    return {
        "mekrr": mekrr.Calculator(potential),
        "mekrr, deviation": mekrr.Calculator(potential, uncertainty=True),
        "exported": MetatomicCalculator(path, device="cpu", uncertainty_threshold=None),
        "exported, deviations": MetatomicCalculator(path, device="cpu", uncertainty_threshold=1e3),
        "sevenn": SevenNetCalculator("7net-0", device="cpu"),
    }


def times(found, atoms, rounds):
    """Seconds of a step with energy, forces and stress, and the largest difference of exported forces from ours."""
    seconds, forces = {name: [] for name in found}, {}
    for turn in range(-WARM, rounds):
        atoms = atoms.copy()
        atoms.rattle(0.002, seed=turn + WARM)
        for name, calculator in found.items():
            single = atoms.copy()
            single.calc = calculator
            began = time.perf_counter()
            single.get_potential_energy()
            forces[name] = single.get_forces()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - began)
    return {name: np.median(t) for name, t in seconds.items()}, abs(forces["exported"] - forces["mekrr"]).max()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    small = mekrr.load_dataset("cu-formate-mini")[20].atoms
    for model in given.models:
        with tempfile.TemporaryDirectory() as folder:
            found = calculators(model, Path(folder))
            for atoms in (small, small.repeat((2, 2, 1))):
                medians, difference = times(found, atoms, given.rounds)
                listed = ", ".join(f"{name} {1000 * t:.0f}" for name, t in medians.items())
                print(f"{len(atoms)} atoms, ms: {listed}; forces differ by {difference:.1e} eV/A", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
