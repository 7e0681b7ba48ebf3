"""Options are declared once; nothing of them may be lost on the way to the dataclass."""

from dataclasses import fields

import pytest
import typer
from typer.testing import CliRunner

from mekrr.cli.app import app as mekrr_app
from mekrr.cli.declared import with_options
from mekrr.data import LabelKeys
from mekrr.declared import as_table, declared
from mekrr.potential import FitOptions

GIVEN = {
    "backbone": (["--backbone", "chgnet-0.3.0"], "chgnet-0.3.0"),
    "layers": (["--layer", "a", "--layer", "b"], ("a", "b")),
    "embedding": (["--embedding", "mean"], "mean"),
    "solver": (["--solver", "exact"], "exact"),
    "forces": (["--no-forces"], False),
    "probes": (["--probes", "all"], "all"),
    "exact_forces": (["--no-exact-forces"], False),
    "inducing": (["--inducing", "77"], 77),
    "force_weight": (["--force-weight", "0.25"], 0.25),
    "stress_weight": (["--stress-weight", "0.5"], 0.5),
    "kernel": (["--kernel", "linear"], "linear"),
    "prior": (["--prior", "none"], "none"),
    "species_weight": (["--species-weight", "0.3"], 0.3),
    "tangent_share": (["--tangent-share", "0.3"], 0.3),
    "anchors": (["--anchors", "none"], "none"),
    "length_scale": (["--length-scale", "median"], "median"),
    "ridge": (["--ridge", "1e-7"], 1e-7),
    "criterion": (["--criterion", "loo"], "loo"),
    "isolated_atoms": (["--isolated-atoms"], True),
    "refine": (["--refine", "3"], 3),
    "seed": (["--seed", "5"], 5),
    "batch_atoms": (["--batch-atoms", "99"], 99),
}


@pytest.fixture
def command():
    """A command that remembers the options it was given."""
    app, seen = typer.Typer(), []

    @app.command()
    @with_options(options=FitOptions, keys=LabelKeys)
    def run(options: FitOptions, keys: LabelKeys) -> None:
        """Remember."""
        seen.append((options, keys))

    def call(*arguments):
        result = CliRunner().invoke(app, list(arguments))
        return result, seen[-1] if seen else None

    return call


def test_every_field_is_declared_and_tried_here():
    assert [one.name for one in declared(FitOptions)] == [f.name for f in fields(FitOptions)] == list(GIVEN)


@pytest.mark.parametrize("name", GIVEN)
def test_an_option_reaches_its_field_and_no_other(command, name):
    arguments, value = GIVEN[name]
    result, (options, _) = command(*arguments)
    assert result.exit_code == 0, result.output
    assert getattr(options, name) == value
    assert type(getattr(options, name)) is type(value)
    others = [f.name for f in fields(FitOptions) if f.name != name]
    assert all(getattr(options, other) == getattr(FitOptions(), other) for other in others)


def test_labels_reach_their_fields(command):
    for one in declared(LabelKeys):
        _, (_, keys) = command(one.option.flag, "given")
        assert getattr(keys, one.name) == "given"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--probes", "some"], "it takes a whole number or all; received 'some'"),
        (["--probes", "1.5"], "a whole number"),
        (["--length-scale", "long"], "a number or auto or median"),
        (["--stress-weight", "heavy"], "it takes a number; received 'heavy'"),
    ],
)
def test_what_is_neither_word_nor_number_is_refused_by_name(command, arguments, message):
    result, _ = command(*arguments)
    assert result.exit_code == 2
    text = " ".join(result.output.replace("│", " ").split())
    assert message in text
    assert arguments[0] in text


def test_commands_have_the_declared_options():
    commands = {c.name: c for c in typer.main.get_command(mekrr_app).commands.values()}
    flags = {name: {f for p in c.params for f in (*p.opts, *p.secondary_opts)} for name, c in commands.items()}
    assert {one.option.flag for one in declared(FitOptions)} <= flags["fit"]
    labels = {one.option.flag for one in declared(LabelKeys)}
    absent = {name: {"--weight-key", "--unconverged"} for name in ("predict", "select")}
    absent["evaluate"] = {"--weight-key"}
    for name in ("fit", "inspect", "evaluate", "predict", "select"):
        assert labels & flags[name] == labels - absent.get(name, set())


def test_the_table_of_the_documentation_has_every_flag():
    table = as_table(FitOptions)
    assert all(f"`{one.option.flag}`" in table for one in declared(FitOptions))
    assert "| `--exact-forces`, `--no-exact-forces` | `True` |" in table


@pytest.mark.parametrize(
    ("given", "solver", "forces", "message"),
    [
        ({"inducing": 50}, "exact", False, "--inducing: without effect here, since the exact solver has no inducing"),
        ({"probes": 4}, "sparse", False, "--probes: without effect here, since no forces are fitted"),
        ({"force_weight": 0.1}, "exact", False, "--force-weight"),
        ({"stress_weight": 0.1}, "sparse", True, "--stress-weight: without effect here, since no stress is fitted"),
        ({"isolated_atoms": True, "prior": "backbone"}, "sparse", True, "--isolated-atoms"),
    ],
)
def test_an_option_without_effect_is_an_error(given, solver, forces, message):
    with pytest.raises(ValueError, match=message):
        FitOptions(**given).check_effect(solver, forces, stress=False)
    FitOptions(exact_forces=False).check_effect(solver, forces, stress=False)
