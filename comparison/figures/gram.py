"""Speed and memory of the Gram matrix, as ratios measured in one process.

python comparison/figures/gram.py            throughput against the ceiling, and the paper's dense formula
python comparison/figures/gram.py --full     6,855 structures x 52 atoms x 128 features at one length scale, peak memory

The ceiling is 1 / (1/GEMM + 1/exp) in atom pairs per second: the matrix product of the same tiles at the same number of
features, and the exponential of a tile, measured alternately with the pass itself. Pairs that symmetry saves
do not count.
"""

import argparse
import resource
import time

import torch

from mekrr.features import Environments
from mekrr.kernels import GaussianKernel, gram
from mekrr.kernels.tiles import TILE

SPECIES = torch.tensor([29] * 48 + [1, 6, 8, 8])


def environments(n_structures, n_features):
    torch.manual_seed(0)
    n = len(SPECIES)
    features = torch.randn(n * n_structures, n_features)
    return Environments(features, SPECIES.repeat(n_structures), torch.full((n_structures,), n))


def seconds(function, repeats=1):
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) / repeats


def ceiling(n_features, dtype, repeats=20):
    """Atom pairs per second of product and exponential together."""
    a, b = torch.randn(TILE, n_features, dtype=dtype), torch.randn(n_features, TILE, dtype=dtype)
    tile = torch.empty(TILE, TILE, dtype=dtype)
    product = seconds(lambda: torch.mm(a, b, out=tile), repeats)
    tile.uniform_(-1, 0)
    other = torch.empty_like(tile)
    exponential = seconds(lambda: torch.exp(tile, out=other), repeats)
    return TILE**2 / (product + exponential)


def evaluated_pairs(n_atoms):
    blocks = -(-n_atoms // TILE)
    sizes = [min(TILE, n_atoms - TILE * i) for i in range(blocks)]
    return sum(sizes[i] * sizes[j] for i in range(blocks) for j in range(i, blocks))


def throughput(n_structures, n_features, dtype, rounds=3):
    x = environments(n_structures, n_features)
    kernel = GaussianKernel(n_features**0.5)
    ratios = []
    for _ in range(rounds):
        before = ceiling(n_features, dtype)
        took = seconds(lambda: gram(x, None, kernel, "sum", dtype=dtype))
        after = ceiling(n_features, dtype)
        ratios.append(evaluated_pairs(len(x.species)) / took / ((before + after) / 2))
    median = sorted(ratios)[rounds // 2]
    print(
        f"{n_structures:5d} structures, {n_features} features, {dtype}: {100 * median:.0f}% of the ceiling "
        f"({' '.join(f'{100 * r:.0f}' for r in ratios)})",
        flush=True,
    )


def dense(x, length_scale):
    """The paper's formula written densely: all atom pairs at once, masked means (its multi-weight kernel)."""
    k = torch.exp(-(torch.cdist(x.features, x.features) ** 2) / (2 * length_scale**2))
    T, n = x.n_structures, len(SPECIES)
    k = k.view(T, n, T, n)
    same = torch.zeros(T, T)
    for z in torch.unique(SPECIES):
        mask = (z == SPECIES).float()
        same += torch.einsum("aibj,i,j->ab", k, mask, mask) / mask.sum() ** 2
    return k.mean((1, 3)), same


def against_dense():
    x = environments(100, 128)
    kernel = GaussianKernel(128**0.5)
    pair = gram(x, None, kernel, "mean")
    A, B = dense(x, kernel.length_scale)
    print(
        f"largest difference from the dense formula: {float((pair.all_pairs[0] - A).abs().max()):.1e}, "
        f"{float((pair.same_species[0] - B).abs().max()):.1e}"
    )
    for dtype in (torch.float32, torch.float64):
        ratios = sorted(
            seconds(lambda: dense(x, kernel.length_scale))
            / seconds(lambda d=dtype: gram(x, None, kernel, "mean", dtype=d))
            for _ in range(5)
        )
        print(
            f"100 structures: the dense formula takes {ratios[2]:.0f} times as long as {dtype} tiles "
            f"({ratios[0]:.0f} to {ratios[-1]:.0f})",
            flush=True,
        )


def full():
    x = environments(6855, 128)
    took = seconds(lambda: gram(x, None, GaussianKernel(128**0.5), "sum"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"6,855 structures x 52 atoms x 128 features: {took:.0f} s, peak memory {peak:.2f} GiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    if parser.parse_args().full:
        full()
    else:
        print(f"{torch.get_num_threads()} threads")
        against_dense()
        for n_features in (128, 640):
            for n_structures in (500, 2000):
                throughput(n_structures, n_features, torch.float32, 3 if n_structures == 500 else 1)
        throughput(500, 128, torch.float64)
