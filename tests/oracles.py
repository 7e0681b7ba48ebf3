"""Formulas written out as the papers have them, slow and plain, that the core is compared with."""

import torch

from mekrr.kernels import GaussianKernel, LinearKernel, StructureKernel


def pair_values(kernel, h, g):
    """k between all pairs, from differences or products of features."""
    if isinstance(kernel, GaussianKernel):
        difference = h[:, None] - g[None, :]
        return torch.exp(-difference.square().sum(-1) / (2 * kernel.length_scale**2))
    assert isinstance(kernel, LinearKernel)
    return h @ g.T / (h.shape[1] * kernel.length_scale**2)


def dense(x, y, kernel: StructureKernel):
    """The structure kernel over the (atoms x atoms) matrix, structure by structure and species by species."""
    rows = []
    for a in range(x.n_structures):
        for b in range(y.n_structures):
            rows.append(sum(_pair(x, y, a, b, component, kernel.embedding) for component in kernel.components))
    return torch.stack(rows).reshape(x.n_structures, y.n_structures)


def _pair(x, y, a, b, component, embedding):
    i, j = x.structure == a, y.structure == b
    block = pair_values(component.pointwise, x.features[i], y.features[j])
    zi, zj = x.species[i], y.species[j]
    if embedding == "sum":
        same = (zi[:, None] == zj[None, :]).double()
        return (block * (component.all_pairs + component.same_species * same)).sum()
    found = component.all_pairs * block.mean()
    for s in set(zi.tolist()) & set(zj.tolist()):
        found = found + component.same_species * block[zi == s][:, zj == s].mean()
    return found


def total_energies(kernel: StructureKernel, x):
    """What a structure's function is multiplied by to be a total energy."""
    return x.n_atoms.double() if kernel.embedding == "mean" else torch.ones(x.n_structures, dtype=torch.float64)


def ridge_solution(K, noise, y, ridge):
    """Dual coefficients and the matrix that is solved, of plain kernel ridge regression."""
    G = K + ridge * torch.diag(noise)
    return torch.linalg.solve(G, y), G
