"""Transfer on the embedded data: from intact formate to the breaking C-H bond, and to a larger cell.

    python comparison/figures/transfer.py > docs/transfer.txt

Trajectories along the bond breaking are divided as a whole: half of them may be learned from, the others are the test.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence

import mekrr
from mekrr.data import split
from mekrr.evaluation import Evaluation

DATASET = "cu-formate-mini"
PRIORS = ("auto", "backbone", "composition")
ROW = "{:<26} {:<15} {:<30} {:>3} {:>8} {:>8} {:>7}"


def main() -> None:
    """Print one row for each training set, test set and prior, and the baselines under them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="sevennet-0")
    backbone = parser.parse_args().backbone
    train_sets, test_sets = divide()
    print(f"{DATASET}, {backbone}, mekrr {mekrr.__version__}. RMSE of energies in meV/atom, of forces in meV/Angstrom;")
    print("the last column is the share of energies within two predicted deviations (95% expected), in percent.\n")
    print(ROW.format("fitted to", "tested on", "what", "n", "energy", "forces", "2 dev."))
    with tempfile.TemporaryDirectory() as cache:
        for trained_on, train in train_sets.items():
            for row in rows(backbone, train, test_sets, cache):
                print(ROW.format(f"{trained_on} ({len(train)})", *row), flush=True)


def divide() -> tuple[dict[str, list[mekrr.Structure]], dict[str, list[mekrr.Structure]]]:
    """Training sets and test sets by name."""
    d2 = mekrr.load_dataset(DATASET, "d2")
    halves = split(d2, train=0.5, method="group", group_key="trajectory")
    intact = mekrr.load_dataset(DATASET, ["clean", "d1"])
    train_sets = {"intact": intact, "intact + half of d2": intact + [d2[t] for t in halves.train]}
    test_sets = {"d2, other half": [d2[t] for t in halves.test], "d3, larger cell": mekrr.load_dataset(DATASET, "d3")}
    return train_sets, test_sets


def rows(
    backbone: str, train: Sequence[mekrr.Structure], test_sets: dict[str, list[mekrr.Structure]], cache: str
) -> Iterator[tuple[str, ...]]:
    """The rows of one training set; the baselines do not depend on the prior and come once a test set."""
    potentials = {
        prior: mekrr.KernelPotential(backbone, prior=prior, cache=cache, forces=False).fit(train) for prior in PRIORS
    }
    for tested_on, test in test_sets.items():
        for prior, potential in potentials.items():
            found = mekrr.evaluate(potential, test)
            chosen = f" -> {potential.fitted_.prior.name}" if prior == "auto" else ""
            yield tested_on, f"prior {prior}{chosen}", str(len(test)), *errors(found)
        metrics = found.metrics()
        yield tested_on, "backbone + shifts", str(len(test)), *numbers(metrics, "backbone_energy", "backbone_forces")
        yield tested_on, "energies per element", str(len(test)), *numbers(metrics, "composition_energy", "zero_forces")


def errors(found: Evaluation) -> tuple[str, ...]:
    """Energy and force RMSE, and how often the deviation holds."""
    metrics = found.metrics()
    energy, forces, _ = numbers(metrics, "energy", "forces")
    return energy, forces, f"{100 * metrics['share_within_two_std']:.0f}"


def numbers(metrics: dict, energy: str, forces: str) -> tuple[str, str, str]:
    """Two RMSE, with nothing to say about deviations."""
    return f"{metrics[f'{energy}_rmse_mev_per_atom']:.2f}", f"{metrics[f'{forces}_rmse_mev_per_angstrom']:.1f}", "-"


if __name__ == "__main__":
    main()
