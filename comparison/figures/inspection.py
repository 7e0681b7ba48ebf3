"""Time and memory of `mekrr inspect` on a file of very many small structures.

    python comparison/figures/inspection.py --sizes 10000,100000 --formats extxyz,aselmdb

Structures are those of the embedded data set, moved at random, with energies and forces, as ASE writes them. Each file
is inspected in a process of its own; what is printed is its time of CPU and of the clock, and its peak memory.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import ase.db
import ase.io
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from growth import moved

AT_ONCE = 2000  # frames that are written together


def frames(count: int) -> Iterator[Atoms]:
    """So many, with their labels."""
    for one in moved(count):
        atoms = one.atoms.copy()
        atoms.calc = SinglePointCalculator(atoms, energy=one.energy, forces=one.forces)
        yield atoms


def write(path: Path, count: int) -> None:
    """A file of so many structures in the format of its suffix."""
    if path.suffix == ".aselmdb":
        with ase.db.connect(str(path), type="aselmdb") as database:
            for atoms in frames(count):
                database.write(atoms)
        return
    some: list[Atoms] = []
    for k, atoms in enumerate(frames(count), 1):
        some.append(atoms)
        if len(some) == AT_ONCE or k == count:
            ase.io.write(path, some, format="extxyz", append=True)
            some = []


def inspected(path: Path) -> dict[str, float]:
    """What `mekrr inspect` of the file takes."""
    command = [sys.executable, "-c", "from mekrr.cli import main; main()", "inspect", str(path), "--json"]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "exit_code": process.returncode,
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "wall_s": round(time.perf_counter() - start, 1),
        "peak_mib": round(used.ru_maxrss / 1024),
    }


def main() -> None:
    """One line a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", default="10000,100000")
    parser.add_argument("--formats", default="extxyz,aselmdb")
    parser.add_argument("--folder", type=Path, help="where files are kept; by default they are removed")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = chosen.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        for suffix in chosen.formats.split(","):
            for count in map(int, chosen.sizes.split(",")):
                path = folder / f"{count}.{suffix}"
                if not path.exists():
                    write(path, count)
                size = path.stat().st_size / 2**20
                row = {"file": path.name, "mib": round(size)} | inspected(path)
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
