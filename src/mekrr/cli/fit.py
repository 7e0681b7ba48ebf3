"""mekrr fit."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from mekrr.cli.console import Stages, out, print_json
from mekrr.cli.declared import with_options
from mekrr.cli.options import ClusterOption, DeviceOption, FeaturesOption, IndexOption, JsonOption, TrustOption
from mekrr.cli.outputs import MODEL_SUFFIXES, require_output
from mekrr.cli.tables import calibration_line, choice_table, error_table, print_work, solver_line
from mekrr.cluster import connected
from mekrr.data import LabelKeys, read_structures
from mekrr.evaluation import Evaluation, evaluate
from mekrr.features import default_cache_folder
from mekrr.potential import FitOptions, KernelPotential

CHOSEN = ("layers", "prior", "length_scale", "species_weight", "tangent_share", "force_weight", "score")


@with_options(options=FitOptions, keys=LabelKeys)
def fit(
    train: Annotated[list[Path], typer.Argument(metavar="TRAIN...", help="Labelled structures.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The model file to write (.safetensors).")],
    options: FitOptions,
    keys: LabelKeys,
    features: FeaturesOption = None,
    validation: Annotated[Path | None, typer.Option(help="Labelled structures to report errors on.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for computed features.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep no features on disk.")] = False,
    index: IndexOption = ":",
    device: DeviceOption = "auto",
    cluster: ClusterOption = None,
    trust_checkpoint: TrustOption = False,
    json: JsonOption = False,
) -> None:
    """Fit a potential to the energies, forces and stress of TRAIN; what is not given is chosen by leave-one-out."""
    weights = options.backbone.partition(":")[2] or None
    require_output(output, MODEL_SUFFIXES, (*train, validation, weights, features))
    if no_cache and cache is not None:
        raise ValueError("--cache names a folder and --no-cache keeps none; give one of the two")
    if features is not None and (no_cache or cache is not None):
        raise ValueError("--features names a file that features come from, so that a cache has no effect; leave it out")
    potential = KernelPotential(
        features=features,
        cache=None if no_cache else (cache or default_cache_folder()),
        device=device,
        trust_checkpoint=trust_checkpoint,
        **vars(options),
    )
    started = time.perf_counter()
    structures = read_structures(train, keys, index)
    seconds_read = time.perf_counter() - started
    held_out = None if validation is None else read_structures(validation, keys)
    with connected(cluster) as shards, Stages(shards) as stages:
        potential.shards = shards
        potential.fit(structures, progress=stages)
        potential.fitted_.record.seconds["read"] = seconds_read
        potential.save(output)
        found = None if held_out is None else evaluate(potential, held_out, progress=stages)
    if json:
        print_json(fit_record(potential, output, found))
    else:
        _print(potential, output, found)


def fit_record(potential: KernelPotential, output: Path, validation: Evaluation | None) -> dict[str, Any]:
    """The object of `mekrr fit --json`."""
    fitted = potential.fitted_
    record = fitted.record.as_json()
    best = record["search"]["best"]
    own = {"ridge": fitted.ridge, "embedding": fitted.embedding}
    kept = ("solver", "leave_one_out", "seconds", "work", "data", "backbone", "warnings")
    return {
        "model": str(output),
        "chosen": {name: best[name] for name in CHOSEN} | own,
        "criterion": record["search"]["criterion"],
        "runner_up": record["search"]["runner_up"],
        **{name: record[name] for name in kept},
        "validation": None if validation is None else validation.metrics(),
    }


def _print(potential: KernelPotential, output: Path, validation: Evaluation | None) -> None:
    record = potential.fitted_.record
    loo, data = record.leave_one_out, record.data
    out.print(f"{data.n_structures} structures, {data.n_atoms} atoms, {' '.join(data.elements)}")
    out.print(choice_table(record))
    out.print(
        f"leave-one-out: RMSE {loo.rmse_mev_per_atom:.3g}, MAE {loo.mae_mev_per_atom:.3g}, "
        f"median {loo.median_absolute_mev_per_atom:.3g} meV/atom; worst: {loo.worst[0].where} "
        f"({loo.worst[0].error_mev_per_atom:+.3g})",
        soft_wrap=True,
    )
    if loo.forces_rmse_mev_per_angstrom is not None:
        out.print(
            f"leave-one-out of forces, from probes: RMSE {loo.forces_rmse_mev_per_angstrom:.3g}, median over "
            f"structures {loo.forces_median_mev_per_angstrom:.3g} meV/Å",
            soft_wrap=True,
        )
    out.print(solver_line(record.solver), soft_wrap=True, highlight=False)
    if validation is not None:
        out.print(error_table(validation, f"{len(validation.structures)} validation structures"))
        out.print(calibration_line(validation.metrics()), soft_wrap=True)
    seconds = ", ".join(f"{stage} {value:.1f} s" for stage, value in record.seconds.items())
    print_work(record.work)
    out.print(f"{seconds}\nwrote {output}", soft_wrap=True, highlight=False)
