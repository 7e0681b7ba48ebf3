"""What the sparse basis costs where energies alone are fitted, beside the exact solver.

    python comparison/figures/exact_or_sparse.py [--inducing 200,500,1500]
    python comparison/figures/exact_or_sparse.py --training FILE --test FILE [--count 1000]

Every second structure of the embedded data set is fitted, the others are predicted, or so many of one file and those of
another, with one layer and everything else chosen by each solver itself. Beyond 3,000 structures energies alone go to
the sparse solver unless --solver says exact.
"""

import argparse
import time
import warnings

import numpy as np

import mekrr


def main() -> None:
    """One line a solver."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inducing", default="200,500,1500")
    parser.add_argument("--cache", default=None)
    parser.add_argument("--training", default=None)
    parser.add_argument("--test", default=None)
    parser.add_argument("--count", type=int, default=1000)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    if chosen.training is None:
        structures = mekrr.load_dataset("cu-formate-mini")
        train, test = structures[::2], structures[1::2]
    else:
        train = mekrr.read_structures(chosen.training)[: chosen.count]
        test = mekrr.read_structures(chosen.test)[: chosen.count]
    ways = [{"solver": "exact"}]
    ways += [{"solver": "sparse", "inducing": int(n)} for n in chosen.inducing.split(",")]
    print(f"{len(train)} structures, {sum(map(len, train))} atoms; tested on {len(test)}")
    for way in ways:
        start = time.process_time()
        potential = mekrr.KernelPotential(
            "sevennet-0", forces=False, layers=("interaction_1",), cache=chosen.cache, **way
        ).fit(train)
        seconds = time.process_time() - start
        found = potential.predict(test, forces=False)
        errors = 1000 * np.array([(p.energy - s.energy) / len(s) for p, s in zip(found, test, strict=True)])
        print(
            f"{way}: RMSE {np.sqrt(np.mean(errors**2)):.2f}, MAE {np.abs(errors).mean():.2f} meV/atom, {seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
