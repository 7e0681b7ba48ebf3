"""Molecular dynamics that watches itself: start, integrate, write frame by frame, go on after a kill."""

from mekrr.dynamics.run import State, Summary, run
from mekrr.dynamics.settings import THRESHOLD_MULTIPLE, Settings, default_threshold, require_temperature
from mekrr.dynamics.start import draw_velocities, has_velocities, read_start, temperature
from mekrr.dynamics.trajectory import Trajectory, continue_from, require_same_energy
from mekrr.dynamics.watch import MAX_MOVE, UnstableError

__all__ = [
    "MAX_MOVE",
    "THRESHOLD_MULTIPLE",
    "Settings",
    "State",
    "Summary",
    "Trajectory",
    "UnstableError",
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
