"""Time and memory of a fit as structures, their atoms, features or the basis grow, with all that can lie on disk there.

    python comparison/figures/growth.py structures --sizes 250,500,1000,2000 -o growth.json
    python comparison/figures/growth.py atoms --sizes 1,2,4 -o growth.json
    python comparison/figures/growth.py features --sizes 64,128,256 -o growth.json
    python comparison/figures/growth.py basis --sizes 200,400,800,1600 -o growth.json
    python comparison/figures/growth.py plot -o growth.json --folder docs/results

Structures are those of the embedded data set, moved at random. So that hundreds of passes are affordable, the network
is a small SchNet with random weights: what grows with the number of structures outside the network is measured, and
the network's own time is proportional to it. Structures grow with the tangent kernel, beside a fixed basis; the others
(cells repeated so many times, channels a layer, inducing environments) without it, on 100 structures. Every size has
a process of its own, and is added to the file. Memory is what the process has of its own (RssAnon): pages of mapped
files, which the system takes back when it needs them, are beside it.
"""

import argparse
import json
import multiprocessing
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from mekrr import KernelPotential, load_dataset
from mekrr.backbones.schnet import SchNetNetwork, SchNetShape
from mekrr.data import Structure

SHAPE = {"num_filters": 32, "num_interactions": 3, "num_gaussians": 20, "cutoff": 4.0}
OPTIONS = {
    "length_scale": 12.0, "species_weight": 0.5, "force_weight": 1e-3, "prior": "composition", "probes": 8,
    "exact_forces": False,
}  # fmt: skip
# Of each axis: structures, repetitions of the cell, channels, inducing environments, share of the tangent kernel.
FIXED = {"structures": 100, "atoms": 1, "features": 128, "basis": 400, "share": 0.0}
LABELS = {"structures": "structures", "atoms": "atoms", "features": "features of an atom", "basis": "functions"}


def moved(count: int, repeated: int = 1) -> list[Structure]:
    """So many structures, each an embedded one, repeated along a vector, with its atoms moved by 0.02 Angstrom."""
    rng, known = np.random.default_rng(0), load_dataset("cu-formate-mini")
    found = []
    for k in range(count):
        one = known[k % len(known)]
        atoms = one.atoms.repeat((repeated, 1, 1))
        atoms.positions += rng.normal(0, 0.02, atoms.positions.shape)
        forces = None if one.forces is None else np.tile(one.forces, (repeated, 1))
        forces = None if forces is None else forces + rng.normal(0, 0.05, forces.shape)
        found.append(Structure(atoms, repeated * (one.energy or 0.0) + rng.normal(0, 0.01), forces))
    return found


def weights(folder: Path, channels: int = 128) -> Path:
    """Random ones in the published format."""
    torch.manual_seed(0)
    shape = SchNetShape(hidden_channels=channels, **SHAPE)
    network = SchNetNetwork(shape)
    state = {f"module.module.{name}": tensor for name, tensor in network.state_dict().items()}
    for name, tensor in network.state_dict().items():
        if ".mlp." in name:
            state["module.module." + name.replace(".mlp.", ".conv.nn.")] = tensor
    state["module.module.distance_expansion.offset"] = network.offset
    state["module.module.atomic_mass"] = torch.ones(100)
    normalisers = {"target": {"mean": torch.tensor(0.0), "std": torch.tensor(1.0)}}
    attributes = {"model_attributes": dict(vars(shape), use_pbc=True)}
    torch.save(
        {"epoch": 1, "state_dict": state, "normalizers": normalisers, "config": attributes}, folder / "schnet.pt"
    )
    return folder / "schnet.pt"


