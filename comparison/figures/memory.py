"""Peak memory of a fit to energies and forces against the number of structures.

python comparison/figures/memory.py N [--data FOLDER] [--inducing 1000] [--probes 8]

N structures of 52 atoms: frames of cu_formate/systematic, each repeated with tiny displacements. So that the network
need not run N times, the features and derivatives of 40 real frames are computed once and stored in a cache folder
under the names of all N; what comes after the network (reading, search, inducing environments, normal equations,
leave-one-out) is that of any fit. Prints the peak resident memory and the seconds of the stages. Probed solution only:
exact forces hold one batch of structures at a time.
"""

import argparse
import json
import os
import resource
import tempfile
import warnings
from pathlib import Path

import numpy as np

import mekrr
from mekrr.backbones import load_backbone
from mekrr.data import Structure
from mekrr.features import FeatureCache, extract, probe
from mekrr.features.probes import cache_key

BASE = 40


def copies(frames, n):
    generator = np.random.default_rng(0)
    found = []
    for k in range(n):
        base = frames[k % len(frames)]
        atoms = base.atoms.copy()
        atoms.positions += generator.normal(0, 1e-5, atoms.positions.shape)
        found.append(Structure(atoms, base.energy + generator.normal(0, 0.02), base.forces))
    return found


def fill(cache, backbone, layers, frames, structures, probes):
    """Entries of the real frames under the names of their copies."""
    atoms = [s.atoms for s in frames]
    extract(atoms, backbone, layers, cache)
    probe(frames, backbone, layers, probes, 0, cache)
    for k, s in enumerate(structures):
        base = frames[k % len(frames)]
        names = [
            [cache.key(x.atoms, backbone.identity, layers, backbone.dtype, "features") for x in (base, s)],
            [cache_key(cache, x, backbone, layers, probes, 0) for x in (base, s)],
        ]
        for old, new in names:
            cache.write(new, cache.read(old))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("n", type=int)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MEKRR_DATA", "../shared/data")))
    parser.add_argument("--inducing", type=int, default=1000)
    parser.add_argument("--probes", type=int, default=8)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    frames = mekrr.read_structures(arguments.data / "cu_formate/systematic.extxyz.gz")[200 : 200 + BASE]
    structures = copies(frames, arguments.n)
    backbone = load_backbone("sevennet-0", device="cpu")
    layers = list(backbone.layers)
    with tempfile.TemporaryDirectory() as folder:
        fill(FeatureCache(folder), backbone, layers, frames, structures, arguments.probes)
        potential = mekrr.KernelPotential(
            "sevennet-0",
            cache=folder,
            device="cpu",
            probes=arguments.probes,
            inducing=arguments.inducing,
            exact_forces=False,
        ).fit(structures)
    facts = potential.fitted_.record.as_json()
    print(
        json.dumps(
            {
                "n_structures": arguments.n,
                "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
                "layers": facts["search"]["best"]["layers"],
                "seconds": {k: round(v, 1) for k, v in facts["seconds"].items()},
            }
        )
    )
