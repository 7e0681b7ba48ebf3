"""Speed and accuracy against franken 0.7 on the same frames with the same backbone and layers.

    python comparison/figures/against_franken.py --franken [--data FOLDER] [--json FILE]
    python comparison/figures/against_franken.py --mekrr   [--data FOLDER] [--json FILE] [--set probes=8 ...]

Both need one environment: pip install "franken[sevenn]==0.7.*" and mekrr. Run each pinned to one core with
OMP_NUM_THREADS=1, with nothing else on that core; threads are set by the environment, not here.

The frames are those of cu_formate/systematic with fcu_index >= 1000 in order, numpy default_rng(0).permutation(200):
the first 70 to train, the next 30 to validate. franken chooses among its grid by its error on the validation frames,
which are also what both are measured on; mekrr never sees them.

Settings of franken: SevenNet-0 (11 July 2024) given by path, interaction block 2, 1,024 multiscale Gaussian random
features, jac chunk 8, energies and forces. All else is the default of franken.config.AutotuneConfig in 0.7.0, which is
what its authors recommend by shipping it: length scales 4 to 20 in 6 steps, l2 1e-11 to 1e-6 in 6 steps, force weight
0.01 to 0.99 in 10 steps, float64, leading_eig, scaling by species. Left out of the time, in its favour: evaluating the
training frames, which autotune does as well unless told otherwise. The readme of 0.7.0 has another example grid (force
weight 0.99 alone, five l2, length scales 1 to 32 in 5 steps); `--grid readme` runs that one.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import ase.io
import numpy as np

GRIDS = {
    "default": {"rfs": {}, "solver": {}},
    "readme": {
        "rfs": {"length_scale_low": 1, "length_scale_high": 32, "length_scale_num": 5},
        "solver": {"l2_penalty": "(-10, -6, 5, log)", "force_weight": "0.99"},
    },
}


class Stopwatch:
    """Wall seconds of named stages."""

    def __init__(self):
        self.seconds = {}

    @contextmanager
    def __call__(self, stage):
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
        print(f"{stage}: {self.seconds[stage]:.1f} s", file=sys.stderr, flush=True)


def frames(folder, n_train=70, n_validation=30):
    """The training and validation frames named in the docstring, as ase.Atoms."""
    every = ase.io.read(folder / "cu_formate/systematic.extxyz.gz", index=":")
    late = [atoms for atoms in every if atoms.info["fcu_index"] >= 1000]
    order = np.random.default_rng(0).permutation(200)
    if len(late) != len(order):
        raise SystemExit(f"expected 200 frames with fcu_index >= 1000, found {len(late)}: another data set?")
    return [late[i] for i in order[:n_train]], [late[i] for i in order[70 : 70 + n_validation]]


def errors(atoms_list, energies, forces):
    """RMSE and MAE in meV/atom and meV/Angstrom; also the energy RMSE without the mean error."""
    energy = np.array(
        [1000 * (e - a.get_potential_energy()) / len(a) for e, a in zip(energies, atoms_list, strict=True)]
    )
    force = 1000 * np.concatenate([(f - a.get_forces()).ravel() for f, a in zip(forces, atoms_list, strict=True)])
    return {
        "energy_rmse_mev_per_atom": float(np.sqrt(np.mean(energy**2))),
        "energy_mae_mev_per_atom": float(np.mean(np.abs(energy))),
        "energy_rmse_without_offset_mev_per_atom": float(np.std(energy)),
        "forces_rmse_mev_per_angstrom": float(np.sqrt(np.mean(force**2))),
        "forces_mae_mev_per_angstrom": float(np.mean(np.abs(force))),
    }


def franken_run(train, validation, grid="default"):
    """Train franken, choose on the validation frames, and measure the choice there."""
    from franken.autotune.script import create_rf_hpsearch_grid, create_solver_hpsearch_grid, init_loaders
    from franken.calculators import FrankenCalculator
    from franken.config import (
        AutotuneConfig,
        DatasetConfig,
        HPSearchConfig,
        MultiscaleGaussianRFConfig,
        SevennBackboneConfig,
        SolverConfig,
        asdict_with_classvar,
    )
    from franken.rf.model import FrankenPotential
    from franken.trainers.log_utils import DataSplit
    from franken.trainers.rf_cuda_lowmem import RandomFeaturesTrainer

    watch = Stopwatch()
    solver = {name: HPSearchConfig.from_str(text) for name, text in GRIDS[grid]["solver"].items()}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        ase.io.write(folder / "train.extxyz", train)
        ase.io.write(folder / "validation.extxyz", validation)
        config = AutotuneConfig(
            dataset=DatasetConfig(train_path=str(folder / "train.extxyz"), val_path=str(folder / "validation.extxyz")),
            solver=SolverConfig(**solver),
            backbone=SevennBackboneConfig(path_or_id=str(sevennet_0()), interaction_block=2),
            rfs=MultiscaleGaussianRFConfig(num_random_features=1024, **GRIDS[grid]["rfs"]),
            jac_chunk_size=8,
        )
        with watch("read and graphs"):
            loaders = init_loaders(
                config.backbone,
                Path(config.dataset.train_path),
                Path(config.dataset.val_path),
                subsample_rng=config.seed,
            )
        trainer = RandomFeaturesTrainer(
            train_dataloader=loaders["train"],
            random_features_normalization=config.rf_normalization,
            save_every_model=False,
            dtype=config.dtype,
            save_fmaps=config.save_fmaps,
            log_dir=folder,
            device="cpu",
        )
        # The multiscale features have no hyperparameter that is searched: one model.
        ((_, features),) = create_rf_hpsearch_grid(config.rfs)
        model = FrankenPotential(
            gnn_config=config.backbone,
            rf_config=features,
            scale_by_Z=config.scale_by_species,
            num_species=loaders["train"].dataset.num_species,
            jac_chunk_size=config.jac_chunk_size,
        )
        with watch("statistics of features"):
            trainer.get_statistics(model)
        with watch("features, derivatives and solutions"):
            logs, weights = trainer.fit(model, create_solver_hpsearch_grid(config.solver))
        with watch("choice on validation"):
            logs = trainer.evaluate(model, loaders["val"], logs, weights, metrics=config.metrics)
            trainer.serialize_logs(model, logs, weights, DataSplit.VALIDATION, config.best_model_selection)
        best = json.loads((folder / "best.json").read_text())
        calculator = FrankenCalculator(folder / "best_ckpt.pt", device="cpu")
        with watch("prediction (not in total)"):
            predicted = [predict(calculator, atoms) for atoms in validation]
    result = errors(validation, *zip(*predicted, strict=True))
    total = sum(seconds for stage, seconds in watch.seconds.items() if "not in total" not in stage)
    return {
        "method": "franken",
        "version": version_of("franken"),
        "grid": grid,
        "n_models": int(weights.shape[0]),
        "settings": {part: asdict_with_classvar(getattr(config, part)) for part in ("solver", "rfs")}
        | {name: value for name, value in vars(config).items() if isinstance(value, (bool, float, int))},
        "chosen": best["hyperparameters"]["solver"],
        "seconds": watch.seconds,
        "total_seconds": total,
        **result,
    }


def mekrr_run(train, validation, **options):
    """Fit mekrr, everything automatic but `options`, on the training frames alone; measure it on the others."""
    import mekrr

    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as cache, watch("fit"):
        potential = mekrr.KernelPotential("sevennet-0", cache=cache, **options).fit(train)
    with watch("prediction (not in total)"):
        predicted = [(p.energy, p.forces) for p in potential.predict(validation)]
    return {
        "method": "mekrr",
        "version": mekrr.__version__,
        "options": options,
        "stages": potential.fitted_.record.as_json()["seconds"],
        "seconds": watch.seconds,
        "total_seconds": watch.seconds["fit"],
        **errors(validation, *zip(*predicted, strict=True)),
    }


def predict(calculator, atoms):
    """Energy and forces of a copy without the labels."""
    free = atoms.copy()
    free.calc = calculator
    return free.get_potential_energy(), free.get_forces(apply_constraint=False)


def sevennet_0():
    """The checkpoint of SevenNet-0 of 11 July 2024 inside the installed sevenn."""
    import sevenn

    return Path(sevenn.__file__).parent / "pretrained_potentials/SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth"


def version_of(package):
    """Of an installed distribution."""
    from importlib.metadata import version

    return version(package)


def main():
    """Run what was asked for, one JSON object on standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--franken", action="store_true")
    parser.add_argument("--mekrr", action="store_true")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MEKRR_DATA", "../shared/data")))
    parser.add_argument("--train", type=int, default=70, help="fewer than 70 only to try the script")
    parser.add_argument("--validation", type=int, default=30, help="fewer than 30 only to try the script")
    parser.add_argument("--grid", choices=GRIDS, default="default")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="an option of KernelPotential, VALUE in JSON"
    )
    parser.add_argument("--json", type=Path, default=None, help="write the result here as well")
    arguments = parser.parse_args()
    if not (arguments.franken or arguments.mekrr):
        parser.error("say --franken, --mekrr or both")
    warnings.simplefilter("ignore")
    options = {name: json.loads(value) for name, _, value in (item.partition("=") for item in arguments.set)}
    train, validation = frames(arguments.data, arguments.train, arguments.validation)
    result = {"threads": os.environ.get("OMP_NUM_THREADS", ""), "n_train": len(train), "n_validation": len(validation)}
    if arguments.franken:
        result["franken"] = franken_run(train, validation, arguments.grid)
    if arguments.mekrr:
        result["mekrr"] = mekrr_run(train, validation, **options)
    text = json.dumps(result, indent=1, default=str)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
