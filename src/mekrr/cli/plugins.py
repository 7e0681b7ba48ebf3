"""Commands that another distribution brings, found through entry points; one that is missing says how to get it."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoints, entry_points

import typer
from rich.markup import escape

from mekrr.cli.console import err

GROUP = "mekrr.commands"


@dataclass(frozen=True)
class Home:
    """Where a command comes from.

    Attributes:
        distribution: its name.
        install: what brings it, in a clone of the repository.
        help: what it does, for `mekrr --help` while it is missing.
    """

    distribution: str
    install: str
    help: str


ELSEWHERE = {
    "benchmark": Home(
        "mekrr-comparison", "pip install ./comparison", "The paper's experiments, and comparisons with alternatives."
    )
}
"""The commands that this package names and does not have."""


def add_plugins(app: typer.Typer, found: EntryPoints | None = None) -> None:
    """Add every command of ELSEWHERE, or a stand-in that exits with code 2 and says what to install.

    Args:
        app: to add to.
        found: entry points to look in; those of what is installed unless given.
    """
    points = entry_points(group=GROUP) if found is None else found
    for name, home in ELSEWHERE.items():
        if name not in points.names:
            _add_stand_in(app, name, home, "is not installed")
            continue
        try:
            app.command(name)(points[name].load())
        except (ImportError, AttributeError) as error:  # of another version, or half removed: the others still work
            _add_stand_in(app, name, home, f"cannot be imported ({error})")


def _add_stand_in(app: typer.Typer, name: str, home: Home, why: str) -> None:
    sentence = f"mekrr {name} comes with {home.distribution}, which {why}; in a clone of mekrr, run: {home.install}"
    anything = {"allow_extra_args": True, "ignore_unknown_options": True}
    text = f"{home.help} Not installed: {home.install}"
    app.command(name, help=text, context_settings=anything)(_said(sentence))


def _said(sentence: str) -> Callable[[typer.Context], None]:
    def say(context: typer.Context) -> None:
        err.print(f"[red]error:[/red] {escape(sentence)}", soft_wrap=True)
        raise typer.Exit(2)

    return say
