"""Assemble the labelled structures of cu-formate-mini into the embedded files.

Writes ``cu-formate-mini-<part>.extxyz.gz`` for the parts d1, d2, d3 and clean.
The files are the same byte for byte whenever the labels are.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from geometry import is_sane

PARTS = ("clean", "D1", "D2", "D3")
INFO = ("part", "config_type", "d_CH", "temperature", "trajectory", "seed", "displacement")


def labelled(candidates: Path, labels: Path) -> list[Atoms]:
    """Candidates that have a label, with it, sorted by trajectory and time."""
    result = []
    for path in sorted(candidates.glob("*.xyz")):
        for atoms in read(path, ":"):
            target = labels / f"{atoms.info['uid']}.json"
            if target.exists() and not is_sane(atoms):
                result.append(with_label(atoms, json.loads(target.read_text())))
    return result


def with_label(atoms: Atoms, label: dict) -> Atoms:
    """Structure with the label in a calculator and the kept info."""
    copy = Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    copy.info = {key: atoms.info[key] for key in INFO}
    copy.info["uid"] = label["uid"]
    copy.info["energy_zero_smearing"] = rounded(label["energy_zero_smearing"])
    copy.calc = SinglePointCalculator(copy, energy=rounded(label["energy"]), forces=rounded(label["forces"]))
    return copy


def rounded(values: float | list) -> float | np.ndarray:
    """Round to 0.0001 (eV, eV/A); negative zero becomes zero."""
    result = np.round(np.array(values, float), 4) + 0.0
    return float(result) if result.ndim == 0 else result


def write_part(path: Path, structures: list[Atoms]) -> None:
    """Write compressed extxyz without a time stamp or a file name in it."""
    text = io.StringIO()
    write(text, structures, format="extxyz")
    with path.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
        packed.write(text.getvalue().encode())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=Path, required=True, help="folder that sample.py wrote")
    parser.add_argument("--labels", type=Path, required=True, help="folder that label.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for the embedded files")
    arguments = parser.parse_args()
    structures = labelled(arguments.candidates, arguments.labels)
    for part in PARTS:
        chosen = [atoms for atoms in structures if atoms.info["part"] == part]
        if not chosen:
            continue
        path = arguments.out / f"cu-formate-mini-{part.lower()}.extxyz.gz"
        write_part(path, chosen)
        kinds = Counter(atoms.info["config_type"] for atoms in chosen)
        print(f"{path.name}: {len(chosen)} structures {dict(kinds)}, {path.stat().st_size / 1000:.1f} kB")


if __name__ == "__main__":
    main()
