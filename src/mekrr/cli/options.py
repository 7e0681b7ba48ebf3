"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from mekrr.cli.threads import use_threads
from mekrr.cluster import check_where

DataArgument = Annotated[
    list[Path], typer.Argument(metavar="DATA...", help="Files that ASE reads: extxyz, traj, db, aselmdb, OUTCAR, ...")
]
ModelArgument = Annotated[Path, typer.Argument(metavar="MODEL", help="A file written by mekrr fit.")]
IndexOption = Annotated[str, typer.Option("--index", help="Which structures of each file, e.g. ':100' or '::5'.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, everything else on stderr.")]
DeviceOption = Annotated[str, typer.Option("--device", help="Where the backbone computes: auto, cpu or cuda.")]
TrustOption = Annotated[
    bool, typer.Option("--trust-checkpoint", help="Unpickle weights given by path: only for files you made or trust.")
]
FeaturesOption = Annotated[
    Path | None,
    typer.Option("--features", help="A file of mekrr features, in place of a backbone that cannot be installed here."),
]


def _checked(where: str | None) -> str | None:
    if where is not None:
        check_where(where)
    return where


ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="WHERE",
        callback=_checked,
        help="Workers: local:N, a scheduler (tcp://host:8786), a jobqueue .yaml file, or none.",
    ),
]
ThreadsOption = Annotated[
    int, typer.Option("--threads", help="Threads of an evaluation; one is fastest below some hundred atoms.")
]
CoresOption = Annotated[
    int | None,
    typer.Option(
        "--threads", help="Threads; by default the cores that are idle at the start, at most 8.", callback=use_threads
    ),
]
"""The number that is used reaches the command."""

LogOption = Annotated[
    Path | None, typer.Option("--log", help="A file that keeps what is printed, warnings, and times of the stages.")
]

STOPPED_CODE = 3
"""Exit code of a run that --on-threshold stop ended."""
