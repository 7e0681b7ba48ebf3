"""mekrr benchmark, a command that `mekrr.commands` finds."""

import json as json_module
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table as RichTable

from mekrr.cli.console import Stages, err, out, print_json
from mekrr.cli.declared import with_options
from mekrr.cli.options import (
    ClusterOption,
    IndexOption,
    JsonOption,
)
from mekrr.cli.outputs import require_folder
from mekrr.data import LabelKeys
from mekrr.features import default_cache_folder
from mekrr_comparison.method import METHODS, check_method, method_class
from mekrr_comparison.outcome import run_task
from mekrr_comparison.sets import Sizes, read_sets
from mekrr_comparison.tables import Table
from mekrr_comparison.tasks import TASKS, Inputs


@with_options(keys=LabelKeys)
def benchmark(
    task: Annotated[str, typer.Argument(metavar="TASK", help=f"One of {', '.join(TASKS)}.")],
    data: Annotated[list[str], typer.Argument(metavar="DATA...", help="Files, or names of `mekrr data list`.")],
    keys: LabelKeys,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder; what is there is not computed again.")],
    methods: Annotated[str | None, typer.Option(help=f"Of {', '.join(METHODS)}; with commas, or all.")] = None,
    backbone: Annotated[str, typer.Option(help="A name of `mekrr backbones`, or name:path.")] = "sevennet-0",
    seeds: Annotated[int, typer.Option(min=1, help="Number of splits, from seed 0 on.")] = 3,
    train_size: Annotated[int | None, typer.Option(min=3, help="Structures a method may see.")] = None,
    validation_size: Annotated[int | None, typer.Option(min=1, help="Of these, for early stopping.")] = None,
    test_size: Annotated[int | None, typer.Option(min=1, help="Structures tested on, at most.")] = None,
    sizes: Annotated[str | None, typer.Option(help="Training sizes of learning-curve and scaling: 25,50,100.")] = None,
    group: Annotated[str | None, typer.Option(help="Info key whose values a split keeps together.")] = None,
    by: Annotated[str | None, typer.Option(help="Info key that divides DATA into one set a value.")] = None,
    pair: Annotated[list[str] | None, typer.Option(help="TRAIN:TEST of transfer, e.g. 1:2 or A+B:C.")] = None,
    align: Annotated[str, typer.Option(help="Shift test energies of transfer: auto, always or never.")] = "auto",
    max_force: Annotated[float | None, typer.Option(help="eV/A; leave out structures above it.")] = None,
    cap: Annotated[float | None, typer.Option(min=1, help="Seconds a fit may take.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="METHOD:OPTION=VALUE, repeatable.")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Compute again what failed before.")] = False,
    cache: Annotated[Path | None, typer.Option(help="Folder for computed features.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Honest seconds: no features kept.")] = False,
    index: IndexOption = ":",
    device: Annotated[str, typer.Option(help="Where networks compute: auto, cpu or cuda.")] = "cpu",
    cluster: ClusterOption = None,
    json: JsonOption = False,
) -> None:
    """Run an experiment of the paper, or a comparison with today's alternatives, on DATA."""
    chosen_task = _known("task", task, TASKS)
    _known("--align", align, dict.fromkeys(("auto", "always", "never")))
    inputs = Inputs(
        (), _methods(methods), tuple(range(seeds)), Sizes(train_size, validation_size, test_size), _numbers(sizes),
        group, tuple(pair or ()), align, backbone, device, _cluster(cluster, _methods(methods)), cap,
        cache=None if no_cache else (cache or default_cache_folder()).resolve(), options=_options(set_ or []),
    )  # fmt: skip
    require_folder(output)
    inputs = replace(inputs, sets=read_sets(data, keys, index, max_force, by))
    with Stages() as stages:
        told = _Told(stages)
        outcome = run_task(chosen_task, inputs, output, retry, told)
    if json:
        print_json(outcome.record())
        return
    out.print(f"[bold]{escape(chosen_task.title)}[/bold]")
    for note in outcome.notes:
        out.print(escape(note), soft_wrap=True, highlight=False)
    for table in outcome.finding.tables:
        _print(table)
    for sentence in outcome.finding.sentences:
        out.print(escape(sentence), soft_wrap=True, highlight=False)
    out.print(
        f"wrote report.html, results.md, results.csv and results.json in {output}", soft_wrap=True, highlight=False
    )


class _Told:
    """Says on stderr which fit is running; fits take long and are few."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages

    def __call__(self, what: str, done: int, total: int) -> None:
        if not err.is_terminal and done < total:
            err.print(f"{done + 1}/{total} {what}", highlight=False, markup=False, soft_wrap=True)
        self._stages("benchmark", done, total)


def _print(table: Table) -> None:
    """At its full width: a numeric table that is folded cannot be read, and what is redirected has no width."""
    out.print(f"\n[bold]{escape(table.title)}[/bold]", soft_wrap=True, highlight=False)
    shown = printed(table)
    wide = out.options.update(width=500)
    Console(width=max(out.width, Measurement.get(out, wide, shown).maximum)).print(shown)
    for text in (table.note, *table.footnotes):
        out.print(escape(text), soft_wrap=True, highlight=False)


def printed(table: Table) -> RichTable:
    """A table for the terminal."""
    shown = RichTable(box=None, pad_edge=False)
    for k, column in enumerate(table.columns):
        is_number = k in table.numeric
        shown.add_column(escape(column), justify="right" if is_number else "left", no_wrap=True)
    for row in table.rows:
        shown.add_row(*map(escape, row))
    return shown


def _known(what: str, value: str, known: dict[str, Any]) -> Any:
    if value not in known:
        raise ValueError(f"{what} is one of {', '.join(known)}; got {value!r}")
    return known[value]


def _methods(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    if text == "all":
        return tuple(METHODS)
    return tuple(dict.fromkeys(check_method(word.strip()) for word in text.split(",")))


def _cluster(where: str | None, methods: tuple[str, ...]) -> str | None:
    """Where the methods that can compute on workers do so.

    Raises:
        ValueError: where none of the methods takes one.
    """
    if where is not None and methods and not any(method_class(name).takes_cluster for name in methods):
        raise ValueError(f"--cluster: without effect on {', '.join(methods)}; leave it out, or add the method mekrr")
    return where


def _numbers(text: str | None) -> tuple[int, ...]:
    """Ascending training sizes.

    Raises:
        ValueError: for anything but whole numbers from 3 on.
    """
    if text is None:
        return ()
    try:
        found = sorted({int(word) for word in text.split(",")})
    except ValueError:
        raise ValueError(f"--sizes takes whole numbers with commas, e.g. 25,50,100; got {text!r}") from None
    if found[0] < 3:
        raise ValueError(f"--sizes starts at 3 structures; got {found[0]}")
    return tuple(found)


def _options(items: list[str]) -> dict[str, dict[str, Any]]:
    """METHOD:OPTION=VALUE; the value is read as JSON where it is JSON, and as a word otherwise."""
    found: dict[str, dict[str, Any]] = {}
    for item in items:
        where, equals, value = item.partition("=")
        method, colon, option = where.rpartition(":")
        if not (equals and colon and option):
            raise ValueError(f"--set is written as METHOD:OPTION=VALUE, e.g. schnet:epochs=100; got {item!r}")
        found.setdefault(check_method(method), {})[option] = _value(value)
    return found


def _value(text: str) -> Any:
    try:
        return json_module.loads(text)
    except ValueError:
        return text
