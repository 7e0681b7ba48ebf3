"""mekrr fit."""

import shlex
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from mekrr.cli.config import config_path, read_config, require_own_config, write_config
from mekrr.cli.console import Stages, out, print_json, start_log
from mekrr.cli.declared import with_options
from mekrr.cli.estimate import show_estimate
from mekrr.cli.options import (
    ClusterOption,
    CoresOption,
    DeviceOption,
    FeaturesOption,
    IndexOption,
    JsonOption,
    LogOption,
    TrustOption,
)
from mekrr.cli.outputs import MODEL_SUFFIXES, require_output, require_writable
from mekrr.cli.shown import show
from mekrr.cli.tables import (
    calibration_line,
    choice_lines,
    choice_table,
    error_table,
    print_work,
    refinement_table,
    solver_line,
)
from mekrr.cli.workers import computing, processes_for
from mekrr.data import LabelKeys, read_structures
from mekrr.evaluation import Evaluation, evaluate
from mekrr.features import default_cache_folder
from mekrr.potential import FitOptions, KernelPotential
from mekrr.potential.estimator import choices
from mekrr.potential.options import AUTO, NO_ANCHORS
from mekrr.potential.search_record import at_one_stage

CHOSEN = ("layers", "prior", "length_scale", "species_weight", "tangent_share", "force_weight", "score")


@with_options(options=FitOptions, keys=LabelKeys)
def fit(
    context: typer.Context,
    options: FitOptions,
    keys: LabelKeys,
    train: Annotated[list[Path] | None, typer.Argument(metavar="TRAIN...", help="Labelled structures.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The model file to write (.safetensors).")
    ] = None,
    features: FeaturesOption = None,
    validation: Annotated[Path | None, typer.Option(help="Labelled structures to report errors on.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="YAML of these options; the command line goes before it.",
            is_eager=True,
            callback=read_config,
        ),
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for computed features.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep no features on disk.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read, check, and estimate time and memory; fit nothing.")
    ] = False,
    log: LogOption = None,
    index: IndexOption = ":",
    threads: CoresOption = None,
    device: DeviceOption = "auto",
    cluster: ClusterOption = None,
    trust_checkpoint: TrustOption = False,
    json: JsonOption = False,
) -> None:
    """Fit a potential to the energies, forces and stress of TRAIN; what is not given is chosen by leave-one-out."""
    if not train or output is None:
        missing = "TRAIN..." if not train else "-o"
        raise typer.BadParameter("it must be given, here or in a --config", param_hint=missing)
    weights = options.backbone.partition(":")[2] or None
    anchors = None if options.anchors in (AUTO, NO_ANCHORS) else options.anchors
    inputs = (*train, validation, weights, features, anchors)
    require_output(output, MODEL_SUFFIXES, (*inputs, config))
    require_own_config(context, output, config)
    require_writable(config_path(output), inputs)
    if anchors is not None and keys.length_unit != "Angstrom":
        raise ValueError(f"--anchors {anchors} is read in Å, and --length-unit is {keys.length_unit}: convert it")
    if no_cache and cache is not None:
        raise ValueError("--cache names a folder and --no-cache keeps none; give one of the two")
    if features is not None and (no_cache or cache is not None):
        raise ValueError("--features names a file that features come from, so that a cache has no effect; leave it out")
    start_log(log, (*inputs, config, output, config_path(output)))
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
    if dry_run:
        show_estimate(potential, structures, processes_for(cluster, potential, structures, threads), json)
        return
    with computing(cluster, potential, structures, threads) as shards, Stages(shards) as stages:
        potential.fit(structures, progress=stages)
        potential.fitted_.record.seconds["read"] = seconds_read
        potential.save(output)
        found = None if held_out is None else evaluate(potential, held_out, progress=stages)
    kept = write_config(context, output, config, [f"chose: {choices(potential.fitted_)}"])
    if json:
        print_json(fit_record(potential, output, found) | {"config": str(kept), "threads": threads})
    else:
        _print(potential, output, kept, found)


def fit_record(potential: KernelPotential, output: Path, validation: Evaluation | None) -> dict[str, Any]:
    """The object of `mekrr fit --json`."""
    fitted = potential.fitted_
    record = fitted.record.as_json()
    best = record["search"]["best"]
    runner_up = at_one_stage(potential.fitted_.record.search)[1]
    own = {"ridge": fitted.ridge, "embedding": fitted.embedding}
    kept = ("solver", "refinement", "leave_one_out", "seconds", "work", "data", "backbone", "warnings")
    return {
        "model": str(output),
        "chosen": {name: best[name] for name in CHOSEN} | own,
        "criterion": record["search"]["criterion"],
        "runner_up": None if runner_up is None else msgspec.to_builtins(runner_up),
        **{name: record[name] for name in kept},
        "validation": None if validation is None else validation.metrics(),
    }


def _print(potential: KernelPotential, output: Path, config: Path, validation: Evaluation | None) -> None:
    record = potential.fitted_.record
    loo, data = record.leave_one_out, record.data
    out.print(f"{data.n_structures} structures, {data.n_atoms} atoms, {' '.join(data.elements)}")
    show(choice_table(record), out)
    for line in choice_lines(record):
        out.print(line, soft_wrap=True, highlight=False)
    out.print(
        f"leave-one-out: RMSE {loo.rmse_mev_per_atom:.3g}, MAE {loo.mae_mev_per_atom:.3g}, "
        f"median {loo.median_absolute_mev_per_atom:.3g} meV/atom; worst: {loo.worst[0].where} "
        f"({loo.worst[0].error_mev_per_atom:+.3g})",
        soft_wrap=True,
    )
    if loo.forces_rmse_mev_per_angstrom is not None:
        out.print(
            f"leave-one-out of forces, from probes, of all structures' root mean squares: their root mean square "
            f"{loo.forces_rmse_mev_per_angstrom:.3g}, their median {loo.forces_median_mev_per_angstrom:.3g} meV/Å",
            soft_wrap=True,
        )
    if record.refinement is None:
        out.print(solver_line(record.solver), soft_wrap=True, highlight=False)
        if record.solver.rehearsal is not None:
            out.print(record.solver.rehearsal.sentence(), soft_wrap=True, highlight=False)
    else:
        show(refinement_table(record.refinement), out)
    if validation is not None:
        out.print(validation.verdict(), soft_wrap=True, highlight=False)
        show(error_table(validation, f"{len(validation.structures)} validation structures"), out)
        out.print(calibration_line(validation.metrics()), soft_wrap=True)
    seconds = ", ".join(f"{stage} {value:.1f} s" for stage, value in record.seconds.items())
    print_work(record.work)
    out.print(f"{seconds}\nwrote {output} and {config}", soft_wrap=True, highlight=False)
    out.print(
        f"next: mekrr evaluate {shlex.quote(str(output))} TEST --report report.html, on structures it has not seen",
        soft_wrap=True,
        highlight=False,
    )
