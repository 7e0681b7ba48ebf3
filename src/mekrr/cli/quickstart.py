"""mekrr quickstart: the main job on the embedded data, in one command."""

import json as json_module
import shlex
from pathlib import Path
from typing import Annotated

import typer

from mekrr.cli.console import Stages, out, print_json, warnings_shown
from mekrr.cli.evaluate import write
from mekrr.cli.options import CoresOption, DeviceOption, JsonOption
from mekrr.cli.outputs import require_folder
from mekrr.cli.predict import write_predictions
from mekrr.cli.shown import show
from mekrr.cli.tables import calibration_line, choice_lines, choice_table, error_table
from mekrr.cli.workers import computing
from mekrr.data import load_dataset, split
from mekrr.evaluation import evaluate
from mekrr.files import atomic_path, regular_target
from mekrr.potential import KernelPotential

DATASET = "cu-formate-mini"
WRITTEN = ("model.safetensors", "predictions.extxyz", "metrics.json", "report.html")


def quickstart(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for model, predictions, report and metrics.")],
    backbone: Annotated[str, typer.Option(help="A name of `mekrr backbones`.")] = "sevennet-0",
    threads: CoresOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Fit, evaluate and report on embedded DFT data: formate on Cu(111), intact and along its dehydrogenation."""
    require_folder(output)
    _require_own(output)
    structures = load_dataset(DATASET)
    parts = split(structures, train=0.8, method="group", group_key="trajectory", seed=0)
    train, test = [structures[i] for i in parts.train], [structures[i] for i in parts.test]
    # The probed solution takes a minute where the exact forces take some.
    potential = KernelPotential(backbone, cache=output / "cache", device=device, exact_forces=False)
    with computing(None, potential, train, threads) as shards, Stages(shards) as stages:
        potential.fit(train, progress=stages)
        found = evaluate(potential, test, by="part", progress=stages)
    metrics = found.metrics()
    potential.save(output / "model.safetensors")
    write_predictions(output / "predictions.extxyz", found.structures, found.predictions)
    with atomic_path(output / "metrics.json") as temporary:
        temporary.write_text(json_module.dumps(metrics, indent=2) + "\n")
    write(output / "report.html", potential, found, "Formate on Cu(111): quickstart")
    if json:
        print_json(metrics | {"verdict": found.verdict(), "warnings": warnings_shown(), "threads": threads})
        return
    out.print(f"{DATASET}: fitted to {len(train)} structures, tested on {len(test)} of other trajectories")
    show(choice_table(potential.fitted_.record), out)
    for line in choice_lines(potential.fitted_.record):
        out.print(line, soft_wrap=True, highlight=False)
    out.print(found.verdict(), soft_wrap=True, highlight=False)
    show(error_table(found, f"{len(test)} held-out structures"), out)
    out.print(calibration_line(metrics), soft_wrap=True)
    out.print(f"wrote {', '.join(WRITTEN)} in {output}", soft_wrap=True, highlight=False)
    folder = shlex.quote(str(output))
    for line in (
        f"next: open {folder}/report.html in a browser; then your own data:",
        "  mekrr inspect train.extxyz",
        "  mekrr fit train.extxyz -o model.safetensors",
    ):
        out.print(line, soft_wrap=True, highlight=False)


def _require_own(folder: Path) -> None:
    """Refuse a folder whose files of these names are not of an earlier quickstart, which makes its cache first.

    Raises:
        FileExistsError: naming them.
        OSError: when one is no regular file.
    """
    there = [name for name in WRITTEN if regular_target(folder / name).exists()]
    if there and not (folder / "cache").is_dir():
        raise FileExistsError(
            f"{folder} holds {', '.join(there)}, not of an earlier quickstart: they would be overwritten; give another "
            "folder"
        )
