"""mekrr inspect and mekrr data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from mekrr.backbones import Backbone, load_backbone
from mekrr.cli.console import out, print_json
from mekrr.cli.declared import with_options
from mekrr.cli.inspect import render_inspection
from mekrr.cli.options import (
    DataArgument,
    IndexOption,
    JsonOption,
)
from mekrr.data import (
    Issue,
    LabelKeys,
    Structure,
    datasets,
    fetch,
    inspect_report,
    read_structures,
    unit_of_energies,
    validate,
)
from mekrr.features import extract

COMPARED = 60  # structures whose energies are compared with the backbone's

data_app = typer.Typer(help="Data sets known by name.", no_args_is_help=True)


@with_options(keys=LabelKeys)
def inspect(
    data: DataArgument,
    keys: LabelKeys,
    backbone: Annotated[str | None, typer.Option(help="Compare elements and energies with this backbone.")] = None,
    index: IndexOption = ":",
    json: JsonOption = False,
) -> None:
    """Validate DATA and show what is in it; exit code 1 when it cannot be used for a fit."""
    structures = read_structures(data, keys, index, require_energy=False)
    network = None if backbone is None else load_backbone(backbone)
    issues = validate(structures, None if network is None else network.known_species)
    if network is not None and network.has_energy and all(issue.level != "error" for issue in issues):
        issues += _beside_backbone(structures, network)
    report = inspect_report(structures, issues)
    if json:
        print_json(report)
    else:
        render_inspection(report, out)
    if any(issue["level"] == "error" for issue in report["issues"]):
        raise typer.Exit(1)


def _beside_backbone(structures: Sequence[Structure], network: Backbone) -> list[Issue]:
    """What the energies look like beside the backbone's own."""
    looked_at = structures[:: max(1, len(structures) // COMPARED)]
    own = extract([s.atoms for s in looked_at], network, [network.layers[0]], None).energies
    what = None if own is None else unit_of_energies(looked_at, own.cpu().numpy())
    return [Issue("warning", "units", what)] if what else []


@data_app.command("list")
def list_datasets(json: JsonOption = False) -> None:
    """Data sets embedded in mekrr, and sets that can be fetched with a network."""
    entries = datasets()
    if json:
        print_json({e.name: {"licence": e.licence, "url": e.url, "size_mb": e.size_mb} for e in entries})
        return
    table = Table()
    for head in ("name", "what", "structures", "atoms", "MB", "where", "licence", "citation"):
        table.add_column(head, overflow="fold")
    for e in entries:
        count = "-" if e.n_structures is None else str(e.n_structures)
        if e.is_embedded:
            count = str(sum(e.parts.values()))
        where = "embedded" if e.is_embedded else "mekrr data fetch " + e.name
        table.add_row(e.name, e.description, count, e.n_atoms, f"{e.size_mb:g}", where, e.licence, e.citation)
    out.print(table)


@data_app.command("fetch")
def fetch_dataset(
    name: Annotated[str, typer.Argument(help="A name of `mekrr data list`.")],
    cache: Annotated[Path | None, typer.Option(help="Folder to keep it in.")] = None,
) -> None:
    """Download a data set, checked by its hash, and print where it lies."""
    out.print(str(fetch(name, cache)), soft_wrap=True, highlight=False)
