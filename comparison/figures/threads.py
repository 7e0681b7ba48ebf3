"""Seconds of the parts of a fit with so many threads: run it with and without OMP_WAIT_POLICY=PASSIVE, idle and not.

python comparison/figures/threads.py 1; python comparison/figures/threads.py 2
OMP_WAIT_POLICY=PASSIVE python comparison/figures/threads.py 2
(while :; do :; done) &        # a busy core; then the three again
"""

import argparse
import time
from collections.abc import Callable

import torch

import mekrr
from mekrr.backbones import load_backbone
from mekrr.features import extract, probe, tangent_space

SIZE = 2000  # of the matrix that is decomposed
SMALL, REPEATS = 400, 20  # of those of the search
COLUMNS = 400  # of features that are multiplied


def main() -> None:
    """Time features, tangent space, derivatives, decompositions, and products with exponentials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("threads", type=int)
    parser.add_argument("--structures", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    backbone = load_backbone("sevennet-0", device="cpu")
    structures = mekrr.load_dataset("cu-formate-mini", ["clean", "d1"])[: arguments.structures]
    atoms = [s.atoms for s in structures]
    extract(atoms[:2], backbone, backbone.layers)  # warms up
    space = tangent_space(structures, backbone)
    A = torch.randn(SIZE, SIZE, dtype=torch.float64)
    small = A[:SMALL] @ A[:SMALL].T
    h = torch.randn(10 * SIZE, COLUMNS, dtype=torch.float64)
    parts: dict[str, Callable[[], object]] = {
        "features": lambda: extract(atoms, backbone, backbone.layers),
        "tangent space": lambda: tangent_space(structures, backbone),
        "derivatives": lambda: probe(structures[:4], backbone, backbone.layers, 8, tangent=space),
        "decomposition": lambda: torch.linalg.eigh(A @ A.T),
        f"{REPEATS} small ones": lambda: [torch.linalg.eigh(small) for _ in range(REPEATS)],
        "kernel": lambda: [(h @ h[: 2 * SIZE].T).exp_() for _ in range(3)],
    }
    seconds = {name: timed(part) for name, part in parts.items()}
    said = ", ".join(f"{name} {value:.2f}" for name, value in seconds.items())
    print(f"{arguments.threads} threads: {said}; in all {sum(seconds.values()):.1f} s")


def timed(part: Callable[[], object]) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    part()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
