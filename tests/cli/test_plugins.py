"""A command of another distribution: there, missing, or broken."""

from importlib.metadata import EntryPoint, EntryPoints

import pytest
import typer
from typer.testing import CliRunner

from mekrr.cli.plugins import GROUP, add_plugins

ARGUMENTS = ["benchmark", "same", "data.extxyz", "-o", "results", "--seeds", "1"]


def called(arguments, *points):
    """A command line with these entry points and one command of its own."""
    app = typer.Typer()
    app.command("other")(lambda: None)
    add_plugins(app, EntryPoints(points))
    return CliRunner().invoke(app, arguments)


def test_a_missing_distribution_ends_in_one_sentence_and_code_2():
    result = called(ARGUMENTS)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "pip install ./comparison" in result.stderr
    assert "mekrr-comparison, which is not installed" in result.stderr
    assert result.stdout == ""


def test_help_says_what_to_install():
    for arguments in (["--help"], ["benchmark", "--help"]):
        assert "./comparison" in called(arguments).stdout


@pytest.mark.parametrize("value", ["no_such_module:benchmark", "json:no_such_name"])
def test_a_broken_one_says_why_and_leaves_the_others(value):
    point = EntryPoint("benchmark", value, GROUP)
    result = called(ARGUMENTS, point)
    assert result.exit_code == 2
    assert "no_such" in result.stderr
    assert "pip install ./comparison" in result.stderr
    assert called(["other"], point).exit_code == 0


def test_an_installed_one_is_the_command():
    result = called(["benchmark", "--help"], EntryPoint("benchmark", "textwrap:dedent", GROUP))
    assert result.exit_code == 0
    assert "text" in result.stdout
    assert "Not installed" not in result.stdout
