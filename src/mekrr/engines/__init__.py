"""Potentials in simulation programs: what they share stands in `evaluator` and `watch`, each program in its own file.

Nothing here imports a program before it is used.
"""

from mekrr.dynamics.watch import Watch, WatchOptions
from mekrr.engines.evaluator import Evaluator, Found
from mekrr.threads import threads

__all__ = ["Evaluator", "Found", "Watch", "WatchOptions", "threads"]
