"""Calls of CatLearn's ML-NEB for the paths of `learning.py neb`, to the same limits, with as many images.

CatLearn 0.6.2 imports what ASE and SciPy have given up since, so it wants an environment of its own. (AIDMin and AIDNEB
of gpatom 1.0.0 end in a TypeError of its own: its parts do not fit each other.)

python -m venv catlearn && catlearn/bin/pip install "ase==3.22.1" "numpy<2" "scipy<1.13" catlearn==0.6.2
catlearn/bin/python comparison/figures/mlneb.py [--starts 10] [--fmax 0.05]
"""

import argparse
import os
import tempfile
import time
import warnings

import numpy as np
from catlearn.optimize.mlneb import MLNEB
from emt_starts import Counted, hop, largest

CERTAIN = 0.05  # eV, along the path: that of `mekrr learn neb`


def neb(seed, fmax):
    """Calls, largest force on the highest image and barrier, both by EMT; calls for the two ends count."""
    start, end = hop(seed)
    calculator = Counted()
    start.calc, end.calc = Counted(), Counted()
    start.get_forces(), end.get_forces()
    search = MLNEB(start, end, ase_calc=calculator, n_images=7, k=0.5, interpolation="idpp", mic=True, restart=False)
    search.run(fmax=fmax, unc_convergence=CERTAIN)
    calls = calculator.calls + 2
    images = [image.copy() for image in search.images]
    for image in images:
        image.calc = Counted()
    energies = [image.get_potential_energy() for image in images]
    return calls, largest(images[int(np.argmax(energies))]), max(energies) - energies[0]


def main():
    """A row for each start."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--fmax", type=float, default=0.05)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    here, calls = os.getcwd(), []
    for seed in range(chosen.starts):
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            begun = time.perf_counter()
            row = neb(seed, chosen.fmax)
            os.chdir(here)
        calls.append(row[0])
        print(seed, *np.round(row, 4).tolist(), f"{time.perf_counter() - begun:.0f} s", flush=True)
    print(f"ML-NEB: median {np.median(calls):g} calls, from {min(calls)} to {max(calls)}")


if __name__ == "__main__":
    main()
