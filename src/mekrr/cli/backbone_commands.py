"""mekrr backbones."""

from typing import Annotated

import typer
from rich.markup import escape

from mekrr.backbones import available_backbones
from mekrr.cli.console import Stages, out, print_json
from mekrr.cli.options import JsonOption
from mekrr.cli.shown import new_table, show

backbones_app = typer.Typer(help="Backbones: what is there, what is installed, how to get the rest.")


@backbones_app.callback(invoke_without_command=True)
def list_backbones(context: typer.Context, json: JsonOption = False) -> None:
    """What is there, what is installed, how to get the rest."""
    if context.invoked_subcommand is not None:
        return
    listing = available_backbones()
    if json:
        print_json(
            {
                b.name: {
                    "installed": b.installed,
                    "install": b.install,
                    "layers": list(b.layers),
                    "licence": b.card.licence,
                    "trained_on": b.card.trained_on,
                    "citation": b.card.citation,
                }
                for b in listing
            }
        )
        return
    table = new_table()
    for head in ("name", "installed", "weights", "layers", "licence", "trained on"):
        table.add_column(head, no_wrap=head in ("name", "installed"))
    for b in listing:
        there = "yes" if b.installed else escape(b.install)
        table.add_row(b.name, there, b.weights, " ".join(b.layers), b.card.licence, b.card.trained_on)
    show(table, out)


@backbones_app.command("fetch")
def fetch(name: Annotated[str, typer.Argument(help="A name of `mekrr backbones`.")]) -> None:
    """Download published weights into the cache (resumable, hash checked) and print where they lie."""
    from mekrr.backbones.registry import fetch_backbone

    with Stages() as stages:
        path = fetch_backbone(name, lambda done, total: stages("download", done, total or done))
    out.print(str(path), soft_wrap=True, highlight=False)
