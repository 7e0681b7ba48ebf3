"""The process in which the user's calculator runs: `python -m mekrr.learning.worker CALCULATOR FOLDER`.

A line on standard input asks for FOLDER/ask.json to be labelled; the answer is FOLDER/answer.json, whole or not there
at all, and a line on standard output. What the calculator prints goes to FOLDER/output.txt. The process holds a lock on
FOLDER/lock as long as it lives, and finishes what it was asked even when the run that asked is killed: a run that goes
on waits for the lock and takes the answer. It imports no torch.
"""

import fcntl
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.io.jsonio import decode, encode

from mekrr.errors import LabelError
from mekrr.files import atomic_path
from mekrr.learning.factory import described, load_factory

ASK, ANSWER, LOCK, OUTPUT = "ask.json", "answer.json", "lock", "output.txt"
READY = b"ready\n"


def main() -> None:
    """Label what is asked for until standard input ends."""
    name, folder = sys.argv[1], Path(sys.argv[2]).absolute()
    lock = open(folder / LOCK, "w")  # noqa: SIM115 (held as long as the process lives)
    fcntl.flock(lock, fcntl.LOCK_EX)
    replies = _redirect(folder / OUTPUT)
    os.chdir(folder)
    calculator = None
    for _ in sys.stdin:
        ask = decode((folder / ASK).read_text())
        started = time.perf_counter()
        try:
            if calculator is None:
                calculator = _made(name)
            answer = labelled(ask["atoms"], calculator, ask["stress"])
        except Exception as error:  # whatever the user's calculator raises
            text = str(error) if isinstance(error, LabelError) else f"the calculator raised {described(error)}"
            answer, calculator = {"error": text}, None
        answer |= {"number": ask["number"], "seconds": time.perf_counter() - started}
        with atomic_path(folder / ANSWER) as temporary:
            temporary.write_text(encode(answer))
        try:
            os.write(replies, READY)
        except BrokenPipeError:
            return  # the run was killed; the answer is there for the one that goes on


def labelled(atoms: Atoms, calculator: Any, stress: bool) -> dict[str, Any]:
    """Energy, forces of free atoms, and stress where wanted or at hand.

    Args:
        atoms: without constraints.
        calculator: made by the user's function.
        stress: whether it is needed.

    Raises:
        LabelError: when a result is missing or of another shape, or the calculator says that it did not converge.
    """
    atoms = atoms.copy()
    atoms.calc = calculator
    energy = atoms.get_potential_energy()
    forces = np.asarray(atoms.get_forces(apply_constraint=False), dtype=float)
    results = dict(getattr(calculator, "results", None) or {})
    _require_converged(calculator)
    if forces.shape != (len(atoms), 3):
        raise LabelError(
            f"the calculator returned forces of shape {forces.shape} for {len(atoms)} atoms; forces of another number "
            "of atoms are no labels"
        )
    found = {"energy": float(energy), "forces": forces}
    if "free_energy" in results and results["free_energy"] is not None:
        found["free_energy"] = float(results["free_energy"])
    if stress or "stress" in results:
        try:
            found["stress"] = np.asarray(atoms.get_stress(), dtype=float)
        except (PropertyNotImplementedError, NotImplementedError) as error:
            if stress:
                raise LabelError(
                    f"the calculator has no stress, which a run at constant pressure needs: {error}"
                ) from error
    return found


def _require_converged(calculator: Any) -> None:
    """Several calculators of ASE return the last energy of a loop that did not converge, and say so beside it."""
    told = getattr(calculator, "converged", None)
    if isinstance(told, bool | np.bool_) and not told:
        raise LabelError("the calculator says that its electronic loop did not converge")


def _made(name: str) -> Any:
    calculator = load_factory(name)()
    if not hasattr(calculator, "get_property") and not hasattr(calculator, "get_forces"):
        raise LabelError(f"{name} returned a {type(calculator).__name__}, which is no ASE calculator")
    return calculator


def _redirect(path: Path) -> int:
    """Send what anybody prints, C libraries too, to a file; a descriptor of the true standard output comes back."""
    replies = os.dup(1)
    os.set_inheritable(replies, False)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    sys.stdout.flush()
    os.dup2(log, 1)
    os.dup2(log, 2)
    return replies


if __name__ == "__main__":
    main()
