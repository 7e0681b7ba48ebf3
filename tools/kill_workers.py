"""Kill a worker of a fit on two worker processes with SIGKILL at random moments, and compare the models.

    python tools/kill_workers.py --moments 10 [--seed 0] [--backbone sevennet-0]

Structures are some of the embedded data set. Without --backbone the network is a small SchNet with random weights,
which loads at once. Every model must have the bits of one process's with one thread.
"""

import argparse
import os
import random
import signal
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mekrr import KernelPotential, load_dataset
from mekrr.backbones.schnet import SchNetNetwork, SchNetShape
from mekrr.cluster import connected
from mekrr.potential.archive import pack
from mekrr.shards import Shards

if TYPE_CHECKING:
    from dask.distributed import Client

OPTIONS = {
    "length_scale": 6.0, "species_weight": 0.5, "prior": "composition", "force_weight": 1e-3, "ridge": 1e-5,
    "inducing": 30, "tangent_share": 0.5, "probes": 2, "batch_atoms": 30,
}  # fmt: skip
SHAPE = SchNetShape(hidden_channels=24, num_filters=16, num_interactions=3, num_gaussians=20, cutoff=4.5)


def main(arguments: list[str] | None = None) -> int:
    """0 when every model is the same."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backbone")
    chosen = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rng = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory(prefix="mekrr-kill-") as folder:
        backbone = chosen.backbone or f"schnet:{random_weights(Path(folder))}"
        expected = fit(backbone)[0]
        with connected("local:2") as shards:
            fit(backbone, shards)  # processes load their packages first
            seconds = fit(backbone, shards)[1]
            wrong = sum(
                not survives(backbone, shards, expected, rng.uniform(0, seconds)) for _ in range(chosen.moments)
            )
    print(f"{chosen.moments - wrong} of {chosen.moments} gave the same bits")
    return min(wrong, 1)


def survives(backbone: str, shards: Shards, expected: dict, moment: float) -> bool:
    """Whether a fit one of whose workers is killed after so many seconds gives the same tensors."""
    client = shards.client  # type: ignore[attr-defined]
    pid = two_alive(client)[0]
    timer = threading.Timer(moment, os.kill, (pid, signal.SIGKILL))
    timer.start()
    found, seconds = fit(backbone, shards)
    timer.join()
    same = found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    print(f"killed after {moment:.2f} s of {seconds:.2f}: {'same' if same else 'DIFFERENT'}", flush=True)
    return same


def two_alive(client: "Client") -> list[int]:
    """Processes of the workers, when there are two that answer: one that was killed may still be listed.

    Raises:
        TimeoutError: when there are none for five minutes.
    """
    end = time.monotonic() + 300
    while time.monotonic() < end:
        found = [pid for pid in client.run(os.getpid, on_error="ignore").values() if isinstance(pid, int)]
        if len(found) == 2:
            return found
        time.sleep(1)
    raise TimeoutError("the worker that was killed has not been replaced for five minutes")


def fit(backbone: str, cluster: Shards | None = None) -> tuple[dict, float]:
    """Tensors of the model file, and the seconds of the fit."""
    from safetensors.torch import load

    started = time.monotonic()
    potential = KernelPotential(backbone, cluster=cluster, **OPTIONS).fit(load_dataset("cu-formate-mini")[::25][:10])
    return load(pack(potential.fitted_)[0]), time.monotonic() - started


def random_weights(folder: Path) -> Path:
    """In the published format."""
    torch.manual_seed(0)
    tensors = SchNetNetwork(SHAPE).state_dict()
    state = {f"module.module.{name}": tensor for name, tensor in tensors.items()}
    state |= {"module.module." + n.replace(".mlp.", ".conv.nn."): t for n, t in tensors.items() if ".mlp." in n}
    state["module.module.distance_expansion.offset"] = SchNetNetwork(SHAPE).offset
    state["module.module.atomic_mass"] = torch.ones(100)
    settings = {"model_attributes": dict(vars(SHAPE), use_pbc=True)}
    normalisers = {"target": {"mean": torch.tensor(0.0), "std": torch.tensor(1.0)}}
    path = folder / "schnet.pt"
    torch.save({"epoch": 1, "state_dict": state, "normalizers": normalisers, "config": settings}, path)
    return path


if __name__ == "__main__":
    raise SystemExit(main())
