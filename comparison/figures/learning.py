"""Calls of the calculator that `mekrr learn` takes, with EMT for statistics, beside ASE's methods; see emt_starts.py.

relax   a gold atom on copper with two palladium atoms, rattled; BFGS and GPMin beside, from the same start and from the
        network's own minimum, where mekrr learn begins
neb     an atom of a surface moves into the vacancy beside it, climbing image, five images; ASE's NEB with FIRE and BFGS
        beside, from the same interpolated band; the barrier is that of each method
md      5 ps at 300 K from the relaxed start of `relax`; 20 frames labelled afterwards, and the errors on them of
        potentials fitted to as many other frames of the same trajectory, at fixed intervals and at random

All are taken to the same fmax; each start has a seed of its own; a call is one structure whose energy and forces are
computed. mlneb.py runs the ML-NEB of CatLearn, which needs an older ASE, from the same starts.

python comparison/figures/learning.py TASK [--starts 10] [--fmax 0.05] -o docs/results/learn-TASK.csv
"""

import argparse
import csv
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read
from ase.mep import NEB
from ase.optimize import BFGS, FIRE
from ase.optimize.gpmin.gpmin import GPMin
from emt_starts import Counted, hop, largest, rattled

from mekrr import KernelPotential
from mekrr.learning import learn
from mekrr.learning.journal import read_labels

FACTORY = "from ase.calculators.emt import EMT\n\n\ndef make():\n    return EMT()\n"
MOST = 300
IMAGES, ROUGH = 5, 0.3  # eV/Angstrom: below it the image climbs
STEPS, TESTED, WARM = 5000, 20, 0.1  # of dynamics, frames to test on, and the part of the run before them


def learnt(task, *ends, folder, **options):
    """The last event of a run."""
    (folder / "emt.py").write_text(FACTORY)
    words = {"folder": folder / "run", "calculator": f"{folder}/emt.py:make", "labels": MOST}
    return list(learn(task, *ends, **words, **options))[-1]


def relax(seed, fmax, folder):
    """Calls, largest force and energy of one relaxation by each method."""
    atoms, begun = rattled(seed), time.perf_counter()
    event = learnt("relax", atoms, folder=folder, fmax=fmax)
    end = event.structures[0].copy()
    end.calc = EMT()
    row = event.numbers["n_labels"], largest(end), end.get_potential_energy()
    yield ("mekrr learn", *row, time.perf_counter() - begun)
    first = atoms.copy()
    first.set_positions(read_labels(folder / "run")[0].frame.positions, apply_constraint=False)
    for method, optimiser, begin in (
        ("BFGS", BFGS, atoms),
        ("BFGS from the network's minimum", BFGS, first),
        ("GPMin", GPMin, atoms),
        ("GPMin from the network's minimum", GPMin, first),
    ):
        begun, found = time.perf_counter(), begin.copy()
        found.calc = Counted()
        optimiser(found, logfile=None).run(fmax, MOST)
        yield (method, found.calc.calls, largest(found), found.get_potential_energy(), time.perf_counter() - begun)


def neb(seed, fmax, folder):
    """Calls, largest force on the climbing image and barrier of one path by each method."""
    start, end = hop(seed)
    begun = time.perf_counter()
    event = learnt("neb", start, end, folder=folder, fmax=fmax, images=IMAGES)
    row = event.numbers["n_labels"], event.numbers.get("fmax"), event.numbers.get("barrier_ev")
    yield ("mekrr learn", *row, time.perf_counter() - begun)
    for method, optimiser in (("NEB, FIRE", FIRE), ("NEB, BFGS", BFGS)):
        begun, calculator = time.perf_counter(), Counted()
        images = [start.copy(), *(start.copy() for _ in range(IMAGES)), end.copy()]
        for image in images:
            image.calc = calculator
        for image in (images[0], images[-1]):  # calculated once, as mekrr learn's
            found = {"energy": image.get_potential_energy(), "forces": image.get_forces()}
            image.calc = SinglePointCalculator(image, **found)
        band = NEB(images, k=0.5, method="improvedtangent", allow_shared_calculator=True)
        band.interpolate("idpp", mic=True)
        for climb, goal in ((False, ROUGH), (True, fmax)):
            band.climb = climb
            with optimiser(band, logfile=None) as moving:
                moving.run(goal, 1000)
        top = images[int(np.argmax(band.energies))]
        barrier = float(band.energies.max() - band.energies[0])
        yield (method, calculator.calls, largest(top), barrier, time.perf_counter() - begun)


