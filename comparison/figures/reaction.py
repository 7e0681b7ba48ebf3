"""DFT calls of `mekrr learn` for formate on Cu(111): relaxations, the path of its C-H scission, dynamics at 300 K.

Labels by GPAW at the level of the embedded data on a finer grid (formate_dft.py), 16 atoms; a call is one structure.

relax   bidentate formate from a sketch, to 0.05 eV/A, beside ASE's BFGS from the same sketch
ends    hydrogen-down formate, which turns over to bidentate, and CO2 + H
neb     the climbing-image path from bidentate formate to CO2 + H, five images; all of it labelled afterwards
plain   the same path by ASE's NEB from the interpolated band, at most --calls calls
md      5 ps at 300 K from the relaxed formate; twenty frames labelled afterwards

What was done lies in FOLDER and is not done again.

python comparison/figures/reaction.py FOLDER relax ends neb plain md
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
from ase.io import read, write
from ase.mep import NEB
from ase.optimize import BFGS, FIRE
from formate_dft import make, sketch

from mekrr import KernelPotential, learn

FACTORY = f"{Path(__file__).parent}/formate_dft.py:make"
FMAX = 0.05  # eV/A
CHECKED = 20  # frames of the dynamics that are labelled afterwards


def largest(atoms):
    """Largest force on an atom that is free, eV/A."""
    return float(np.linalg.norm(atoms.get_forces(), axis=1).max())


def energy(atoms):
    """The one whose derivatives the forces are, eV."""
    return atoms.get_potential_energy(force_consistent=True)


def learnt(folder, task, *ends, **options):
    """The last event of a run, which goes on where it was; what it says is printed."""
    begun = (folder / "settings.json").exists()
    for event in learn(task, *ends, folder=folder, calculator=FACTORY, resume=begun, **options):
        print(f"  {time.strftime('%H:%M:%S')} {event.kind}: {event.text}", flush=True)
    return event


def relaxed(folder, kind):
    """The minimum that a sketch of this kind leads to, and the row of its run."""
    done = folder / f"{kind}.extxyz"
    if not done.exists():
        began = time.perf_counter()
        event = learnt(folder / kind, "relax", sketch(kind), fmax=FMAX)
        atoms = event.structures[0]
        row = {
            "calls": event.numbers["n_labels"],
            "fmax": largest(atoms),
            "energy": atoms.get_potential_energy(force_consistent=True),
        }
        note(folder, f"relax {kind}, mekrr learn", row | {"seconds": time.perf_counter() - began, "end": event.kind})
        write(done, atoms)
    return read(done)


def plain_relaxation(folder, kind, method, optimiser):
    """The same by one of ASE's optimisers."""
    name = f"relax {kind}, {method}"
    if name in notes(folder):
        return
    atoms, began = sketch(kind), time.perf_counter()
    atoms.calc = make()
    optimiser(atoms, logfile="-").run(FMAX, 200)
    row = {
        "calls": atoms.calc.calls,
        "fmax": largest(atoms),
        "energy": atoms.get_potential_energy(force_consistent=True),
    }
    note(folder, name, row | {"seconds": time.perf_counter() - began})


def relax(folder, _):
    """Calls to one minimum by both methods."""
    relaxed(folder, "bidentate")
    plain_relaxation(folder, "bidentate", "BFGS", BFGS)


def ends(folder, _):
    """Minima of the other two."""
    for kind in ("dissociated", "hydrogen_down"):
        relaxed(folder, kind)


