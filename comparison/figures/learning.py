"""Calls of the calculator that relaxations take, with EMT for statistics: mekrr learn beside plain ASE and GPMin.

A gold atom on a slab of copper with two palladium atoms, the lowest layer fixed, rattled by 0.1 Angstrom; each start
has a seed of its own. All methods are taken to the same fmax, and a call is one structure whose energy and forces are
computed. "from the network's minimum": ASE's BFGS, begun where SevenNet-0 alone leads, as mekrr learn begins.

python comparison/figures/learning.py [--starts 10] [--fmax 0.05] -o docs/results/learn-relax.csv
"""

import argparse
import csv
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from ase.build import add_adsorbate, fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.optimize import BFGS
from ase.optimize.gpmin.gpmin import GPMin

from mekrr.learning import learn
from mekrr.learning.journal import read_labels

FACTORY = "from ase.calculators.emt import EMT\n\n\ndef make():\n    return EMT()\n"
COLUMNS = ("seed", "method", "calls", "fmax", "energy", "seconds")
MOST = 300


def start(seed):
    """The structure to relax."""
    slab = fcc111("Cu", (2, 2, 2), vacuum=6.0, a=3.6)
    add_adsorbate(slab, "Au", 2.0, "bridge")
    slab.numbers[[5, 6]] = 46
    slab.pbc = True
    slab.set_constraint(FixAtoms([atom.index for atom in slab if atom.tag == 2]))
    slab.rattle(0.1, seed=seed)
    return slab


class Counted(EMT):
    """EMT that counts its structures."""

    calls = 0

    def calculate(self, *args, **kwargs):
        self.calls += 1
        super().calculate(*args, **kwargs)


def plain(optimiser, atoms, fmax):
    """Calls, largest force and energy of one of ASE's optimisers."""
    atoms = atoms.copy()
    atoms.calc = Counted()
    optimiser(atoms).run(fmax, MOST)
    return atoms.calc.calls, largest(atoms), atoms.get_potential_energy()


def largest(atoms):
    """Force on an atom, eV/Angstrom."""
    return float(np.linalg.norm(atoms.get_forces(), axis=1).max())


def learnt(atoms, fmax, folder):
    """Calls, largest force and energy of mekrr learn, and the network's own minimum."""
    (folder / "emt.py").write_text(FACTORY)
    found = list(
        learn("relax", atoms, folder=folder / "run", calculator=f"{folder}/emt.py:make", fmax=fmax, labels=MOST)
    )
    end = found[-1].structures[0].copy()
    end.calc = EMT()
    first = atoms.copy()
    first.set_positions(read_labels(folder / "run")[0].frame.positions, apply_constraint=False)
    return (found[-1].numbers["n_labels"], largest(end), end.get_potential_energy()), first


def rows_of(seed, fmax):
    """One row for each method."""
    atoms, begun = start(seed), time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        found, first = learnt(atoms, fmax, Path(name))
    yield (seed, "mekrr learn", *found, time.perf_counter() - begun)
    for method, optimiser, begin in (
        ("BFGS", lambda a: BFGS(a, logfile=None), atoms),
        ("BFGS from the network's minimum", lambda a: BFGS(a, logfile=None), first),
        ("GPMin", lambda a: GPMin(a, logfile=None), atoms),
        ("GPMin from the network's minimum", lambda a: GPMin(a, logfile=None), first),
    ):
        begun = time.perf_counter()
        yield (seed, method, *plain(optimiser, begin, fmax), time.perf_counter() - begun)


def main():
    """Write one row a method and start, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--fmax", type=float, default=0.05)
    parser.add_argument("-o", "--output", type=Path, required=True)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    with open(chosen.output, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for seed in range(chosen.starts):
            for row in rows_of(seed, chosen.fmax):
                rows.append(row)
                shown = [round(value, 4) if isinstance(value, float) else value for value in row]
                print(*shown, flush=True)
                writer.writerow(shown)
                file.flush()
    for method in dict.fromkeys(row[1] for row in rows):
        calls = [row[2] for row in rows if row[1] == method]
        print(f"{method}: median {np.median(calls):g} calls, from {min(calls)} to {max(calls)}")


if __name__ == "__main__":
    main()
