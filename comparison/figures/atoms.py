"""How the cost of a fit grows with the atoms of a structure: mekrr (probed, exact forces) and franken 0.7.

    python comparison/figures/atoms.py -o FOLDER [--sizes 16,52,108,208]
        [--methods mekrr-sparse,mekrr,franken] [--structures 4]

Fcc copper, primitive cells repeated (2, 2, 4), (2, 2, 13), (3, 3, 12), (4, 4, 13), atoms displaced by 0.1 A, energies
and forces of ASE's EMT: the number of neighbours is the same at every size. Four structures a fit, of which franken
holds one out, as it must; both take the second interaction of SevenNet-0 (franken also the first). Every fit is a
process of its own, and what is in FOLDER is not computed again. The exponent is that of seconds ~ atoms^p between the
two largest sizes.

Needs one environment: pip install ".[sevennet]" "./comparison[franken]". Pin it to one core with OMP_NUM_THREADS=1.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT

from mekrr.data import Structure
from mekrr_comparison.cell import Cell
from mekrr_comparison.runner import run_cells

REPEATS = {16: (2, 2, 4), 52: (2, 2, 13), 108: (3, 3, 12), 208: (4, 4, 13)}
OPTIONS = {"mekrr": {"layers": ["interaction_1"]}, "mekrr-sparse": {"layers": ["interaction_1"]}}


def crystals(size, count):
    rng = np.random.default_rng(size)
    found = []
    for k in range(count):
        atoms = bulk("Cu").repeat(REPEATS[size])
        atoms.positions += rng.normal(scale=0.1, size=atoms.positions.shape)
        atoms.calc = EMT()
        found.append(Structure(atoms.copy(), atoms.get_potential_energy(), atoms.get_forces(), index=k))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--sizes", default="16,52,108,208")
    parser.add_argument("--methods", default="mekrr-sparse,mekrr,franken")
    parser.add_argument(
        "--structures", type=int, default=4, help="of a fit, one of them held out by franken; mekrr needs three"
    )
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.sizes.split(",")]
    cells = []
    for method in arguments.methods.split(","):
        for size in sizes:
            *training, held, test = crystals(size, arguments.structures + 1)  # the last one is predicted
            labels = {"atoms": size}
            options = OPTIONS.get(method, {})
            cells.append(Cell(method, labels, training, [held], {"test": [test]}, options=options))
    results = run_cells(cells, arguments.output, tell=lambda what, done, total: print(f"{done}/{total} {what}"))
    print("method, atoms: seconds of the fit without loading the network, peak MiB")
    by_method = {}
    for result in results:
        name, size, record = result.cell.method, result.cell.labels["atoms"], result.record
        if not result.is_done:
            print(f"{name}, {size}: {record['message']}")
            continue
        stages = record["seconds"]["stages"]
        seconds = record["seconds"]["fit"] - stages.get("backbone", 0.0)
        by_method.setdefault(name, {})[size] = seconds
        parts = ", ".join(f"{stage} {value:.1f}" for stage, value in stages.items())
        print(f"{name}, {size}: {seconds:.1f} s, {record['peak_memory_mib']:.0f} MiB ({parts})")
    for name, seconds in by_method.items():
        if len(seconds) > 1:
            *_, one, two = sorted(seconds)
            print(f"{name}: exponent {math.log(seconds[two] / seconds[one]) / math.log(two / one):.2f}")


if __name__ == "__main__":
    main()
