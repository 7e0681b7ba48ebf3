"""The automatic choice of prior and layers beside every fixed one, on held-out structures.

    python comparison/figures/choices.py TASK [--data FOLDER] [--cache FOLDER] [--inducing 600]

few, more, random, mlearn   as in forces.py, probed
mini    the embedded data: clean, d1 and d2, of each every second structure to train, the others to test
oxides  as in accuracy.py: energies only

Every prior with every choice of layers that the automatic one may take; length scale, species weight, ridge and force
weight are chosen by leave-one-out in all of them. Test errors are root mean squares; error is the geometric mean of
those of energies and forces (energies alone for oxides), with its ratio to the smallest; and the same of mean absolute
errors. criterion is what the automatic choice maximises, on the training structures.
"""

import argparse
import math
import os
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import accuracy
import forces

import mekrr
from mekrr.backbones import load_backbone
from mekrr.potential.options import FitOptions
from mekrr.potential.training import layer_candidates
from mekrr.prior import PRIORS

ROW = "{:<16} {:<7} {:>9} {:>7} {:>7} {:>7} {:>6} {:>7} {:>6}"
TITLE = ROW.format("prior", "layers", "criterion", "energy", "forces", "error", "ratio", "of MAE", "ratio")


def mini(folder):
    every = mekrr.load_dataset("cu-formate-mini", ["clean", "d1", "d2"])
    return every[::2], every[1::2]


PROBED = ("few", "more", "random", "mlearn")
TASKS = {name: forces.TASKS[name] for name in PROBED} | {"mini": mini, "oxides": accuracy.oxides}


def short(layers):
    """interaction_0, interaction_1, interaction_2 as 0-2."""
    numbers = [name.rsplit("_", 1)[-1] for name in layers]
    return numbers[0] if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"


@dataclass(frozen=True)
class Outcome:
    """One fit: what it chose and its errors on the test structures."""

    prior: str
    layers: str
    criterion: float
    metrics: dict
    forces: bool

    def error(self, kind):
        """Of energies, or the geometric mean with that of forces."""
        energy = self.metrics[f"energy_{kind}_mev_per_atom"]
        return math.sqrt(energy * self.metrics[f"forces_{kind}_mev_per_angstrom"]) if self.forces else energy

    def row(self, others):
        """Errors, and their ratios to the smallest among the others."""
        cells = [f"{self.criterion:.3f}", f"{self.metrics['energy_rmse_mev_per_atom']:.2f}"]
        cells.append(f"{self.metrics['forces_rmse_mev_per_angstrom']:.1f}" if self.forces else "")
        for kind in ("rmse", "mae"):
            best = min(other.error(kind) for other in others)
            cells += [f"{self.error(kind):.2f}", f"{self.error(kind) / best:.2f}"]
        return ROW.format(self.prior, self.layers, *cells)


def fit(train, test, backbone, **options):
    """One probed fit."""
    potential = mekrr.KernelPotential(backbone, exact_forces=False, **options).fit(train)
    facts = potential.fitted_.record.as_json()
    best, metrics = facts["search"]["best"], mekrr.evaluate(potential, test).metrics()
    return Outcome(best["prior"], short(best["layers"]), best["score"], metrics, facts["solver"]["forces"])


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
        print(
            f"{arguments.task}: {len(train)} to train, {len(test)} to test; meV/atom, meV/Angstrom\n{TITLE}", flush=True
        )
        fixed = []
        for prior in PRIORS:
            for layers in layer_sets:
                fixed.append(fit(train, test, prior=prior, layers=layers, **common))
                print(fixed[-1].row([chosen]), flush=True)
    print(f"the five with the smallest error:\n{TITLE}")
    for outcome in sorted(fixed, key=lambda outcome: outcome.error("rmse"))[:5]:
        print(outcome.row(fixed))
    print(f"automatic:\n{chosen.row(fixed)}")


if __name__ == "__main__":
    main()
