"""The automatic choice of prior and layers beside every fixed one, on held-out structures.

    python benchmarks/choices.py TASK [--data FOLDER] [--cache FOLDER] [--inducing 600]

few, random, mlearn   as in forces.py, probed
mini                  the embedded data: clean, d1 and d2, of each every second structure to train, the others to test
oxides                as in accuracy.py: energies only

Every prior with every choice of layers that the automatic one may take; length scale, species weight, ridge and force
weight are chosen by leave-one-out in all of them. The score is the geometric mean of the root mean square errors of
energies and forces (of energies alone for oxides).
"""

import argparse
import math
import os
import tempfile
import warnings
from pathlib import Path

import accuracy
import forces

import mekrr
from mekrr.backbones import load_backbone
from mekrr.potential.options import FitOptions
from mekrr.potential.training import layer_candidates
from mekrr.prior import PRIORS

ROW = "{:<16} {:<10} {:>7} {:>7} {:>7} {:>7}"


def mini(folder):
    every = mekrr.load_dataset("cu-formate-mini", ["clean", "d1", "d2"])
    return every[::2], every[1::2]


TASKS = {name: forces.TASKS[name] for name in ("few", "random", "mlearn")} | {"mini": mini, "oxides": accuracy.oxides}


def short(layers):
    """interaction_0, interaction_1, interaction_2 as 0-2."""
    numbers = [name.rsplit("_", 1)[-1] for name in layers]
    return numbers[0] if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"


def fit(train, test, backbone, **options):
    """Errors of one fit, and what it chose."""
    potential = mekrr.KernelPotential(backbone, exact_forces=False, **options).fit(train)
    best, metrics = potential.fitted_.facts["search"]["best"], mekrr.evaluate(potential, test).metrics()
    energy = metrics["energy_rmse_mev_per_atom"]
    trained_on_forces = potential.fitted_.facts["solver"]["forces"]
    force = metrics["forces_rmse_mev_per_angstrom"] if trained_on_forces else None
    score = energy if force is None else math.sqrt(energy * force)
    return score, energy, force, best["prior"], short(best["layers"])


def row(found, best):
    score, energy, force, prior, layers = found
    force = "" if force is None else f"{force:.1f}"
    return ROW.format(prior, layers, f"{energy:.2f}", force, f"{score:.2f}", f"{score / best:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MEKRR_DATA", "../shared/data")))
    parser.add_argument("--cache", type=Path, default=None)
    parser.add_argument("--inducing", type=int, default=600)
    parser.add_argument("--backbone", default="sevennet-0")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    train, test = TASKS[arguments.task](arguments.data)
    layer_sets = layer_candidates(FitOptions(), load_backbone(arguments.backbone))
    with tempfile.TemporaryDirectory() as folder:
        common = {"cache": arguments.cache or folder, "backbone": arguments.backbone}
        if arguments.task == "oxides":
            common["forces"] = False
        else:
            common["inducing"] = arguments.inducing
        chosen = fit(train, test, **common)
        fixed = []
        for prior in PRIORS:
            for layers in layer_sets:
                fixed.append(fit(train, test, prior=prior, layers=layers, **common))
                print(row(fixed[-1], chosen[0]), flush=True)
    best = min(found[0] for found in fixed)
    print(f"\n{arguments.task}: {len(train)} to train, {len(test)} to test; meV/atom, meV/Angstrom")
    print(ROW.format("prior", "layers", "energy", "forces", "score", "ratio"))
    for found in sorted(fixed, key=lambda found: found[0])[:5]:
        print(row(found, best))
    print(f"automatic:\n{row(chosen, best)}")


if __name__ == "__main__":
    main()
