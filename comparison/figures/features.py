"""Feature extraction against the backbone's own forward pass, and from the cache; the ASE calculator against the
backbone's own. Ratios of runs taken in turn in one process.

python comparison/figures/features.py
"""

import tempfile
import time
import warnings

import numpy as np
import torch
from ase.build import add_adsorbate, fcc111, molecule
from sevenn.calculator import SevenNetCalculator

import mekrr
from mekrr.backbones import load_backbone
from mekrr.data import Structure
from mekrr.features import FeatureCache, batches, extract
from mekrr.features.extraction import BATCH_ATOMS
from mekrr.graph import build_batch

LAYERS = ("interaction_0", "interaction_1", "interaction_2", "interaction_3")


def slabs(count, seed=0):
    """52 atoms: Cu(111) 4x4x3 with a formic acid fragment, rattled."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(count):
        slab = fcc111("Cu", (4, 4, 3), vacuum=7.0, periodic=True)
        fragment = molecule("HCOOH")
        del fragment[[4]]
        add_adsorbate(slab, fragment, 2.5, "bridge")
        slab.positions += rng.normal(0, 0.07, slab.positions.shape)
        frames.append(slab)
    return frames


def ratio(a, b, rounds):
    """Median of the time of a over the time of b, taken in turn, and the spread."""
    found = []
    for _ in range(rounds):
        times = []
        for function in (a, b):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        found.append(times[0] / times[1])
    found.sort()
    return f"{found[rounds // 2]:.2f} ({found[0]:.2f} to {found[-1]:.2f})"


def extraction(frames, backbone):
    groups = list(batches([len(a) for a in frames], BATCH_ATOMS))

    def forward_only():
        """The batches are built outside: the network alone."""
        with torch.no_grad():
            for graph in graphs:
                backbone.forward(graph, graph.edge_vectors(), LAYERS[-1:])

    graphs = [build_batch([frames[t] for t in group], backbone.cutoff) for group in groups]
    forward_only()
    print(
        "extraction / backbone's forward pass over the same batches:",
        ratio(lambda: extract(frames, backbone, LAYERS), forward_only, 5),
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache(folder)
        extract(frames, backbone, LAYERS, cache)
        print(
            "extraction / extraction from the cache:",
            ratio(lambda: extract(frames, backbone, LAYERS), lambda: extract(frames, backbone, LAYERS, cache), 3),
            flush=True,
        )


def calculator(frames):
    labelled = []
    own = SevenNetCalculator("7net-0", device="cpu")
    rng = np.random.default_rng(0)
    for atoms in frames:
        labelled.append(Structure(atoms, float(-200 + rng.normal())))
    fitted = mekrr.KernelPotential(
        "sevennet-0", forces=False, layers=LAYERS, length_scale=30.0, species_weight=0.5, ridge=1e-4
    )
    fitted.fit(labelled)
    for deviation in (False, True):
        ours = mekrr.Calculator(fitted, uncertainty=deviation)

        def call(calc):
            atoms = frames[0].copy()
            atoms.positions[0, 0] += rng.normal(0, 0.01)
            atoms.calc = calc
            atoms.get_potential_energy()
            atoms.get_forces()

        for _ in range(3):
            call(ours)
            call(own)
        print(
            f"energy + forces{' + deviation' if deviation else ''} with {len(frames)} structures fitted / sevenn's own "
            "calculator:",
            ratio(lambda c=ours: call(c), lambda: call(own), 9),
            flush=True,
        )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(f"{torch.get_num_threads()} threads")
    network = load_backbone("sevennet-0")
    extraction(slabs(20), network)
    calculator(slabs(300))
