"""Features and derivatives by two worker processes beside one process, one thread each.

    python comparison/figures/workers.py [--structures 100] [--backbone sevennet-0]

Structures are some of the embedded data set, with the rows of the tangent kernel. Both ways are taken once, in this
process and by `local:2`, after both have met the network; nothing is cached. The ratio is one of wall times and says
something of a machine that does nothing else: what it was busy with beside this is printed.
"""

import argparse
import os
import time
import warnings

import torch

import mekrr
from mekrr.backbones import Backbone, load_backbone
from mekrr.cluster import connected
from mekrr.data import Structure
from mekrr.features import TangentSpace, extract, probe, tangent_space
from mekrr.shards import HERE, Shards


def both(
    structures: list[Structure], backbone: Backbone, space: TangentSpace | None, who: Shards
) -> tuple[float, list]:
    """Seconds of features and derivatives, and what was found."""
    start = time.perf_counter()
    features = extract([s.atoms for s in structures], backbone, backbone.layers, shards=who)
    store = probe(structures, backbone, backbone.layers, 8, tangent=space, shards=who)
    seconds = time.perf_counter() - start
    rows = [found for t in range(len(structures)) if (found := store(t)) is not None]
    return seconds, [features.environments.features, *(d.features for d in rows), *(d.tangent for d in rows)]


def main() -> None:
    """Seconds of both ways, their ratio, and whether the bits agree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--structures", type=int, default=100)
    parser.add_argument("--backbone", default="sevennet-0")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    known = mekrr.load_dataset("cu-formate-mini")
    structures = known[:: max(1, len(known) // chosen.structures)][: chosen.structures]
    backbone = load_backbone(chosen.backbone, device="cpu")
    space = tangent_space(structures, backbone)
    both(structures[:4], backbone, space, HERE)
    with connected("local:2") as shards:
        shards.client.wait_for_workers(2)
        both(structures[:40], backbone, space, shards)
        alone, expected = both(structures, backbone, space, HERE)
        together, found = both(structures, backbone, space, shards)
    same = all(torch.equal(a, b) for a, b in zip(expected, found, strict=True) if a is not None)
    print(f"{len(structures)} structures: {alone:.1f} s by one process, {together:.1f} s by two workers")
    print(f"ratio {alone / together:.2f}, {'the same bits' if same else 'OTHER BITS'}")
    print(f"{os.cpu_count()} cores, of which {os.getloadavg()[0]:.1f} were wanted on average in the last minute")


if __name__ == "__main__":
    main()
