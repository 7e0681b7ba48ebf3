"""Methods that the benchmark's child processes import: quick, crashing, slow."""

import os
import time

import numpy as np

from mekrr.potential import Prediction
from mekrr_comparison.method import Method


class MeanEnergy(Method):
    """One mean energy per atom, no forces between atoms."""

    settings_from = "this test"
    needs_validation = False

    def fit(self, training, validation, seconds):
        print("MeanEnergy was here")
        self.mean = np.mean([s.energy / len(s) for s in training]) + self.setup.options.get("offset", 0.0)

    def predict(self, atoms):
        return [Prediction(self.mean * len(a), np.zeros((len(a), 3)), energy_std=0.1 * len(a)) for a in atoms]

    def settings(self):
        return {"what": "mean energy per atom"}


class Crashing(MeanEnergy):
    """Ends its process without a word to Python."""

    def fit(self, training, validation, seconds):
        os.write(2, b"about to crash\n")
        os._exit(7)


class Raising(MeanEnergy):
    """Fails as a library does."""

    def fit(self, training, validation, seconds):
        raise RuntimeError("no convergence")


class Stuck(MeanEnergy):
    """Does not keep to its cap."""

    def fit(self, training, validation, seconds):
        time.sleep(60)


class Absent(MeanEnergy):
    """Not installed."""

    requirement = 'pip install "mekrr[absent]"'

    @classmethod
    def available(cls):
        return False


class Greedy(MeanEnergy):
    """Takes 300 MiB and a tenth of a second, stops early by itself."""

    needs_validation = True

    def fit(self, training, validation, seconds):
        super().fit(training, validation, seconds)
        taken = np.ones(300 * 2**17)
        time.sleep(0.1)
        self.capped = bool(taken.any()) and seconds is not None
        self.seconds = {"training": 0.1}
