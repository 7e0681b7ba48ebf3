"""mekrr learn: relaxations, reaction paths and dynamics that label what they need to know."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from mekrr.cli.console import err, out, print_json
from mekrr.cli.declared import with_options
from mekrr.cli.md import describe
from mekrr.cli.options import STOPPED_CODE, CoresOption, DeviceOption, JsonOption, TrustOption
from mekrr.cli.outputs import require_folder
from mekrr.data import read_structures
from mekrr.dynamics import read_start
from mekrr.learning import Event, LabelOptions, MdOptions, NebOptions, RelaxOptions, learn
from mekrr.learning.events import CONVERGED, FAILED, REMARK, STOPPED, TO_LABEL
from mekrr.learning.page import write_page
from mekrr.potential import FitOptions

TO_LABEL_CODE = 4
"""Exit code of a run that waits for labels from outside."""

NO_EFFECT = ("solver", "embedding", "forces", "isolated_atoms", "refine")
"""Options of a fit that leave no choice here: forces are learnt, and by a kernel, which updates add to."""

learn_app = typer.Typer(
    help="Relax, find a path or run dynamics with DFT in the loop: what must be known is labelled, the rest predicted.",
    no_args_is_help=True,
)

StartArgument = Annotated[Path, typer.Argument(metavar="START", help="A file with the structure to start from.")]
OutputOption = Annotated[Path, typer.Option("-o", "--output", help="The folder of the run.")]
CalculatorOption = Annotated[
    str | None,
    typer.Option("--calculator", metavar="FILE.py:FUNCTION", help="A function that returns an ASE calculator."),
]
IndexOption = Annotated[int, typer.Option("--index", help="Which structure of START; negative from the end.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")]
AskOption = Annotated[
    bool, typer.Option("--ask", help=f"Write what is to be labelled and end with exit code {TO_LABEL_CODE}.")
]
TellOption = Annotated[
    list[Path] | None, typer.Option("--tell", metavar="FILE", help="Labels that were asked for; repeatable.")
]


@dataclass(frozen=True)
class Run:
    """What the commands share."""

    output: OutputOption
    calculator: CalculatorOption = None
    index: IndexOption = -1
    resume: ResumeOption = False
    ask: AskOption = False
    tell: TellOption = None
    device: DeviceOption = "auto"
    trust_checkpoint: TrustOption = False
    threads: CoresOption = None
    json: JsonOption = False

    def follow(self, kind: str, ends: Sequence[Any], *options: Any) -> None:
        """Make the run, and print what happens and how it ended.

        Raises:
            ValueError: when it is not said where labels come from, or said twice.
        """
        told = self._told()
        require_folder(self.output)
        events = learn(
            kind, *ends, folder=self.output, calculator=self.calculator, resume=self.resume, tell=told,
            device=self.device, trust_checkpoint=self.trust_checkpoint,
            **{name: value for part in options for name, value in vars(part).items()},
        )  # fmt: skip
        _follow(events, self.output, self.threads, self.json)

    def _told(self) -> list[Any]:
        if (self.calculator is None) == (not self.ask):
            raise ValueError(
                "labels come from --calculator FILE.py:FUNCTION or from outside (--ask): give one of the two"
            )
        if self.tell and not self.ask:
            raise ValueError("--tell gives labels from outside: add --ask, and leave --calculator out")
        return read_structures(self.tell) if self.tell else []


@learn_app.command("relax")
@with_options(without=NO_EFFECT, run=Run, options=RelaxOptions, labels=LabelOptions, fit=FitOptions)
def relax(start: StartArgument, run: Run, options: RelaxOptions, labels: LabelOptions, fit: FitOptions) -> None:
    """Relax START at its cell until the DFT forces are below --fmax."""
    run.follow("relax", [_start(start, run.index, "START")], options, labels, fit)


@learn_app.command("neb")
@with_options(without=NO_EFFECT, run=Run, options=NebOptions, labels=LabelOptions, fit=FitOptions)
def neb(
    start: StartArgument,
    end: Annotated[Path, typer.Argument(metavar="END", help="A file with the other end: the same atoms in order.")],
    run: Run,
    options: NebOptions,
    labels: LabelOptions,
    fit: FitOptions,
    end_index: Annotated[int, typer.Option("--end-index", help="Which structure of END.")] = -1,
) -> None:
    """Find the path from START to END, both relaxed, with a climbing image whose DFT forces are below --fmax."""
    ends = _start(start, run.index, "START"), _start(end, end_index, "END")
    run.follow("neb", ends, options, labels, fit)


@learn_app.command("md")
@with_options(without=NO_EFFECT, run=Run, options=MdOptions, labels=LabelOptions, fit=FitOptions)
def md(start: StartArgument, run: Run, options: MdOptions, labels: LabelOptions, fit: FitOptions) -> None:
    """Run dynamics from START; what the potential does not know well enough is labelled on the way."""
    run.follow("md", [_start(start, run.index, "START")], options, labels, fit)


@learn_app.command("report")
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a run, which may be going on.")],
) -> None:
    """Write the page of a run as it stands, DIR/report.html."""
    path = write_page(folder)
    out.print(f"wrote {path}", soft_wrap=True, highlight=False, markup=False)


def _start(path: Path, index: int, name: str) -> Any:
    atoms, found = read_start(path, index)
    err.print(f"{name}: {path}, index {found}: {describe(atoms)}", soft_wrap=True, highlight=False, markup=False)
    return atoms


def _follow(events: Iterator[Event], output: Path, threads: int | None, json: bool) -> None:
    """Print what happens, and how it ended."""
    last: Event | None = None
    try:
        for event in events:
            last = event
            if event.kind not in (CONVERGED, STOPPED, TO_LABEL):
                _print(event)
    except KeyboardInterrupt:
        err.print(f"{output} holds all labels; go on with --resume", soft_wrap=True, highlight=False)
        raise
    assert last is not None
    if json:
        print_json({"output": str(output), "ended": last.kind, "text": last.text, "threads": threads} | last.numbers)
    else:
        out.print(escape(last.text), soft_wrap=True, highlight=False)
        out.print(f"everything is in {output}", soft_wrap=True, highlight=False, markup=False)
    codes = {CONVERGED: 0, STOPPED: STOPPED_CODE, TO_LABEL: TO_LABEL_CODE}
    if codes[last.kind]:
        raise typer.Exit(codes[last.kind])


def _print(event: Event) -> None:
    label = {FAILED: "[yellow]warning:[/yellow] ", REMARK: "[yellow]warning:[/yellow] "}.get(event.kind, "")
    err.print(label + escape(event.text), soft_wrap=True, highlight=False)
