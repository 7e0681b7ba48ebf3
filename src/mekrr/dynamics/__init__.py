"""Molecular dynamics that watches itself: start, integrate, write frame by frame, go on after a kill."""

from mekrr.dynamics.run import State, Summary, run
from mekrr.dynamics.settings import Settings, require_temperature
from mekrr.dynamics.stability import MAX_MOVE, UnstableError
from mekrr.dynamics.start import draw_velocities, has_velocities, read_start, temperature
from mekrr.dynamics.trajectory import Trajectory, continue_from, require_same_energy
from mekrr.dynamics.watch import THRESHOLD_MULTIPLE, Watch, WatchOptions, default_threshold

__all__ = [
    "MAX_MOVE",
    "THRESHOLD_MULTIPLE",
    "Settings",
    "State",
    "Summary",
    "Trajectory",
    "UnstableError",
    "Watch",
    "WatchOptions",
    "continue_from",
    "default_threshold",
    "draw_velocities",
    "has_velocities",
    "read_start",
    "require_same_energy",
    "require_temperature",
    "run",
    "temperature",
]
