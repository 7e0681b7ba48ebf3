"""Forces before and after: the network and a potential against DFT, as a picture.

    python comparison/figures/parity.py both.safetensors unseen.extxyz --index ::3 -o docs/parity.svg

With the potential and the structures of the tutorial (`python tools/run_tutorial.py` leaves them in tutorial-run).
"""

import argparse
import warnings

import matplotlib as mpl
import numpy as np

import mekrr
from mekrr.evaluation import Evaluation
from mekrr.pages.figures import BACKBONE, POTENTIAL

mpl.use("svg")
from matplotlib import pyplot as plt


def main() -> None:
    """Evaluate and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--index", default=":")
    parser.add_argument("-o", "--output", required=True)
    arguments = parser.parse_args()
    potential = mekrr.KernelPotential.load(arguments.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = mekrr.evaluate(potential, mekrr.read_structures(arguments.data, index=arguments.index))
    draw(found, arguments.output, potential.fitted_.record.data.n_structures)


def draw(found: Evaluation, path: str, n_training: int) -> None:
    """Two squares with the same axes."""
    dft = np.concatenate([s.forces.ravel() for s in found.structures])
    before, after = found.force_errors(backbone=True), found.force_errors()
    plt.rcParams |= {"font.size": 9, "svg.hashsalt": "mekrr", "font.family": "DejaVu Sans"}
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.7), sharex=True, sharey=True, layout="constrained")
    heads = ("the pretrained network", f"mekrr, {n_training} training structures")
    limit = 1.05 * np.abs(dft).max()
    for axis, errors, head, colour in zip(axes, (before, after), heads, (BACKBONE, POTENTIAL), strict=True):
        axis.plot([-limit, limit], [-limit, limit], color="#28303a", linewidth=0.8, linestyle=":")
        axis.scatter(dft, dft + errors / 1000, s=4, alpha=0.5, color=colour, linewidths=0, rasterized=True)
        axis.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xlabel="DFT force, eV/Å")
        axis.set_title(f"{head}\nRMSE {np.sqrt(np.mean(errors**2)):.0f} meV/Å, {len(dft)} components", fontsize=9)
    axes[0].set_ylabel("predicted force, eV/Å")
    figure.savefig(path, dpi=160, metadata={"Date": None})


if __name__ == "__main__":
    main()