class Peak(threading.Thread):
    """The largest memory of this process' own, and of mapped files, in MiB, looked at five times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.own = self.mapped = 0.0

    def run(self) -> None:
        """Until the process ends."""
        while True:
            lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
            own, mapped = (int(lines[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))
            self.own, self.mapped = max(self.own, own), max(self.mapped, mapped)
            time.sleep(0.2)


def measure(axis: str, size: int, answer: "multiprocessing.Queue") -> None:
    """Seconds of CPU and peak memory of one fit, in a process of its own."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    fixed = FIXED | ({"share": 0.3} if axis == "structures" else {}) | {axis: size}
    with tempfile.TemporaryDirectory() as name:
        structures = moved(int(fixed["structures"]), int(fixed["atoms"]))
        # nothing is kept in memory that could lie on disk, as with thirty times the structures
        import mekrr.features.matrix as matrix
        import mekrr.features.probes as probes
        import mekrr.potential.rows as rows

        matrix.MEMORY_BYTES = probes.MEMORY_BYTES = rows.KEPT_BYTES = 0
        peak = Peak()
        peak.start()
        start = time.process_time()
        potential = KernelPotential(
            f"schnet:{weights(Path(name), int(fixed['features']))}",
            cache=Path(name) / "cache",
            inducing=int(fixed["basis"]),
            tangent_share=fixed["share"],
            **OPTIONS,
        )
        potential.fit(structures)
        seconds = time.process_time() - start
        on_disk = sum(f.stat().st_size for f in (Path(name) / "cache").rglob("*") if f.is_file()) / 2**20
    stages = potential.fitted_.record.seconds
    atoms = sum(len(s) for s in structures)
    answer.put(
        {"axis": axis, "structures": len(structures), "atoms": atoms, "features": fixed["features"],
         "basis": fixed["basis"], "cpu_s": seconds, "wall_s": stages, "own_mib": peak.own, "mapped_mib": peak.mapped,
         "on_disk_mib": on_disk}
    )  # fmt: skip


def power(x: list[float], y: list[float]) -> float:
    """Of growth, by least squares of the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def plot(rows: list[dict], path: Path) -> None:
    """CPU time and memory along each axis, as one picture."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "mekrr"
    from matplotlib import pyplot

    axes_there = [axis for axis in LABELS if sum(row["axis"] == axis for row in rows) > 1]
    figure, axes = pyplot.subplots(2, len(axes_there), figsize=(2.6 * len(axes_there), 5), squeeze=False)
    for column, axis in enumerate(axes_there):
        some = sorted((row for row in rows if row["axis"] == axis), key=lambda row: row[axis])
        x = [row[axis] for row in some]
        for line, (key, label) in enumerate((("cpu_s", "CPU, s"), ("own_mib", "memory, MiB"))):
            y = [row[key] for row in some]
            axes[line, column].plot(x, y, "o-")
            axes[line, column].set(xlim=(0, None), ylim=(0, 1.1 * max(y)), title=f"power {power(x, y):.2f}")
            axes[line, column].title.set_fontsize(9)
            if column == 0:
                axes[line, column].set_ylabel(label)
        axes[1, column].set_xlabel(LABELS[axis])
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure, or plot what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("axis", choices=[*LABELS, "plot"])
    parser.add_argument("--sizes", default="250,500,1000")
    parser.add_argument("--folder", type=Path, default=Path("."), help="of the picture")
    parser.add_argument("-o", "--output", type=Path, required=True)
    chosen = parser.parse_args()
    rows = json.loads(chosen.output.read_text()) if chosen.output.exists() else []
    if chosen.axis == "plot":
        plot(rows, chosen.folder / "growth.svg")
        return
    context = multiprocessing.get_context("spawn")
    for size in map(int, chosen.sizes.split(",")):
        answer = context.Queue()
        process = context.Process(target=measure, args=(chosen.axis, size, answer))
        process.start()
        rows.append(answer.get())
        process.join()
        print(rows[-1], flush=True)
        chosen.output.write_text(json.dumps(rows, indent=1) + "\n")
    some = [row for row in rows if row["axis"] == chosen.axis]
    if len(some) > 1:
        x = [row[chosen.axis] for row in some]
        slope = 1024 * (some[-1]["own_mib"] - some[0]["own_mib"]) / (x[-1] - x[0])
        print(f"CPU time grows with the power {power(x, [row['cpu_s'] for row in some]):.2f}")
        print(f"memory grows by {slope:.0f} KiB for one more ({LABELS[chosen.axis]})")


if __name__ == "__main__":
    main()
