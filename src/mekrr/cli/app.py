"""The commands, and what happens when they fail."""

import torch
import typer
from rich.markup import escape

from mekrr._version import __version__
from mekrr.cli import (
    data_commands,
    evaluate,
    explain,
    export,
    features,
    fit,
    lammps,
    md,
    predict,
    quickstart,
    select,
    serve,
)
from mekrr.cli.backbone_commands import backbones_app
from mekrr.cli.console import end_run, err, out, warnings_on_stderr
from mekrr.cli.learn import learn_app
from mekrr.cli.plugins import add_plugins
from mekrr.errors import MekrrError

app = typer.Typer(
    help="Interatomic potentials from little data, on the features of frozen pretrained networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

INTERRUPTED = (
    "interrupted; no unfinished file was left behind. Features and derivatives computed so far are in the cache, "
    "unless --no-cache was given: the same command goes on from them"
)


def _version(value: bool) -> None:
    if value:
        out.print(f"mekrr {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Options before the command."""


app.command("quickstart")(quickstart.quickstart)
app.command("inspect")(data_commands.inspect)
app.command("fit")(fit.fit)
app.command("features")(features.features_command)
app.command("evaluate")(evaluate.evaluate_command)
app.command("predict")(predict.predict)
app.command("explain")(explain.explain_command)
app.command("select")(select.select_command)
app.command("md")(md.md)
app.command("export")(export.export)
app.command("lammps")(lammps.lammps_command)
app.command("serve")(serve.serve)
add_plugins(app)
app.add_typer(learn_app, name="learn")
app.add_typer(backbones_app, name="backbones")
app.add_typer(data_commands.data_app, name="data")


def run(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code: 0 only on success, 2 for wrong usage."""
    before = torch.get_num_threads()
    try:
        with warnings_on_stderr():
            app(arguments)
    except SystemExit as end:  # how typer ends every command
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, 130)
    except (MekrrError, ValueError) as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(_operating_system(error))
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        return _fail("out of memory: lower --batch-atoms, choose fewer --layer, or fit fewer structures")
    finally:
        end_run()
        torch.set_num_threads(before)
    return 0


def _fail(message: str, code: int = 1) -> int:
    err.print(f"[red]error:[/red] {escape(message)}", soft_wrap=True)
    return code


def _operating_system(error: OSError) -> str:
    if error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _out_of_memory(error: BaseException) -> bool:
    """Torch raises a plain RuntimeError when the CPU's memory is exhausted."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text
