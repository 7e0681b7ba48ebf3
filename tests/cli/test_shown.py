"""Tables: nothing is broken or cut, whether they go to a terminal or a pipe."""

import io

import pytest
from rich.console import Console

from mekrr.cli.app import run
from mekrr.cli.shown import new_table, show


def printed(table, width=80, terminal=True):
    file = io.StringIO()
    show(table, Console(file=file, width=width, force_terminal=terminal, color_system=None))
    return file.getvalue()


def wide():
    table = new_table("numbers")
    table.add_column("name of it", no_wrap=True)
    for k in range(6):
        table.add_column(f"column\n{k}", justify="right", no_wrap=True)
    table.add_row("sevennet-mf-0", *(f"{k}.123±0.456" for k in range(6)))
    table.add_row("a", *["1"] * 6)
    return table


def test_in_a_pipe_a_row_is_a_line_whatever_the_width():
    lines = printed(wide(), 40, terminal=False).splitlines()
    assert lines[0] == "numbers"
    assert lines[1].split("  ")[0] == "name of it"
    assert lines[2].split() == ["sevennet-mf-0", *(f"{k}.123±0.456" for k in range(6))]
    assert lines[2].index("0.123") + len("0.123±0.456") == lines[3].index("1") + 1  # numbers end in one column
    assert len(lines) == 4


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_terminal_shows_every_number_whole(width):
    text = printed(wide(), width)
    assert "sevennet-mf-0" in text
    assert all(f"{k}.123±0.456" in text for k in range(6))
    assert "…" not in text


def test_markup_of_strangers_is_text_in_a_pipe():
    table = new_table()
    table.add_column("what")
    table.add_row(r"pip install \[this]")
    assert printed(table, terminal=False).splitlines()[-1] == "pip install [this]"


def test_backbones_can_be_searched(capsys):
    assert run(["backbones"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "sevennet-mf-0" in line]
    assert line.startswith("sevennet-mf-0")
    assert "interaction_4" in line
