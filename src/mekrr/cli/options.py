"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from mekrr.data import LabelKeys

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
BatchOption = Annotated[
    int | None,
    typer.Option("--batch-atoms", min=1, help="Atoms in one backbone batch; lower it if memory runs out."),
]
EnergyKey = Annotated[str | None, typer.Option("--energy-key", help="Name of the energy in the file.")]
ForcesKey = Annotated[str | None, typer.Option("--forces-key", help="Name of the forces.")]
StressKey = Annotated[str | None, typer.Option("--stress-key", help="Name of the stress (ASE's sign).")]
VirialKey = Annotated[str | None, typer.Option("--virial-key", help="Name of the virial (-volume times stress).")]
WeightKey = Annotated[str | None, typer.Option("--weight-key", help="Name of the weight of a structure.")]
EnergyUnit = Annotated[str, typer.Option("--energy-unit", help="eV, meV, Ha, Ry, kcal/mol or kJ/mol.")]
LengthUnit = Annotated[str, typer.Option("--length-unit", help="Angstrom, Bohr or nm.")]
ForcesUnit = Annotated[str | None, typer.Option("--forces-unit", help="E.g. Ha/Bohr; by default energy over length.")]
StressUnit = Annotated[str | None, typer.Option("--stress-unit", help="GPa, kbar, eV/Angstrom^3, ...")]
Unconverged = Annotated[
    str, typer.Option("--unconverged", help="Structures whose electronic loop stopped: drop, keep or refuse.")
]


def label_keys(
    energy: str | None,
    forces: str | None,
    stress: str | None,
    virial: str | None,
    weight: str | None,
    energy_unit: str,
    length_unit: str,
    forces_unit: str | None,
    stress_unit: str | None,
    unconverged: str,
) -> LabelKeys:
    """The label options of a command as LabelKeys."""
    return LabelKeys(
        energy, forces, stress, virial, weight, energy_unit, length_unit, forces_unit, stress_unit, unconverged
    )


def count_or_word(value: str, name: str, word: str) -> str | int:
    """An option that takes a whole number or one word.

    Raises:
        ValueError: for anything else.
    """
    if value == word:
        return value
    if not value.isdecimal():
        raise ValueError(f"{name} takes a whole number or {word}; got {value!r}")
    return int(value)


def number_or_word(value: str, name: str, words: tuple[str, ...]) -> str | float:
    """An option that takes a number or one of some words.

    Raises:
        ValueError: for anything else.
    """
    if value in words:
        return value
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{name} takes a number or {' or '.join(words)}; got {value!r}") from None
