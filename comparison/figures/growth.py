"""Time and memory of a fit as the number of structures grows, the derivatives on disk.

    python comparison/figures/growth.py --sizes 250,500,1000 -o growth.json
    python comparison/figures/growth.py --plot growth.json -o docs/results

Structures are those of the embedded data set, moved at random. So that hundreds of passes are affordable, the network
is a small SchNet with random weights: what grows with the number of structures outside the network is measured, and
the network's own time is proportional to it. The basis is fixed. Every size has a process of its own.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from mekrr import KernelPotential, load_dataset
from mekrr.backbones.schnet import SchNetNetwork, SchNetShape
from mekrr.data import Structure

SHAPE = SchNetShape(hidden_channels=128, num_filters=32, num_interactions=3, num_gaussians=20, cutoff=4.0)
OPTIONS = {
    "inducing": 400, "tangent_share": 0.3, "length_scale": 12.0, "species_weight": 0.5, "force_weight": 1e-3,
    "prior": "composition", "probes": 8, "exact_forces": False,
}  # fmt: skip


def moved(count: int) -> list[Structure]:
    """So many structures, each an embedded one with its atoms moved by 0.02 Angstrom."""
    rng, known = np.random.default_rng(0), load_dataset("cu-formate-mini")
    found = []
    for k in range(count):
        one = known[k % len(known)]
        atoms = one.atoms.copy()
        atoms.positions += rng.normal(0, 0.02, atoms.positions.shape)
        forces = None if one.forces is None else one.forces + rng.normal(0, 0.05, one.forces.shape)
        found.append(Structure(atoms, (one.energy or 0.0) + rng.normal(0, 0.01), forces))
    return found


def weights(folder: Path) -> Path:
    """Random ones in the published format."""
    torch.manual_seed(0)
    network = SchNetNetwork(SHAPE)
    state = {f"module.module.{name}": tensor for name, tensor in network.state_dict().items()}
    for name, tensor in network.state_dict().items():
        if ".mlp." in name:
            state["module.module." + name.replace(".mlp.", ".conv.nn.")] = tensor
    state["module.module.distance_expansion.offset"] = network.offset
    state["module.module.atomic_mass"] = torch.ones(100)
    normalisers = {"target": {"mean": torch.tensor(0.0), "std": torch.tensor(1.0)}}
    attributes = {"model_attributes": dict(vars(SHAPE), use_pbc=True)}
    torch.save(
        {"epoch": 1, "state_dict": state, "normalizers": normalisers, "config": attributes}, folder / "schnet.pt"
    )
    return folder / "schnet.pt"


def measure(count: int, answer: "multiprocessing.Queue") -> None:
    """Seconds of CPU and peak memory of one fit, in a process of its own."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        structures = moved(count)
        # nothing is kept in memory that could lie on disk, as with thirty times the structures
        import mekrr.features.probes as probes
        import mekrr.potential.solution as solution

        probes.MEMORY_BYTES, solution.KEPT_BYTES = 0, 0
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        stages: dict[str, float] = {}
        start = time.process_time()
        potential = KernelPotential(f"schnet:{weights(Path(name))}", cache=Path(name) / "cache", **OPTIONS)
        potential.fit(structures)
        seconds = time.process_time() - start
        on_disk = sum(f.stat().st_size for f in (Path(name) / "cache").rglob("*") if f.is_file()) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    stages = potential.fitted_.record.seconds
    atoms = sum(len(s) for s in structures)
    answer.put(
        {"structures": count, "atoms": atoms, "cpu_s": seconds, "wall_s": stages, "before_mib": before,
         "peak_mib": peak, "on_disk_mib": on_disk}
    )  # fmt: skip


def power(x: list[float], y: list[float]) -> float:
    """Of growth, by least squares of the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def plot(path: Path, folder: Path) -> None:
    """Time and memory over the number of structures, as one picture."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    rows = json.loads(path.read_text())
    n = [row["structures"] for row in rows]
    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3.2))
    axes[0].loglog(n, [row["cpu_s"] for row in rows], "o-")
    axes[0].set(xlabel="structures", ylabel="CPU seconds", title=f"power {power(n, [r['cpu_s'] for r in rows]):.2f}")
    axes[1].plot(n, [row["peak_mib"] for row in rows], "o-", label="peak")
    axes[1].plot(n, [row["on_disk_mib"] for row in rows], "s--", label="derivatives on disk")
    axes[1].set(xlabel="structures", ylabel="MiB")
    axes[1].legend()
    figure.tight_layout()
    figure.savefig(folder / "growth.svg", metadata={"Date": None})


def main() -> None:
    """Measure, or plot what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", default="250,500,1000")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    chosen = parser.parse_args()
    if chosen.plot is not None:
        plot(chosen.plot, chosen.output)
        return
    rows = []
    context = multiprocessing.get_context("spawn")
    for count in map(int, chosen.sizes.split(",")):
        answer = context.Queue()
        process = context.Process(target=measure, args=(count, answer))
        process.start()
        rows.append(answer.get())
        process.join()
        print(rows[-1], flush=True)
        chosen.output.write_text(json.dumps(rows, indent=1) + "\n")
    if len(rows) > 1:
        n = [row["structures"] for row in rows]
        slope = (rows[-1]["peak_mib"] - rows[0]["peak_mib"]) / (n[-1] - n[0])
        print(f"CPU time grows with the power {power(n, [row['cpu_s'] for row in rows]):.2f}")
        print(f"memory grows by {1024 * slope:.0f} KiB a structure")


if __name__ == "__main__":
    main()
