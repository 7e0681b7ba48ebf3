"""mekrr evaluate."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mekrr.cli.console import Stages, out, print_json, warnings_shown
from mekrr.cli.declared import with_options
from mekrr.cli.options import (
    ClusterOption,
    CoresOption,
    DataArgument,
    DeviceOption,
    FeaturesOption,
    IndexOption,
    JsonOption,
    ModelArgument,
    TrustOption,
)
from mekrr.cli.outputs import PAGE_SUFFIXES, require_output
from mekrr.cli.shown import show
from mekrr.cli.tables import calibration_line, error_table, group_table, print_work, work_record
from mekrr.cluster import connected
from mekrr.data import LabelKeys, label_remarks, read_structures
from mekrr.evaluation import Evaluation, evaluate
from mekrr.potential import KernelPotential, MekrrWarning

MOST_NAMES = 3  # files in a title


@with_options(keys=LabelKeys, without=("weight",))
def evaluate_command(
    model: ModelArgument,
    data: DataArgument,
    keys: LabelKeys,
    by: Annotated[str | None, typer.Option(help="Info key by which errors are listed, e.g. config_type.")] = None,
    force_uncertainty: Annotated[
        bool, typer.Option("--force-uncertainty", help="Compare force errors with their predicted deviations too.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="An HTML page to write.")] = None,
    features: FeaturesOption = None,
    title: Annotated[str | None, typer.Option(help="Of the page; by default the names of model and data.")] = None,
    index: IndexOption = ":",
    threads: CoresOption = None,
    device: DeviceOption = "auto",
    cluster: ClusterOption = None,
    trust_checkpoint: TrustOption = False,
    json: JsonOption = False,
) -> None:
    """Errors of MODEL on labelled structures, beside the backbone by itself."""
    if report is not None:
        require_output(report, PAGE_SUFFIXES, (model, features, *data))
    elif title is not None:
        raise ValueError("--title: without effect here, since no page is written; give --report too, or leave it out")
    potential = KernelPotential.load(model, device, trust_checkpoint, features=features)
    structures = read_structures(data, keys, index)
    for remark in label_remarks(structures, range(len(structures))):
        warnings.warn(remark.message, MekrrWarning, stacklevel=1)
    with connected(cluster) as shards, Stages(shards) as stages:
        potential.shards = shards
        found = evaluate(potential, structures, by, stages, force_uncertainty)
    if report is not None:
        write(report, potential, found, title or title_of(model, data))
    if json:
        said = {"verdict": found.verdict(), "warnings": warnings_shown(), "threads": threads}
        print_json(found.metrics() | said | work_record(shards.work))
    else:
        _print(found, report)
        print_work(shards.work)


def write(path: Path, potential: KernelPotential, found: Evaluation, title: str) -> None:
    """The HTML report, with every warning of this command; plotly and jinja2 are imported only here."""
    from mekrr.pages.report import write_report

    write_report(path, potential.fitted_, found, title, warnings_shown())


def title_of(model: Path, data: Sequence[Path]) -> str:
    """Model and test files by name."""
    names = [path.name for path in data[:MOST_NAMES]]
    more = f" and {len(data) - MOST_NAMES} more" if len(data) > MOST_NAMES else ""
    return f"{model.name} on {', '.join(names)}{more}"


def _print(found: Evaluation, report: Path | None) -> None:
    metrics = found.metrics()
    out.print(found.verdict(), soft_wrap=True, highlight=False)
    show(error_table(found, f"{metrics['n_structures']} structures, {metrics['n_atoms']} atoms"), out)
    out.print(
        f"energy RMSE after removing one offset per composition: "
        f"{metrics['energy_rmse_per_composition_mev_per_atom']:.3g} meV/atom\n{calibration_line(metrics)}",
        soft_wrap=True,
    )
    if found.by is not None:
        show(group_table(metrics["groups"], found.by), out)
    if report is not None:
        out.print(f"wrote {report}", soft_wrap=True, highlight=False)
