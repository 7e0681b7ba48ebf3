"""The structures as their own basis against the textbook formulas of Gaussian process regression, on real data.

python comparison/figures/one_solver.py TASK [--data FOLDER] [--cache FOLDER]      TASK as in accuracy.py

Energies alone, all layers, prior backbone, species weight 0.5. For length scales from 8 sqrt(features) down and
relative ridges from 1e-12 to 1: the leave-one-out RMSE by r = [G^-1 (y - H beta_(-t))]_t / [G^-1]_tt (Rasmussen &
Williams 2006, eq. 5.12) from an eigendecomposition of K, and by the blocks of the whitened equations; their difference.
"""

import argparse
import os
from pathlib import Path

import torch
from accuracy import TASKS

from mekrr.backbones import load_backbone
from mekrr.features import FeatureCache, Scaler, extract
from mekrr.kernels import Basis, GaussianKernel, StructureKernel
from mekrr.potential.training import TrainingSet
from mekrr.solve import Factor, NormalEquations, RowWeights, leave_one_structure_out
from mekrr.tune import OF_STRUCTURES, observation

RIDGES = torch.tensor([10.0 ** (-12 + step) for step in range(13)], dtype=torch.float64)


def textbook(K, data, prior, ridges):
    """Leave-one-out residuals of energies, eV, for each ridge."""
    root = data.n_atoms.sqrt()
    values, Q = torch.linalg.eigh(K / root[:, None] / root)
    found = []
    for ridge in ridges:
        inverse = (Q / (values.clamp_min(0.0) + ridge)) @ Q.T / root[:, None] / root
        target = data.columns @ prior.without.T  # column t: every structure under the prior refitted without t
        found.append((inverse * target.T).sum(1) / inverse.diagonal())
    return torch.stack(found)


def blocks(K, x, kernel, data, prior, ridges):
    """The same from the whitened equations."""
    basis = Basis.of(x, kernel, K, relative=OF_STRUCTURES.jitter)
    rows = zip(basis.whiten(K), data.columns, data.n_atoms.tolist(), strict=True)
    observed = [observation(psi[None], columns, None, int(n), 1.0, n) for psi, columns, n in rows]
    weights = RowWeights(0.0, 0.0)
    factor = Factor.of(NormalEquations.of(observed, weights))
    left_out = leave_one_structure_out(factor, observed, weights, prior.coefficients[None], prior.without[None], ridges)
    return left_out.energy[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MEKRR_DATA", "../shared/data")))
    parser.add_argument("--cache", type=Path, default=None)
    given = parser.parse_args()
    train, _ = TASKS[given.task](given.data)
    backbone = load_backbone("sevennet-0")
    cache = None if given.cache is None else FeatureCache(given.cache)
    extraction = extract([s.atoms for s in train], backbone, backbone.layers, cache)
    energies = torch.tensor([s.energy for s in train], dtype=torch.float64)
    data = TrainingSet.of(extraction, None, energies, torch.ones_like(energies))
    prior = data.prior_columns("backbone")
    x = Scaler.fit(extraction.environments.features, extraction.widths)(extraction.environments)
    for rung in range(0, 8, 2):
        scale = 8 * x.features.shape[1] ** 0.5 / 2 ** (rung / 2)
        kernel = StructureKernel.weighted(GaussianKernel(scale), 0.5)
        K = kernel.gram(x)
        ridges = RIDGES * float(K.diagonal().mean() / data.n_atoms.mean())
        rmse = [
            1000 * (r / data.n_atoms).square().mean(1).sqrt()
            for r in (textbook(K, data, prior, ridges), blocks(K, x, kernel, data, prior, ridges))
        ]
        apart = " ".join(f"{float(value):.0e}" for value in (rmse[1] / rmse[0] - 1).abs())
        print(
            f"{given.task}, length scale {scale:.0f}, condition number {float(torch.linalg.cond(K)):.0e}: best ridge "
            f"{RIDGES[rmse[0].argmin()]:.0e} and {RIDGES[rmse[1].argmin()]:.0e}, {float(rmse[0].min()):.3f} and "
            f"{float(rmse[1].min()):.3f} meV/atom\n  apart from ridge 1e-12 on: {apart}",
            flush=True,
        )


if __name__ == "__main__":
    main()
