"""One pass over SevenNet-0 and back: what its convolutions take, by compiled loops and by PyTorch, and what they must.

python comparison/figures/convolution.py [--repeat 1 1] [--times N]

Formate on Cu(111), repeated in the plane. Milliseconds of the fastest of N passes, in turn. The floor is the number of
floating-point operations of the convolutions over what a large float32 matrix product reaches on this machine: filters
of the edges (from 64 numbers each), then sums over paths. Backwards, filters are made again, and their gradient goes
back through the same matrix; sums over paths are done three times.
"""

import argparse
import json
import time

import numpy as np
import torch

import mekrr
from mekrr.backbones import convolution_compiled, convolution_kernels, convolve, load_backbone
from mekrr.graph import build_batch

KINDS = {"pytorch": convolution_kernels, "compiled": convolution_compiled}


def seconds(function):
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def operations(network, n_edges):
    """Of all convolutions: forwards, and backwards."""
    forward = backward = 0
    for one in network._convolutions.values():
        sums = sum(2 * g.n_in * p.n_out * g.channels for g in one.groups for p in g.paths)
        filters = 2 * one.mixing.numel()
        forward += n_edges * (filters + sums)
        backward += n_edges * (2 * filters + 3 * sums)
    return forward, backward


def product_rate(times):
    a, b = torch.randn(512, 512), torch.randn(512, 512)
    return 2 * 512**3 / min(seconds(lambda: a @ b) for _ in range(20 * times))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, nargs=2, default=(1, 1))
    parser.add_argument("--times", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    network = load_backbone("sevennet-0")
    atoms = mekrr.load_dataset("cu-formate-mini", "d1")[0].atoms.repeat((*arguments.repeat, 1))
    graph = build_batch([atoms], network.cutoff, network.max_neighbours)
    vectors = graph.edge_vectors().detach()

    def forwards():
        with torch.no_grad():
            network.forward(graph, vectors, network.layers)

    def there_and_back():
        leaf = vectors.clone().requires_grad_(True)
        torch.autograd.grad(network.forward(graph, leaf, network.layers).atomic_energies.sum(), leaf)

    best = {name: {"forward_ms": np.inf, "reverse_ms": np.inf} for name in KINDS}
    for turn in range(arguments.times + 1):  # the first is not counted: loops are compiled, memory is taken
        for name, module in KINDS.items():
            convolve.arithmetic = lambda device, module=module: module
            forward = seconds(forwards)
            for key, value in (("forward_ms", forward), ("reverse_ms", seconds(there_and_back) - forward)):
                best[name][key] = min(best[name][key], 1e3 * value) if turn else np.inf
    rate = product_rate(arguments.times)
    floor = dict(
        zip(("forward_ms", "reverse_ms"), (1e3 * n / rate for n in operations(network, len(graph.centre))), strict=True)
    )
    shares = {k: {key: ms / floor[key] for key, ms in each.items()} for k, each in best.items()}
    print(
        json.dumps(
            {"n_atoms": len(atoms), "n_edges": len(graph.centre), "product_gflops": rate / 1e9, "ms": best}
            | {"floor_ms": floor, "over_floor": shares},
            indent=1,
            default=float,
        )
    )
