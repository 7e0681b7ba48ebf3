"""Label the candidates of cu-formate-mini with GPAW, one structure after another.

Every label is a small JSON file, written to a temporary name and renamed, so
the run can be stopped at any moment and started again: structures already
labelled, or already refused, are skipped. The candidates folder is read again
after every structure, so sampling may still be going on.

The order mixes all trajectories and all stages of each, clean slabs first, so
that whatever is done at any time covers the whole.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import dft
import numpy as np
from ase import Atoms
from ase.io import read
from gpaw import KohnShamConvergenceError

GOLDEN = 0.6180339887498949


def candidates(folder: Path) -> list[Atoms]:
    """All candidates in the order of labelling."""
    keyed = []
    for number, path in enumerate(sorted(folder.glob("*.xyz"))):
        for index, atoms in enumerate(read(path, ":")):
            rank = ((index + 1) * GOLDEN + number * GOLDEN**2) % 1.0
            keyed.append((-1.0 if atoms.info["part"] == "clean" else rank, path.stem, index, atoms))
    return [item[-1] for item in sorted(keyed, key=lambda item: item[:3])]


def label(atoms: Atoms, log: Path) -> dict[str, object]:
    """Free energy, energy at zero smearing and forces of one structure.

    Args:
        atoms: Structure; its calculator is replaced.
        log: GPAW's own log.

    Returns:
        The label, ready for JSON.

    Raises:
        KohnShamConvergenceError: If the calculation did not converge.
    """
    began = time.time()
    atoms.calc = dft.calculator(atoms, log)
    energy = atoms.get_potential_energy(force_consistent=True)
    extrapolated = atoms.get_potential_energy()
    forces = atoms.get_forces()
    if not (np.isfinite(energy) and np.isfinite(forces).all()):
        raise KohnShamConvergenceError("a value is not finite")
    return {
        "uid": atoms.info["uid"],
        "energy": float(energy),
        "energy_zero_smearing": float(extrapolated),
        "forces": np.round(forces, 6).tolist(),
        "iterations": int(atoms.calc.get_number_of_iterations()),
        "seconds": round(time.time() - began, 1),
    }


def write_json(path: Path, content: dict[str, object]) -> None:
    """Write a file at once."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content))
    temporary.rename(path)


def next_candidate(folder: Path, labels: Path) -> Atoms | None:
    """First candidate with neither a label nor a refusal."""
    for atoms in candidates(folder):
        uid = atoms.info["uid"]
        if not (labels / f"{uid}.json").exists() and not (labels / f"{uid}.refused").exists():
            return atoms
    return None


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=Path, required=True, help="folder that sample.py wrote")
    parser.add_argument("--labels", type=Path, required=True, help="folder for the labels")
    parser.add_argument("--until", default="", help="start no structure after this local time, as 18:05")
    parser.add_argument("--limit", type=int, default=10**9, help="stop after this many new labels")
    parser.add_argument("--wait", action="store_true", help="wait for more candidates until --until or a file STOP")
    parser.add_argument("--stock", action="store_true", help="use GPAW's own sums: slower, same numbers")
    arguments = parser.parse_args()
    if not arguments.stock:
        dft.use_fast_sums()
    arguments.labels.mkdir(parents=True, exist_ok=True)
    done = 0
    while done < arguments.limit and not (arguments.labels / "STOP").exists():
        if arguments.until and time.strftime("%H:%M") >= arguments.until:
            break
        atoms = next_candidate(arguments.candidates, arguments.labels)
        if atoms is None:
            if not arguments.wait:
                break
            time.sleep(5)
            continue
        uid = atoms.info["uid"]
        try:
            result = label(atoms, arguments.labels / "gpaw.log")
        except KohnShamConvergenceError as error:
            write_json(arguments.labels / f"{uid}.refused", {"uid": uid, "reason": f"not converged: {error}"})
            print(f"{time.strftime('%H:%M:%S')} {uid} REFUSED", flush=True)
            continue
        write_json(arguments.labels / f"{uid}.json", result)
        done += 1
        forces = np.abs(result["forces"]).max()
        print(
            f"{time.strftime('%H:%M:%S')} {uid} {result['energy']:.4f} eV, largest force {forces:.2f}, "
            f"{result['iterations']} iterations, {result['seconds']} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