def neb(folder, _):
    """The path, and what DFT says of each of its images."""
    began = time.perf_counter()
    event = learnt(folder / "neb", "neb", relaxed(folder, "bidentate"), relaxed(folder, "dissociated"), fmax=FMAX)
    row = {"calls": event.numbers["n_labels"], "end": event.kind, "seconds": time.perf_counter() - began}
    images = list(event.structures)
    write(folder / "path.extxyz", images)
    calculator = make()
    potential = KernelPotential.load(folder / "neb" / "model.safetensors")
    energies, errors = [], []
    for image, found in zip(images, potential.predict([image.copy() for image in images]), strict=True):
        image = image.copy()
        image.calc = calculator
        # labels, and so the potential, are of the energy whose derivatives the forces are
        energies.append(image.get_potential_energy(force_consistent=True))
        errors.append(found.energy - energies[-1])
        print(f"  image: potential {found.energy:.3f}, DFT {energies[-1]:.3f} eV", flush=True)
    row["barrier, eV"] = max(energies) - energies[0]
    row["path, potential - DFT, eV"] = np.round(errors, 4).tolist()
    note(folder, "neb, mekrr learn", row)


def plain(folder, calls):
    """ASE's NEB with DFT, from the interpolated path."""
    images = [relaxed(folder, "bidentate")]
    images += [images[0].copy() for _ in range(5)] + [relaxed(folder, "dissociated")]
    band = NEB(images, k=0.5, climb=False, method="improvedtangent", allow_shared_calculator=True)
    band.interpolate("idpp", mic=True)
    calculator, began = make(), time.perf_counter()
    for image in images[1:-1]:
        image.calc = calculator
    with FIRE(band, logfile="-") as optimiser:
        for climb, goal in ((False, 0.3), (True, FMAX)):
            band.climb = climb
            for _ in optimiser.irun(fmax=goal, steps=1000):
                if calculator.calls >= calls:
                    break
    energies = band.energies
    row = {"calls": calculator.calls, "barrier, eV": float(energies.max() - energies[0])}
    row |= {"band's largest force, eV/A": float(np.linalg.norm(band.get_forces().reshape(-1, 3), axis=1).max())}
    note(folder, "neb, ASE", row | {"seconds": time.perf_counter() - began})


def md(folder, _):
    """Dynamics, and how wrong the last potential is on frames that it did not see."""
    began = time.perf_counter()
    event = learnt(folder / "md", "md", relaxed(folder, "bidentate"), temperature="300", timestep=1.0, steps=5000)
    row = {"calls": event.numbers["n_labels"], "end": event.kind, "seconds": time.perf_counter() - began}
    frames = read(folder / "md" / "walker-0.extxyz", ":")
    chosen = [frames[i].copy() for i in np.linspace(len(frames) * 0.025, len(frames) - 1, CHECKED).astype(int)]
    potential, calculator, errors = KernelPotential.load(folder / "md" / "model.safetensors"), make(), []
    for i, (frame, found) in enumerate(zip(chosen, potential.predict(chosen), strict=True)):
        frame.set_constraint()
        frame.calc = calculator
        errors.append(found.forces - frame.get_forces())
        print(f"  frame {i}: {1000 * np.sqrt((errors[-1] ** 2).mean()):.0f} mev/A", flush=True)
    row["forces, RMSE, meV/A"] = 1000 * float(np.sqrt(np.mean(np.square(errors))))
    note(folder, "md, mekrr learn", row)


def notes(folder):
    """What was measured."""
    path = folder / "figures.json"
    return json.loads(path.read_text()) if path.exists() else {}


def note(folder, name, row):
    """Keep a row, and show it."""
    rows = notes(folder) | {name: {key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()}}
    (folder / "figures.json").write_text(json.dumps(rows, indent=1))
    print(name, rows[name], flush=True)


TASKS = {"relax": relax, "ends": ends, "neb": neb, "plain": plain, "md": md}


def main():
    """Do what is asked, in order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("tasks", nargs="+", choices=TASKS)
    parser.add_argument("--calls", type=int, default=400, help="of the plain path")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    chosen.folder.mkdir(parents=True, exist_ok=True)
    for task in chosen.tasks:
        TASKS[task](chosen.folder, chosen.calls)


if __name__ == "__main__":
    main()
