"""mekrr explain."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from mekrr.cli.console import Stages, out, print_json
from mekrr.cli.options import (
    CoresOption,
    DataArgument,
    DeviceOption,
    IndexOption,
    JsonOption,
    ModelArgument,
    TrustOption,
)
from mekrr.cli.outputs import PAGE_SUFFIXES, require_output
from mekrr.cli.shown import new_table, show
from mekrr.cli.tables import number
from mekrr.data import read_structures
from mekrr.potential import KernelPotential

if TYPE_CHECKING:
    from mekrr.pages.explain import Explanation
    from mekrr.pages.explain.tables import AtomRow, GroupRow, SpeciesRow


def explain_command(
    model: ModelArgument,
    data: DataArgument,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="An HTML page with a 3D viewer; needs mekrr[explain]."),
    ] = None,
    index: IndexOption = ":",
    threads: CoresOption = None,
    device: DeviceOption = "auto",
    trust_checkpoint: TrustOption = False,
    json: JsonOption = False,
) -> None:
    """What the energies of DATA are made of: by atom and element, by what MODEL remembers, and how near that is."""
    from mekrr.pages.explain import (  # jinja2 and the page's parts are only needed here
        explain,
        require_viewer,
        write_page,
    )

    if output is not None:
        require_output(output, PAGE_SUFFIXES, (model, *data))
        require_viewer()
    potential = KernelPotential.load(model, device, trust_checkpoint)
    structures = read_structures(data, index=index, require_energy=False, strict=False)
    with Stages() as stages:
        found = explain(potential, structures, stages)
    if output is not None:
        write_page(output, found)
    if json:
        _print_json(found, threads)
    else:
        _print(found, output)


def _print_json(found: "Explanation", threads: int | None) -> None:
    from mekrr.pages.explain.record import record

    print_json(record(found) | {"threads": threads})


def _print(found: "Explanation", output: Path | None) -> None:
    from mekrr.pages.explain import tables

    model = found.fitted.model
    size = f"{len(found.n_atoms)} structures, {len(found.species)} atoms"
    options = f"prior {found.fitted.prior.name}, species weight {found.fitted.species_weight:.2f}"
    out.print(f"{size}; {model.solver} solver, {options}", soft_wrap=True)
    show(_species_table(tables.species_rows(found)), out)
    if found.kernel_by_species is not None:
        show(_leaning_table(tables.species_rows(found)), out)
    show(_group_table(tables.group_rows(found)), out)
    show(_atom_table(tables.furthest_atoms(found), "furthest from the training data"), out)
    uncertain = tables.most_uncertain_atoms(found)
    if uncertain:
        show(_atom_table(uncertain, "most uncertain, against atoms of the same element"), out)
    for note in tables.notes(found):
        out.print(f"- {note}", soft_wrap=True, highlight=False)
    if output is not None:
        out.print(f"wrote {output}", soft_wrap=True, highlight=False)


def _species_table(rows: "list[SpeciesRow]") -> Table:
    table = new_table("energy of an atom, eV: mean and spread")
    table.add_column("", min_width=2, no_wrap=True)
    known = rows[0].deviation is not None
    learned = ("kernel", "tangent") if rows[0].tangent is not None else ("kernel",)
    for head in ("atoms", "energy", "prior", *learned, *(["deviation"] if known else []), "beyond\nusual"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        parts = [s for s in (row.energy, row.prior, row.kernel, row.tangent) if s is not None]
        spreads = (f"{s.mean:.3f}±{s.spread:.3f}" for s in parts)
        deviation = [number(row.deviation)] if known else []
        table.add_row(row.symbol, str(row.n_atoms), *spreads, *deviation, f"{100 * row.beyond:.0f}%")
    return table


def _leaning_table(rows: "list[SpeciesRow]") -> Table:
    table = new_table("kernel part of an atom, eV, by the inducing environments weighed")
    table.add_column("")
    for symbol in rows[0].leans_on:
        table.add_column(symbol, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row.symbol, *(f"{value:.3f}" for value in row.leans_on.values()))
    return table


def _group_table(rows: "list[GroupRow]") -> Table:
    table = new_table("what the energies lean on most, on average")
    for name in ("", "size of\nweight", "mean\nweight", "value\neV", "contribution\neV"):
        table.add_column(name, justify="right" if name else "left", no_wrap=bool(name))
    for row in rows:
        signed = (f"{value:+.3f}" for value in (row.weight, row.value, row.contribution))
        table.add_row(row.name, f"{row.size:.3f}", *signed)
    return table


def _atom_table(rows: "list[AtomRow]", title: str) -> Table:
    table = new_table(title)
    known = rows[0].deviation is not None
    heads = [
        "structure",
        "atom",
        "distance\nover usual",
        *(["deviation\neV", "over its\nelement's"] if known else []),
        "nearest",
    ]
    for head in heads:
        table.add_column(head, justify="right" if "\n" in head else "left", overflow="fold", no_wrap="\n" in head)
    for row in rows:
        deviation = [number(row.deviation), number(row.relative_deviation)] if known else []
        atom = f"{row.symbol} {row.atom}"
        table.add_row(row.where, atom, number(row.novelty), *deviation, row.nearest or "none: never seen")
    return table
