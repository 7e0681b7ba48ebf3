"""Synthetic problems for both plans: labels drawn from a kernel whose hyperparameters are known."""

import torch

from mekrr.features import Derivatives
from mekrr.kernels import GaussianKernel, KernelFunction, StructureKernel
from mekrr.prior import Compositions, PriorColumns, target_columns
from mekrr.tune import Grid, Observed, SearchProblem

TRUE_W = 0.6
STRUCTURE_GRID = Grid()
ENVIRONMENT_GRID = Grid(
    length_scales=tuple(8.0 / 2 ** (rung / 2) for rung in range(5)),
    species_weights=tuple(k / 5 for k in range(6)),
    ridges=tuple(10.0 ** (-8 + step) for step in range(10)),
    force_weights=(1e-3, 1e-2, 1e-1),
    criterion="loo-mae",
)


def energies_of(x, length_scale, seed=5):
    """A draw of the structure kernel, with a little noise."""
    K = StructureKernel.weighted(GaussianKernel(length_scale), TRUE_W).gram(x)
    values, vectors = torch.linalg.eigh(K)
    draw, noise = torch.randn(2, len(K), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return vectors @ (values.clamp_min(0).sqrt() * draw) + 0.01 * noise


def fields_of(x, length_scale, seed=5, n_rows=4):
    """A function of the kernel, and its derivatives along random moves of the features, with a little noise."""
    generator = torch.Generator().manual_seed(seed)

    def noise(n):
        return 0.01 * torch.randn(n, generator=generator, dtype=torch.float64)

    c = torch.randn(len(x.species), generator=generator, dtype=torch.float64)
    kernel = StructureKernel.weighted(GaussianKernel(length_scale), TRUE_W)
    found = KernelFunction(x.singletons(), c, kernel)(x)
    energies = torch.zeros(x.n_structures, dtype=torch.float64).index_add_(0, x.structure, found.atomic_energies)
    derivatives = []
    for t in range(x.n_structures):
        own = x.structure == t
        moves = torch.randn(n_rows, int(own.sum()), x.features.shape[1], generator=generator, dtype=torch.float64)
        dft = torch.einsum("af,raf->r", found.slopes[own], moves) + noise(n_rows)
        derivatives.append(Derivatives(moves, dft, torch.zeros_like(dft), 0))
    return energies + noise(x.n_structures), derivatives


def problem_of(plan, x, energies, derivatives, grid, groups=None, names=("none",), weights=None):
    """A search for one set of layers."""
    compositions = Compositions.of(x.species, x.n_atoms)
    weights = torch.ones_like(energies) if weights is None else weights

    def priors(chosen):
        part = Compositions(compositions.counts[chosen], compositions.elements)
        return [PriorColumns.fit(name, energies[chosen], part, None, part.elements, weights[chosen]) for name in names]

    def observe(layers, chosen):
        return Observed(x[chosen], [derivatives[t] for t in chosen.tolist()])

    columns = target_columns(energies, None, compositions)
    return SearchProblem(plan, [("layer",)], observe, priors, columns, weights, grid, 0.01, groups)
