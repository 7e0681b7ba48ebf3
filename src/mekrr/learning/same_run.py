"""Whether the run in a folder is the one that is asked for: settings as the run keeps them, side by side."""

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io.jsonio import decode, encode

from mekrr.data.reading.electrons import charge_and_spin
from mekrr.errors import DataError

SAME = 1e-6  # Angstrom, and other units: START of a run that goes on
MAY_CHANGE = ("steps", "fmax", "path_deviation", "vibrations", "check", "batch")
"""Options of a task that a run may go on with otherwise than it began."""


def require_same_run(old: dict[str, Any], new: dict[str, Any], folder: Path) -> None:
    """Refuse to go on with a run as another one.

    Raises:
        DataError: saying what differs.
    """
    if old["task"] != new["task"]:
        raise DataError(f"{folder} holds a run of {old['task']}, not of {new['task']}; choose another folder")
    for name in ("start", "end"):
        was, now = old[name], new[name]
        if was is not None and (what := _differing(was, now)):
            raise DataError(
                f"{folder} holds a run with another {name.upper()}, which differs in its {' and '.join(what)}; give "
                "that one, or choose another folder"
            )
    changed = [k for k, v in new["fit"].items() if _listed(v) != _listed(old["fit"].get(k))]
    if changed:
        flags = ", ".join("--" + name.replace("_", "-") for name in changed)
        raise DataError(f"{folder} holds a run with other options of the fit ({flags}): leave them as they were")
    for name, value in new["options"].items():
        was = old["options"].get(name, value)
        if name not in MAY_CHANGE and str(was) != str(value) and was != value:
            raise DataError(
                f"{folder} holds a run with --{name.replace('_', '-')} {was}, not {value}; leave it as it was, or "
                "choose another folder"
            )
    if not _same_source(old, new):
        raise DataError(
            f"{folder} holds a run whose labels come {_source(old['calculator'])}, and not {_source(new['calculator'])}"
            ": labels of two methods make no potential; go on as it began, or begin again in another folder"
        )


def rewritten(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What is to be said where the calculator's file is not what it was."""
    if old.get("calculator_sha256") in (None, new["calculator_sha256"]):
        return []
    return [
        f"{new['calculator'].rpartition(':')[0]} is not the file with which the run was started last: if what it "
        "computes is another energy, begin again in another folder, for labels of two methods make no potential"
    ]


def _differing(was: Atoms, now: Atoms) -> list[str]:
    """What is not the same in two structures, in words; one comes from JSON."""
    if not np.array_equal(was.numbers, now.numbers):
        return ["elements"]
    numbers = {
        "positions": (was.positions, now.positions),
        "cell": (was.cell.array, now.cell.array),
        "periodicity": (was.pbc, now.pbc),
        "masses": (was.get_masses(), now.get_masses()),
        "velocities": (was.get_momenta(), now.get_momenta()),
        "magnetic moments": (was.get_initial_magnetic_moments(), now.get_initial_magnetic_moments()),
        "charge or spin": (charge_and_spin(was), charge_and_spin(now)),
    }
    found = [name for name, (a, b) in numbers.items() if not _is_close(a, b)]
    kept, given = encode(was.constraints), encode(decode(encode(now)).constraints)
    return found + (["constraints"] if kept != given else [])


def _is_close(a: Any, b: Any) -> bool:
    return np.shape(a) == np.shape(b) and np.allclose(a, b, rtol=0, atol=SAME, equal_nan=True)


def _same_source(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether labels come from the same function, of the same file or of a copy of it."""
    was, now = old["calculator"], new["calculator"]
    if was is None or now is None:
        return was is now
    (old_file, _, old_function), (file, _, function) = was.rpartition(":"), now.rpartition(":")
    copied = old.get("calculator_sha256") == new["calculator_sha256"]
    return old_function == function and (copied or Path(old_file).resolve() == Path(file).resolve())


def _source(calculator: str | None) -> str:
    return "from outside (--ask)" if calculator is None else f"from --calculator {calculator}"


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
