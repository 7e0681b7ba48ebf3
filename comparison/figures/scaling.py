"""How features are scaled: by the deviation of each channel, by that of its layer, or in between.

    python comparison/figures/scaling.py TASK [--data FOLDER] [--cache FOLDER] [--powers 1,0.5,0]

TASK as in choices.py, and segments as in forces.py. The scale of a channel is s^p S^(1-p) with s its standard deviation
and S the root mean square of s over the layer: p = 1 is what mekrr does. Probed fits, everything else chosen
automatically; the score is that of leave-one-out, minus the log of the geometric mean of energy and force errors.
"""

import argparse
import os
import warnings
from pathlib import Path
from unittest.mock import patch

import choices
import forces
import torch

import mekrr
from mekrr.features import Scaler

TASKS = {**choices.TASKS, "segments": forces.TASKS["segments"]}
ROW = "{:>5} {:>7} {:>7} {:>7} {:>7} {:>7}  {}"
by_channel = Scaler.fit


def scaled_with(power):
    """Scaler.fit with another power of the channels' deviations."""

    def fit(features, widths):
        found = by_channel(features, widths)
        layers = [s.square().mean().sqrt().expand_as(s) for s in found.scale.split(list(widths))]
        return Scaler(found.mean, found.scale**power * torch.cat(layers) ** (1 - power))

    return fit


def number(value):
    return "" if value is None else f"{value:.2f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MEKRR_DATA", "../shared/data")))
    parser.add_argument("--cache", type=Path, default=None)
    parser.add_argument("--powers", default="1,0.5,0")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    train, test = TASKS[arguments.task](arguments.data)
    print(f"{arguments.task}: {len(train)} to train, {len(test)} to test; meV/atom, meV/Angstrom")
    print(ROW.format("power", "score", "loo E", "loo F", "test E", "test F", "chosen"))
    for power in map(float, arguments.powers.split(",")):
        with patch.object(Scaler, "fit", staticmethod(scaled_with(power))):
            potential = mekrr.KernelPotential("sevennet-0", cache=arguments.cache, exact_forces=False).fit(train)
        facts, metrics = potential.fitted_.record.as_json(), mekrr.evaluate(potential, test).metrics()
        best, loo = facts["search"]["best"], facts["leave_one_out"]
        print(
            ROW.format(
                power,
                f"{best['score']:.3f}",
                number(loo["rmse_mev_per_atom"]),
                number(loo.get("forces_rmse_mev_per_angstrom")),
                number(metrics["energy_rmse_mev_per_atom"]),
                number(metrics["forces_rmse_mev_per_angstrom"]),
                f"{best['prior']}, layers {choices.short(best['layers'])}",
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
