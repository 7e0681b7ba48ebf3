"""Tables as they reach the user: on a terminal they fit its width, in a pipe every row is one plain line."""

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

UNLIMITED = 100_000  # characters
BETWEEN = "  "


def new_table(title: str | None = None, heads: bool = True) -> Table:
    """An empty table in the looks of the command line."""
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_header=heads)


def show(table: Table, console: Console) -> None:
    """Print a table.

    No name or number is broken or cut: where a terminal is too narrow for the columns that may not wrap, each row
    becomes a block of lines.
    """
    if not console.is_terminal:
        for line in plain_lines(table):
            console.print(line, soft_wrap=True, highlight=False, markup=False)
        return
    least = Measurement.get(console, console.options.update(max_width=UNLIMITED), table).minimum
    if least <= console.width:
        console.print(table)
        return
    for line in _blocks(table):
        console.print(line, soft_wrap=False, highlight=False)


def plain_lines(table: Table) -> Iterator[str]:
    """The table as text: its title, its heads in one line, each row in one line."""
    if table.title:
        yield _plain(str(table.title))
    columns = [_column(column, table.show_header) for column in table.columns]
    for row in zip(*columns, strict=True):
        yield BETWEEN.join(row).rstrip()


def _column(column: Column, head: bool) -> list[str]:
    """Head and cells of a column, of one width."""
    cells = [*([_plain(str(column.header))] if head else []), *(_plain(str(cell)) for cell in column.cells)]
    width = max((len(cell) for cell in cells), default=0)
    return [cell.rjust(width) if column.justify == "right" else cell.ljust(width) for cell in cells]


def _plain(markup: str) -> str:
    return " ".join(Text.from_markup(markup).plain.split())


def _blocks(table: Table) -> Iterator[str]:
    """Each row under its first cell, a line a column."""
    if table.title:
        yield f"[italic]{table.title}[/italic]"
    heads = [_plain(str(column.header)) for column in table.columns]
    width = max(len(head) for head in heads[1:])
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        yield f"[bold]{cells[0]}[/bold]"
        yield from (f"  {head.ljust(width)}  {cell}" for head, cell in zip(heads[1:], cells[1:], strict=True))
