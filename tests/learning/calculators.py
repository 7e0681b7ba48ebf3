"""Calculators as users write them, sound ones and others; run in the labeller's process."""

import os
import signal
import time
from pathlib import Path

import numpy as np
from ase.calculators.emt import EMT


class Counted(EMT):
    """EMT that writes a line for each structure it is given, where `MEKRR_COUNT` names a file."""

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        if "MEKRR_COUNT" in os.environ:
            with open(os.environ["MEKRR_COUNT"], "a") as file:
                file.write(f"{self.results['energy']!r}\n")
        time.sleep(float(os.environ.get("MEKRR_SLEEP", "0")))


def emt():
    return Counted()


class _Noisy(EMT):
    """Forces as of a coarse grid: off by waves of a twentieth of an Angstrom."""

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.results["forces"] = self.results["forces"] + 0.2 * np.sin(2 * np.pi * self.atoms.positions / 0.05)


def noisy():
    return _Noisy()


def raising_factory():
    raise RuntimeError("no pseudopotential for Cu")


def no_calculator():
    return "EMT"


class _Odd(EMT):
    """One fault after another; how many were had is kept in a file, since each may end the process."""

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        FAULTS[_calls_before()](self)


def _calls_before():
    """How many structures the run has had before this one, whatever processes they were in."""
    count = Path("count")
    k = int(count.read_text()) if count.exists() else 0
    count.write_text(str(k + 1))
    return k


def _raise(calculator):
    raise RuntimeError("SCF not converged in 50 steps")


def _fewer(calculator):
    calculator.results["forces"] = calculator.results["forces"][:-1]


def _unconverged(calculator):
    calculator.converged = False


def _crash(calculator):
    print("before the crash", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def _slow(calculator):
    time.sleep(60)


def _sound(calculator):
    calculator.converged = True


FAULTS = [_raise, _fewer, _unconverged, _crash, _slow, _sound]


def faulty():
    return _Odd()


class _Nan(EMT):
    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.results["forces"] = np.full((len(self.atoms), 3), np.nan)


def nan():
    return _Nan()


class _Once(EMT):
    """Crashes at the first structure that any process is given, and not again."""

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        flag = Path("crashed")
        if not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def once():
    return _Once()


class _Fourth(EMT):
    """Fails at the fourth structure."""

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        if _calls_before() == 3:
            raise RuntimeError("SCF not converged in 50 steps")


def fourth():
    return _Fourth()


class _Smeared(EMT):
    """Forces are the gradient of the free energy, which is not the energy."""

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.results["free_energy"] = self.results["energy"] - 0.5


def smeared():
    return _Smeared()


class _Unlicensed(Counted):
    """Fails after as many structures, which a file counts, as there are licences."""

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        count = Path("made")
        made = int(count.read_text()) if count.exists() else 0
        if made >= int(os.environ.get("MEKRR_LICENCES", "1000")):
            raise RuntimeError("licence server is down")
        count.write_text(str(made + 1))


def unlicensed():
    return _Unlicensed()