def md(seed, _, folder):
    """Labels and errors of forces, meV/Angstrom; the last column but one is what the run itself expected."""
    start = rattled(seed)
    start.calc = EMT()
    BFGS(start, logfile=None).run(0.05, MOST)
    start.calc = None
    begun = time.perf_counter()
    event = learnt("md", start, folder=folder, temperature="300", timestep=1.0, steps=STEPS)
    calls, seconds = event.numbers["n_labels"], time.perf_counter() - begun
    frames = read(folder / "run" / "walker-0.extxyz", ":")
    for frame in frames:
        frame.set_constraint()
        frame.info.clear()  # says that its results are predictions, which a fit refuses as labels
        frame.calc = EMT()
        found = {"energy": frame.get_potential_energy(), "forces": frame.get_forces()}
        frame.calc = SinglePointCalculator(frame, **found)
    tested = np.linspace(WARM * len(frames), len(frames) - 1, TESTED).astype(int)
    left = np.setdiff1d(np.arange(len(frames)), tested)
    potential = KernelPotential.load(folder / "run" / "model.safetensors")
    yield ("mekrr learn", calls, *errors(potential, [frames[i] for i in tested]), seconds)
    for method, chosen in (
        ("fixed intervals", left[np.linspace(0, len(left) - 1, calls).astype(int)]),
        ("at random", np.random.default_rng(seed).choice(left, calls, replace=False)),
    ):
        begun = time.perf_counter()
        potential = KernelPotential().fit([frames[i] for i in chosen])
        row = errors(potential, [frames[i] for i in tested])
        yield (method, calls, *row, time.perf_counter() - begun)


def errors(potential, frames):
    """Root mean square error of forces in meV/Angstrom, and the deviation that was said."""
    found = potential.predict([frame.copy() for frame in frames], force_uncertainty=True)
    error = np.concatenate([p.forces - f.get_forces() for p, f in zip(found, frames, strict=True)])
    expected = np.concatenate([p.forces_std for p in found])
    return 1000 * float(np.sqrt((error**2).mean())), 1000 * float(np.sqrt((expected**2).mean()))


TASKS = {
    "relax": (relax, ("fmax", "energy")),
    "neb": (neb, ("fmax", "barrier")),
    "md": (md, ("forces_rmse", "forces_deviation")),
}


def main():
    """Write one row a method and start, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--fmax", type=float, default=0.05)
    parser.add_argument("-o", "--output", type=Path, required=True)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    rows_of, columns = TASKS[chosen.task]
    rows = []
    with open(chosen.output, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("seed", "method", "calls", *columns, "seconds"))
        for seed in range(chosen.starts):
            with tempfile.TemporaryDirectory() as name:
                for row in rows_of(seed, chosen.fmax, Path(name)):
                    rows.append(row)
                    shown = [seed, *(round(value, 4) if isinstance(value, float) else value for value in row)]
                    print(*shown, flush=True)
                    writer.writerow(shown)
                    file.flush()
    for method in dict.fromkeys(row[0] for row in rows):
        calls, values = ([row[k] for row in rows if row[0] == method] for k in (1, 2))
        said = f"{columns[0]} median {np.median(values):.3g}, largest {max(values):.3g}"
        print(f"{method}: median {np.median(calls):g} calls, from {min(calls)} to {max(calls)}; {said}")


if __name__ == "__main__":
    main()
