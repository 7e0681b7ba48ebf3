"""Kill commands at random moments with SIGKILL, run them again, and compare what they wrote with an undisturbed run.

    python tools/kill_anywhere.py --moments 50 [--commands fit,predict,md,select] [--seed 0]

Everything is made from the embedded data set, in a temporary folder. What is compared: tensors and header of a model
but for its seconds, and the bytes of structures and trajectories.
"""

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ase.io
from safetensors import safe_open

from mekrr.data import load_dataset

PROGRAM = [sys.executable, "-c", "from mekrr.cli import main; main()"]
THREADS = ["--threads", "1"]  # else it is as many as cores are idle, and the last bits of a fit hang on that
FIXED = "--layer interaction_1 --length-scale 12 --species-weight 0.5 --ridge 1e-4 --probes 2 --cache cache"
FEATURES, TANGENT = f"{FIXED} --tangent-share 0", f"{FIXED} --tangent-share 0.5"
COMMANDS = {
    "fit": (f"fit train.extxyz -o OUT {FEATURES}", "out.safetensors"),
    "fit-tangent": (f"fit train.extxyz -o OUT {TANGENT}", "out.safetensors"),
    "predict": ("predict model.safetensors test.extxyz -o OUT", "out.extxyz.gz"),
    "select": ("select model.safetensors test.extxyz -n 3 -o OUT --cache cache", "out.traj"),
    "md": ("md model.safetensors test.extxyz -o OUT --steps 12 --every 1 --resume --ensemble langevin", "out.extxyz"),
}


def main(arguments: list[str] | None = None) -> int:
    """0 when every run after a kill gave the bits of an undisturbed one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--moments", type=int, default=50, help="kills in all, shared out over the commands")
    parser.add_argument("--commands", default=",".join(COMMANDS))
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="mekrr-kill-") as name:
        return kill_all(Path(name), chosen.commands.split(","), chosen.moments, random.Random(chosen.seed))


def kill_all(folder: Path, names: list[str], moments: int, rng: random.Random) -> int:
    """Prepare the inputs, run each command undisturbed, then kill and repeat."""
    prepare(folder)
    wrong = 0
    undisturbed = {}
    for name in names:
        shutil.rmtree(folder / "cache", ignore_errors=True)
        started = time.monotonic()
        if start(folder, name).wait() != 0:
            raise SystemExit(f"mekrr {name} itself fails: run it by hand")
        undisturbed[name] = digest(folder / COMMANDS[name][1]), time.monotonic() - started
    for k in range(moments):
        name = names[k % len(names)]
        expected, seconds = undisturbed[name]
        moment = rng.uniform(0, seconds)
        output = folder / COMMANDS[name][1]
        shutil.rmtree(folder / "cache", ignore_errors=True)
        # Half of the time an older file is there: until the new one is whole, it must stay.
        old = name != "md" and rng.random() < 0.5
        output.unlink(missing_ok=True)
        if old:
            output.write_bytes(b"old")
        process = start(folder, name)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        whole = name == "md" or not output.exists() or output.read_bytes() == b"old" or digest(output) == expected
        code = start(folder, name).wait()
        same = code == 0 and digest(output) == expected
        wrong += not (whole and same)
        print(
            f"{k + 1}/{moments} {name} killed after {moment:.2f} s: {'same' if whole and same else 'DIFFERENT'}",
            flush=True,
        )
    print(f"{moments - wrong} of {moments} gave the same bits")
    return min(wrong, 1)


def prepare(folder: Path) -> None:
    """Training and test structures and a model."""
    frames = []
    for structure in load_dataset("cu-formate-mini")[::25][:10]:
        atoms = structure.atoms.copy()
        atoms.info["REF_energy"] = structure.energy
        atoms.arrays["REF_forces"] = structure.forces
        frames.append(atoms)
    ase.io.write(folder / "train.extxyz", frames[:6])
    ase.io.write(folder / "test.extxyz", frames[6:])
    if start(folder, "fit").wait() != 0:
        raise SystemExit("the fit itself fails: run it by hand")
    (folder / COMMANDS["fit"][1]).rename(folder / "model.safetensors")


def start(folder: Path, name: str) -> subprocess.Popen:
    """The command as its own process, quiet."""
    line, output = COMMANDS[name]
    words = [output if word == "OUT" else word for word in line.split()]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([*PROGRAM, *words, *THREADS], cwd=folder, **quiet)


def digest(path: Path) -> str:
    """Of what must be the same each time."""
    if path.suffix != ".safetensors":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    found = hashlib.sha256()
    with safe_open(path, framework="np") as file:
        header = json.loads(file.metadata()["mekrr"])
        header["record"].pop("seconds")
        found.update(json.dumps(header, sort_keys=True).encode())
        for tensor in sorted(file.keys()):
            found.update(tensor.encode() + file.get_tensor(tensor).tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
