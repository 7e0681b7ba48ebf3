"""Potentials in simulation programs: what they share stands in `evaluator` and `watch`, each program in its own file.

Nothing here imports a program before it is used.
"""

from mekrr.engines.evaluator import Evaluator, Found
from mekrr.engines.threads import threads
from mekrr.engines.watch import Watch, WatchOptions

__all__ = ["Evaluator", "Found", "Watch", "WatchOptions", "threads"]
