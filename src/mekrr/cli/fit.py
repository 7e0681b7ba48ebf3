"""mekrr fit."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from mekrr.cli.console import Stages, out, print_json
from mekrr.cli.options import (
    BatchOption,
    DeviceOption,
    EnergyKey,
    EnergyUnit,
    ForcesKey,
    ForcesUnit,
    IndexOption,
    JsonOption,
    LengthUnit,
    StressKey,
    StressUnit,
    TrustOption,
    Unconverged,
    VirialKey,
    WeightKey,
    count_or_word,
    label_keys,
    number_or_word,
)
from mekrr.cli.outputs import require_writable
from mekrr.cli.tables import calibration_line, choice_table, error_table, solver_line
from mekrr.data import read_structures
from mekrr.evaluation import Evaluation, evaluate
from mekrr.features import ALL, default_cache_folder
from mekrr.potential import AUTO, KernelPotential
from mekrr.prior import PRIORS
from mekrr.tune import BALANCED, CRITERION_NAMES

CHOSEN = ("layers", "prior", "length_scale", "species_weight", "force_weight", "score")


def fit(
    train: Annotated[list[Path], typer.Argument(metavar="TRAIN...", help="Labelled structures.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The model file to write (.safetensors).")],
    backbone: Annotated[str, typer.Option(help="A name of `mekrr backbones`, or name:path.")] = "sevennet-0",
    layer: Annotated[list[str] | None, typer.Option(help="Layer to tap, repeatable; auto by default.")] = None,
    embedding: Annotated[str, typer.Option(help="sum (size-extensive) or mean (the paper's).")] = "sum",
    solver: Annotated[str, typer.Option(help="auto, exact (energies only) or sparse (with forces).")] = AUTO,
    forces: Annotated[
        bool | None, typer.Option("--forces/--no-forces", help="Train on forces and stress; by default where possible.")
    ] = None,
    probes: Annotated[str, typer.Option(help="Random force directions a structure, or all.")] = "8",
    exact_forces: Annotated[
        bool, typer.Option("--exact-forces/--no-exact-forces", help="Go on from the probes to all force components.")
    ] = True,
    inducing: Annotated[str, typer.Option(help="Number of inducing environments, or auto.")] = AUTO,
    force_weight: Annotated[str, typer.Option(help="auto, or Angstrom^2: a squared force error beside e^2/n.")] = AUTO,
    stress_weight: Annotated[float, typer.Option(help="A squared strain derivative over n beside e^2/n.")] = 0.01,
    kernel: Annotated[str, typer.Option(help="gaussian, linear or polynomial.")] = "gaussian",
    prior: Annotated[str, typer.Option(help=f"auto or one of {', '.join(PRIORS)}.")] = AUTO,
    species_weight: Annotated[str, typer.Option(help="auto, or a number from 0 to 1.")] = AUTO,
    length_scale: Annotated[str, typer.Option(help="auto, median, or a number.")] = AUTO,
    ridge: Annotated[str, typer.Option(help="auto, or a number; multiplied by atoms / weight.")] = AUTO,
    criterion: Annotated[str, typer.Option(help=f"One of {', '.join(CRITERION_NAMES)}.")] = BALANCED,
    isolated_atoms: Annotated[
        bool, typer.Option("--isolated-atoms", help="Isolated atoms in TRAIN fix the composition prior.")
    ] = False,
    validation: Annotated[Path | None, typer.Option(help="Labelled structures to report errors on.")] = None,
    seed: Annotated[int, typer.Option(help="Of the subsets used in the search.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Folder for computed features.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep no features on disk.")] = False,
    index: IndexOption = ":",
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    stress_key: StressKey = None,
    virial_key: VirialKey = None,
    weight_key: WeightKey = None,
    energy_unit: EnergyUnit = "eV",
    length_unit: LengthUnit = "Angstrom",
    forces_unit: ForcesUnit = None,
    stress_unit: StressUnit = None,
    unconverged: Unconverged = "drop",
    device: DeviceOption = "auto",
    trust_checkpoint: TrustOption = False,
    batch_atoms: BatchOption = None,
    json: JsonOption = False,
) -> None:
    """Fit a potential to the energies, forces and stress of TRAIN; what is not given is chosen by leave-one-out."""
    require_writable(output)
    keys = label_keys(
        energy_key,
        forces_key,
        stress_key,
        virial_key,
        weight_key,
        energy_unit,
        length_unit,
        forces_unit,
        stress_unit,
        unconverged,
    )
    layers = AUTO if not layer or layer == [AUTO] else tuple(layer)
    potential = KernelPotential(
        backbone,
        cache=None if no_cache else (cache or default_cache_folder()),
        device=device,
        trust_checkpoint=trust_checkpoint,
        layers=layers,
        embedding=embedding,
        solver=solver,
        forces=AUTO if forces is None else forces,
        probes=count_or_word(probes, "--probes", ALL),
        exact_forces=exact_forces,
        inducing=count_or_word(inducing, "--inducing", AUTO),
        force_weight=number_or_word(force_weight, "--force-weight", (AUTO,)),
        stress_weight=stress_weight,
        kernel=kernel,
        prior=prior,
        species_weight=number_or_word(species_weight, "--species-weight", (AUTO,)),
        length_scale=number_or_word(length_scale, "--length-scale", (AUTO, "median")),
        ridge=number_or_word(ridge, "--ridge", (AUTO,)),
        criterion=criterion,
        isolated_atoms=isolated_atoms,
        seed=seed,
        batch_atoms=batch_atoms,
    )
    started = time.perf_counter()
    structures = read_structures(train, keys, index)
    seconds_read = time.perf_counter() - started
    held_out = None if validation is None else read_structures(validation, keys)
    with Stages() as stages:
        potential.fit(structures, progress=stages)
        facts = potential.fitted_.facts
        facts["seconds"] = {"read": seconds_read} | facts["seconds"]
        potential.save(output)
        found = None if held_out is None else evaluate(potential, held_out, progress=stages)
    if json:
        print_json(fit_record(potential, output, found))
    else:
        _print(potential, output, found)


def fit_record(potential: KernelPotential, output: Path, validation: Evaluation | None) -> dict[str, Any]:
    """The object of `mekrr fit --json`."""
    facts = potential.fitted_.facts
    best = facts["search"]["best"]
    return {
        "model": str(output),
        "chosen": {name: best[name] for name in CHOSEN}
        | {"ridge": potential.fitted_.ridge, "embedding": potential.fitted_.embedding},
        "solver": facts["solver"],
        "runner_up": facts["search"]["runner_up"],
        "leave_one_out": facts["leave_one_out"],
        "seconds": facts["seconds"],
        "data": facts["data"],
        "backbone": facts["backbone"],
        "warnings": facts["warnings"],
        "validation": None if validation is None else validation.metrics(),
    }


def _print(potential: KernelPotential, output: Path, validation: Evaluation | None) -> None:
    facts = potential.fitted_.facts
    loo = facts["leave_one_out"]
    data = facts["data"]
    out.print(f"{data['n_structures']} structures, {data['n_atoms']} atoms, {' '.join(data['elements'])}")
    out.print(choice_table(facts))
    out.print(
        f"leave-one-out: RMSE {loo['rmse_mev_per_atom']:.3g}, MAE {loo['mae_mev_per_atom']:.3g}, "
        f"median {loo['median_absolute_mev_per_atom']:.3g} meV/atom; worst: {loo['worst'][0]['where']} "
        f"({loo['worst'][0]['error_mev_per_atom']:+.3g})",
        soft_wrap=True,
    )
    if loo["forces_rmse_mev_per_angstrom"] is not None:
        out.print(
            f"leave-one-out of forces, from probes: RMSE {loo['forces_rmse_mev_per_angstrom']:.3g}, median over "
            f"structures {loo['forces_median_mev_per_angstrom']:.3g} meV/Å",
            soft_wrap=True,
        )
    out.print(solver_line(facts["solver"]), soft_wrap=True, highlight=False)
    if validation is not None:
        out.print(error_table(validation, f"{len(validation.structures)} validation structures"))
        out.print(calibration_line(validation.metrics()), soft_wrap=True)
    seconds = ", ".join(f"{stage} {value:.1f} s" for stage, value in facts["seconds"].items())
    out.print(f"{seconds}\nwrote {output}", soft_wrap=True, highlight=False)
