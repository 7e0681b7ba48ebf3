"""Energies and forces on held-out structures of cu_formate, probed and exact.

python comparison/figures/forces.py TASK [--data FOLDER] [--cache FOLDER] [--backbone NAME] [--probes N] [--train N]
                            [--no-exact-forces] [--option name=value]

few      frames of systematic with fcu_index >= 1000 in order, default_rng(0).permutation(200): the first 70 to train,
         the next 30 to test
more     the same 70, tested on the 130 others
random   systematic without frames that have a force component of 10 eV/A or more (396 left),
         default_rng(7).permutation, 300 to train, the rest to test
mlearn   mlearn_cu: training.extxyz against test.extxyz
molybdenum  mlearn_mo: the same
ethanol  the first 200 of default_rng(0).permutation(1000) of its training file, against its test file
heated   mlearn_cu: dynamics at 300 K to train, at 1,000 K to test
to_d2    embedded data: clean surfaces and intact formate (D1) to train, D2 to test
to_d3    the same, tested on D3
segments trained on intact formate (segments 0, 1, 4 of systematic), tested on 5, 6, 8 of selected
"""

import argparse
import json
import os
import time
import warnings
from pathlib import Path

import numpy as np

import mekrr


def few(folder, n_test=30):
    frames = mekrr.read_structures(folder / "cu_formate/systematic.extxyz.gz")
    frames = [s for s in frames if s.info["fcu_index"] >= 1000]
    order = np.random.default_rng(0).permutation(200)
    return [frames[i] for i in order[:70]], [frames[i] for i in order[70 : 70 + n_test]]


def more(folder):
    return few(folder, n_test=130)


def calm(structures, limit=10.0):
    return [s for s in structures if np.abs(s.forces).max() < limit]


def random(folder):
    kept = calm(mekrr.read_structures(folder / "cu_formate/systematic.extxyz.gz"))
    order = np.random.default_rng(7).permutation(len(kept))
    return [kept[i] for i in order[:300]], [kept[i] for i in order[300:]]


def mlearn(folder):
    return tuple(mekrr.read_structures(folder / f"mlearn_cu/{part}.extxyz.gz") for part in ("training", "test"))


def molybdenum(folder):
    return tuple(mekrr.read_structures(folder / f"mlearn_mo/{part}.extxyz.gz") for part in ("training", "test"))


def ethanol(folder):
    train, test = (mekrr.read_structures(folder / f"ethanol/{part}.extxyz.gz") for part in ("training", "test"))
    return [train[i] for i in np.random.default_rng(0).permutation(1000)[:200]], test


def heated(folder):
    found = [s for part in mlearn(folder) for s in part]
    temperatures = [str(s.info.get("temperature")).removesuffix("K").strip() for s in found]
    return tuple([s for s, at in zip(found, temperatures, strict=True) if at in names] for names in (COLD, WARM))


def segments(folder):
    train = calm(mekrr.read_structures(folder / "cu_formate/systematic.extxyz.gz"))
    test = calm(mekrr.read_structures(folder / "cu_formate/selected.extxyz.gz"))
    return [s for s in train if s.info["segment"] in (0, 1, 4)], [s for s in test if s.info["segment"] in (5, 6, 8)]


def scission(state):
    return list(mekrr.load_dataset("cu-formate-mini", ["clean", "d1"])), list(
        mekrr.load_dataset("cu-formate-mini", state)
    )


def to_d2(folder):
    return scission("d2")


def to_d3(folder):
    return scission("d3")


COLD, WARM = ("300", "300.0"), ("1000", "1000.0")
TASKS = {
    task.__name__: task for task in (few, more, random, mlearn, molybdenum, ethanol, heated, to_d2, to_d3, segments)
}


def value(text):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return tuple(text.split("+")) if "+" in text else text


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MEKRR_DATA", "../shared/data")))
    parser.add_argument("--cache", type=Path, default=None)
    parser.add_argument("--backbone", default="sevennet-0")
    parser.add_argument("--probes", type=value, default=8)
    parser.add_argument("--train", type=int, default=None, help="only so many training structures, the first")
    parser.add_argument("--no-exact-forces", action="store_true")
    parser.add_argument("--force-uncertainty", action="store_true", help="rank correlation of force errors")
    parser.add_argument("--option", action="append", default=[], help="name=value, of KernelPotential; layers with +")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    options = {name: value(text) for name, text in (item.split("=", 1) for item in arguments.option)}
    train, test = TASKS[arguments.task](arguments.data)
    train = train[: arguments.train]
    started = time.perf_counter()
    potential = mekrr.KernelPotential(
        arguments.backbone,
        cache=arguments.cache,
        probes=arguments.probes,
        exact_forces=not arguments.no_exact_forces,
        **options,
    ).fit(train)
    seconds = time.perf_counter() - started
    facts = potential.fitted_.record.as_json()
    found = mekrr.evaluate(potential, test, force_uncertainty=arguments.force_uncertainty)
    print(
        json.dumps(
            {
                "task": arguments.task,
                "n_train": len(train),
                "n_test": len(test),
                "chosen": {
                    k: facts["search"]["best"][k]
                    for k in (
                        "layers",
                        "prior",
                        "length_scale",
                        "species_weight",
                        "tangent_share",
                        "ridge",
                        "force_weight",
                    )
                },
                "refinement": facts["refinement"],
                "leave_one_out": {k: v for k, v in facts["leave_one_out"].items() if k != "worst"},
                "solver": {k: v for k, v in facts["solver"].items() if k != "inducing_atoms"},
                "seconds": {k: round(v, 2) for k, v in facts["seconds"].items()} | {"fit": round(seconds, 2)},
                "metrics": {
                    k: v if v is None else round(v, 4)
                    for k, v in found.metrics().items()
                    if isinstance(v, float | None)
                },
                "warnings": facts["warnings"],
                "remarks": found.remarks,
            },
            indent=1,
        )
    )
