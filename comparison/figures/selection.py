"""Learning curves: which structures to label next, by the posterior, at random or by farthest points.

python comparison/figures/selection.py --cache FOLDER [--data FOLDER] [--seeds N] [--methods variance,random,...]

cu_formate/selected without frames that have a force component of 10 eV/A or more (843 left). A third is held out and
tested on. For each seed `--start` frames of the rest are labelled at random; then each method adds `--batch` frames of
its choice at a time, given the potential fitted so far, and the potential is fitted again. Hyperparameters are the same
everywhere, those that `fit` chose for 70 frames of cu_formate/systematic, so that curves differ by the frames alone;
probed forces, without the iteration to exact ones. Force errors are estimates without bias from the test frames' own
probes: the span of their DFT and backbone forces and 8 random directions, instead of 156.
"""

import argparse
import json
import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch

import mekrr
from mekrr.active import METHODS, select
from mekrr.features import FeatureCache, extract, probe

FIXED = {
    "layers": "interaction_1",
    "prior": "composition",
    "length_scale": 45.25,
    "species_weight": 1.0,
    "ridge": 3.16e-6,
    "force_weight": 3.16e-5,
    "inducing": 400,
    "exact_forces": False,
    "probes": 8,
}
MEASURES = ("energy_rmse_mev_per_atom", "energy_mae_mev_per_atom", "forces_rmse_mev_per_angstrom")


def calm(structures, limit=10.0):
    return [s for s in structures if np.abs(s.forces).max() < limit]


class Test:
    """Held-out frames, whose features and probes are computed once."""

    def __init__(self, frames, backbone, cache):
        layers = [FIXED["layers"]]
        self.raw = extract([s.atoms for s in frames], backbone, layers, FeatureCache(cache)).environments
        self.store = probe(frames, backbone, layers, FIXED["probes"], 0, FeatureCache(cache))
        self.energies = torch.tensor([s.energy for s in frames], dtype=torch.float64)

    def __call__(self, fitted):
        """Energy RMSE and MAE in meV/atom, force RMSE in meV/A."""
        counts = self.raw.n_atoms.tolist()
        found = fitted.function(fitted.scaler(self.raw))
        atomic = found.atomic_energies + fitted.prior.shift_energies(self.raw.species)
        predicted = torch.stack([part.sum() for part in atomic.split(counts)])
        errors = 1000 * (self.energies - predicted) / self.raw.n_atoms
        squares = 0.0
        for t, slopes in enumerate((found.slopes / fitted.scaler.scale).split(counts)):
            known = self.store(t)
            along = torch.einsum("raf,af->r", known.features.double(), slopes)
            squares += float((known.dft - along).square().sum())
        forces = 1000 * (squares / (3 * sum(counts))) ** 0.5
        return float(errors.square().mean().sqrt()), float(errors.abs().mean()), forces


def curve(potential, method, seed, labelled, pool, test, arguments):
    """Errors before and after each batch, and seconds spent on selecting."""
    errors, seconds = [test(potential.fit(labelled).fitted_)], 0.0
    labelled, pool = list(labelled), list(pool)
    while len(labelled) < arguments.to:
        started = time.perf_counter()
        found = select(potential, pool, min(arguments.batch, arguments.to - len(labelled)), method, seed)
        seconds += time.perf_counter() - started
        chosen = set(found.indices)
        labelled += found.structures
        pool = [s for i, s in enumerate(pool) if i not in chosen]
        errors.append(test(potential.fit(labelled).fitted_))
        print(f"seed {seed} {method} {len(labelled)}: {np.round(errors[-1], 3)}", file=sys.stderr, flush=True)
    return errors, seconds


def table(curves, methods, column):
    """For each method, mean over seeds at each size, and the mean and deviation of its ratio to random."""
    found = {}
    for method in methods:
        values = np.array([[row[column] for row in seed[method][0]] for seed in curves])
        found[method] = {"mean": values.mean(0).round(3).tolist(), "last_of_seeds": values[:, -1].round(3).tolist()}
        if "random" in methods:
            ratios = values[:, 1:] / np.array([[row[column] for row in seed["random"][0]] for seed in curves])[:, 1:]
            found[method]["ratio_to_random"] = ratios.mean(0).round(3).tolist()
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MEKRR_DATA", "../shared/data")))
    parser.add_argument("--cache", type=Path, required=True, help="folder for features and probes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--start", type=int, default=20)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--to", type=int, default=100)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    methods = arguments.methods.split(",")
    frames = calm(mekrr.read_structures(arguments.data / "cu_formate/selected.extxyz.gz"))
    frames = [frames[i] for i in np.random.default_rng(0).permutation(len(frames))]
    held_out, rest = frames[: len(frames) // 3], frames[len(frames) // 3 :]
    started, curves = time.perf_counter(), []
    potential = mekrr.KernelPotential("sevennet-0", cache=arguments.cache, **FIXED)
    test = Test(held_out, potential.backbone, arguments.cache)
    for seed in range(arguments.seeds):
        order = [rest[i] for i in np.random.default_rng(seed + 1).permutation(len(rest))]
        labelled, pool = order[: arguments.start], order[arguments.start :]
        curves.append({m: curve(potential, m, seed, labelled, pool, test, arguments) for m in methods})
    sizes = [arguments.start, *range(arguments.start + arguments.batch, arguments.to, arguments.batch), arguments.to]
    report = {
        "frames": len(frames),
        "pool": len(rest) - arguments.start,
        "test": len(held_out),
        "seeds": arguments.seeds,
        "sizes": sizes,
        "seconds_selecting": {m: round(float(np.mean([c[m][1] for c in curves])), 2) for m in methods},
        "seconds": round(time.perf_counter() - started, 1),
    }
    report |= {name: table(curves, methods, column) for column, name in enumerate(MEASURES)}
    print(json.dumps(report, indent=1))
