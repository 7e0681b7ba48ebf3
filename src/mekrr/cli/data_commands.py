"""mekrr inspect and mekrr data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from mekrr.backbones import Backbone, load_backbone
from mekrr.backbones.derivatives import energy_forces_stress
from mekrr.cli.console import out, print_json
from mekrr.cli.declared import with_options
from mekrr.cli.inspect import render_inspection
from mekrr.cli.options import (
    DataArgument,
    IndexOption,
    JsonOption,
)
from mekrr.cli.shown import new_table, show
from mekrr.data import (
    Issue,
    LabelKeys,
    Structure,
    check,
    datasets,
    fetch,
    inspect_report,
    read_structures,
    units_beside,
)
from mekrr.graph import build_batch

COMPARED = 60  # structures whose labels are compared with the backbone's

data_app = typer.Typer(help="Data sets known by name.", no_args_is_help=True)


@with_options(keys=LabelKeys)
def inspect(
    data: DataArgument,
    keys: LabelKeys,
    backbone: Annotated[
        str | None, typer.Option(help="Compare elements, energies, forces and stress with this backbone.")
    ] = None,
    index: IndexOption = ":",
    json: JsonOption = False,
) -> None:
    """Validate DATA and show what is in it; exit code 1 when it cannot be used for a fit."""
    structures = read_structures(data, keys, index, require_energy=False)
    network = None if backbone is None else load_backbone(backbone)
    checked = check(structures, None if network is None else network.known_species)
    issues = list(checked.issues)
    if network is not None and network.has_energy and all(issue.level != "error" for issue in issues):
        issues += _beside_backbone(structures, network)
    report = inspect_report(structures, issues, checked.shortest_distances)
    if json:
        print_json(report)
    else:
        render_inspection(report, out)
    if any(issue["level"] == "error" for issue in report["issues"]):
        raise typer.Exit(1)


def _beside_backbone(structures: Sequence[Structure], network: Backbone) -> list[Issue]:
    """What energies, forces and stress look like beside the backbone's own."""
    looked_at = structures[:: max(1, len(structures) // COMPARED)]
    own = [
        energy_forces_stress(network, build_batch([s.atoms], network.cutoff, network.max_neighbours).to(network.device))
        for s in looked_at
    ]
    forces = [(s.forces, o.forces.cpu()) for s, o in zip(looked_at, own, strict=True) if s.forces is not None]
    # times the volume a stress is dE/d(strain), of the size of the energy
    stress = [
        (volume * s.stress, volume * o.stress[0].cpu())
        for s, o in zip(looked_at, own, strict=True)
        if s.stress is not None and (volume := s.atoms.get_volume()) > 0
    ]
    derivatives = {}
    for label, pairs in (("forces", forces), ("stress", stress)):
        if pairs:
            values, theirs = (np.concatenate([np.ravel(one) for one in column]) for column in zip(*pairs, strict=True))
            derivatives[label] = values, theirs
    energies = np.array([float(o.energies[0]) for o in own])
    return [Issue("warning", "units", words) for words in units_beside(looked_at, energies, derivatives)]


@data_app.command("list")
def list_datasets(json: JsonOption = False) -> None:
    """Data sets embedded in mekrr, and sets that can be fetched with a network."""
    entries = datasets()
    if json:
        print_json({e.name: {"licence": e.licence, "url": e.url, "size_mb": e.size_mb} for e in entries})
        return
    table = new_table()
    for head in ("name", "what", "structures", "atoms", "MB", "where", "licence", "citation"):
        table.add_column(head, no_wrap=head in ("name", "structures", "atoms", "MB"))
    for e in entries:
        count = "-" if e.n_structures is None else str(e.n_structures)
        if e.is_embedded:
            count = str(sum(e.parts.values()))
        where = "embedded" if e.is_embedded else "mekrr data fetch " + e.name
        table.add_row(e.name, e.description, count, e.n_atoms, f"{e.size_mb:g}", where, e.licence, e.citation)
    show(table, out)


@data_app.command("fetch")
def fetch_dataset(
    name: Annotated[str, typer.Argument(help="A name of `mekrr data list`.")],
    cache: Annotated[Path | None, typer.Option(help="Folder to keep it in.")] = None,
) -> None:
    """Download a data set, checked by its hash, and print where it lies."""
    out.print(str(fetch(name, cache)), soft_wrap=True, highlight=False)
