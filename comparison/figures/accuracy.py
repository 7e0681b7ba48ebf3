"""Held-out errors on real data of fits to energies, everything chosen automatically unless the task says otherwise.

python comparison/figures/accuracy.py TASK [--data FOLDER] [--cache FOLDER] [--criterion NAME] [--prior NAME]

random      cu_formate/systematic without frames that have a force component of 10 eV/A or more (396 left),
            default_rng(7).permutation, 300 to train, the rest to test
transfer    trained on intact formate (segments 0, 1, 4 of systematic), tested on the dissociated segments 5, 6, 8 of
            selected: prior backbone, none and auto, and the backbone alone
mlearn      mlearn_cu: training.extxyz against test.extxyz
oxides      oxide_polymorphs: random 200 to train, 95 to test, default_rng(0)
"""

import argparse
import json
import os
import warnings
from pathlib import Path

import numpy as np

import mekrr

SHOWN = (
    "energy_rmse_mev_per_atom",
    "energy_mae_mev_per_atom",
    "energy_rmse_per_composition_mev_per_atom",
    "forces_rmse_mev_per_angstrom",
    "backbone_energy_rmse_mev_per_atom",
    "backbone_forces_rmse_mev_per_angstrom",
    "share_within_one_std",
    "share_within_two_std",
)


def calm(structures, limit=10.0):
    return [s for s in structures if np.abs(s.forces).max() < limit]


def random(folder):
    kept = calm(mekrr.read_structures(folder / "cu_formate/systematic.extxyz.gz"))
    order = np.random.default_rng(7).permutation(len(kept))
    return [kept[i] for i in order[:300]], [kept[i] for i in order[300:]]


def transfer(folder):
    train = calm(mekrr.read_structures(folder / "cu_formate/systematic.extxyz.gz"))
    test = calm(mekrr.read_structures(folder / "cu_formate/selected.extxyz.gz"))
    return [s for s in train if s.info["segment"] in (0, 1, 4)], [s for s in test if s.info["segment"] in (5, 6, 8)]


def mlearn(folder):
    return tuple(mekrr.read_structures(folder / f"mlearn_cu/{part}.extxyz.gz") for part in ("training", "test"))


def oxides(folder):
    every = mekrr.read_structures(folder / "oxide_polymorphs/oxides.db")
    order = np.random.default_rng(0).permutation(len(every))
    return [every[i] for i in order[:200]], [every[i] for i in order[200:]]


def run(name, train, test, cache, **options):
    potential = mekrr.KernelPotential("sevennet-0", cache=cache, forces=False, **options).fit(train)
    facts = potential.fitted_.record.as_json()
    best = facts["search"]["best"]
    metrics = mekrr.evaluate(potential, test).metrics()
    print(f"== {name}: {len(train)} to train, {len(test)} to test; {options or 'everything automatic'}")
    print(
        f"   chosen: {'+'.join(best['layers'])}, prior {best['prior']}, length scale {best['length_scale']:.1f}, "
        f"species weight {best['species_weight']}, ridge {best['ridge']:.1e}; leave-one-out RMSE "
        f"{best['loo_rmse_mev_per_atom']:.2f}, MAE {best['loo_mae_mev_per_atom']:.2f} meV/atom"
    )
    print(
        "   " + json.dumps({key: None if metrics[key] is None else round(metrics[key], 3) for key in SHOWN}), flush=True
    )


TASKS = {"random": random, "transfer": transfer, "mlearn": mlearn, "oxides": oxides}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MEKRR_DATA", "../shared/data")))
    parser.add_argument("--cache", type=Path, default=None)
    parser.add_argument("--criterion", default="loo+evidence")
    parser.add_argument("--prior", action="append", help="instead of auto; repeatable")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    train, test = TASKS[arguments.task](arguments.data)
    for prior in arguments.prior or (("backbone", "none", "auto") if arguments.task == "transfer" else ("auto",)):
        run(arguments.task, train, test, arguments.cache, prior=prior, criterion=arguments.criterion)
