"""Accuracy against seconds: mekrr's own ways, from the quickest to the most thorough, and SevenNet's fine-tuning.

python comparison/figures/seconds.py TASK [--data FOLDER] [--rounds N] [--caps SECONDS ...] [--train N]

TASK is one of forces.py (few, ethanol, ...). Every fit computes its own features and derivatives (no cache), one after
the other in one process with the number of threads that PyTorch has; the network is loaded and its loops are compiled
before the first. Refined networks (--refine) have 1 to N rounds; SevenNet-0 is trained further on all its weights by
sevenn's own command and published input until each cap.
"""

import argparse
import os
import time
import warnings
from pathlib import Path

import numpy as np
from forces import TASKS

import mekrr
from mekrr_comparison.method import Setup, method_class

OWN = {
    "features alone, probes": {"tangent_share": 0.0, "exact_forces": False},
    "features alone, all forces": {"tangent_share": 0.0},
    "both kernels, probes": {"exact_forces": False},
    "both kernels, all forces (the default)": {},
}


def errors(predictions, test):
    """RMSE of energies (meV/atom), the same without their mean error, and RMSE of forces (meV/A)."""
    e = np.array([1000 * (p.energy - s.energy) / len(s) for p, s in zip(predictions, test, strict=True)])
    f = np.concatenate([(p.forces - s.forces).ravel() for p, s in zip(predictions, test, strict=True)])
    return np.sqrt(np.mean(e**2)), np.std(e), 1000 * np.sqrt(np.mean(f**2))


def row(name, fit, test):
    """A fit with its seconds; its errors."""
    started = time.perf_counter()
    predict = fit()
    seconds = time.perf_counter() - started
    print(
        f"| {name} | {seconds:.0f} | " + " | ".join(f"{x:.3g}" for x in errors(predict(test), test)) + " |", flush=True
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MEKRR_DATA", "../shared/data")))
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--caps", type=float, nargs="*", default=[120, 600, 1200])
    parser.add_argument("--train", type=int, default=None, help="only so many training structures, the first")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    train, test = TASKS[arguments.task](arguments.data)
    train = train[: arguments.train]
    mekrr.KernelPotential("sevennet-0").fit(train[:4])

    def own(**options):
        return lambda: mekrr.KernelPotential("sevennet-0", **options).fit(train).predict

    def finetuned(cap):
        def fit():
            method = method_class("sevennet-finetuned")(Setup())
            method.fit(train, [], cap)
            return lambda structures: method.predict([s.atoms for s in structures])

        return fit

    print(f"{arguments.task}: {len(train)} to train, {len(test)} to test\n")
    print("| | seconds | energy, meV/atom | without its mean | forces, meV/Å |\n|---|---|---|---|---|")
    for name, options in OWN.items():
        row(name, own(**options), test)
    for rounds in range(1, arguments.rounds + 1):
        row(f"refined network, {rounds} rounds", own(refine=rounds, tangent_share=0.0), test)
    for cap in arguments.caps:
        row(f"SevenNet-0 fine-tuned, all weights, stopped after {cap:.0f} s", finetuned(cap), test)
