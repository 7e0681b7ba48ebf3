"""The tasks by name."""

from mekrr.benchmark.tasks.ablation import Ablation
from mekrr.benchmark.tasks.base import Finding, Inputs, Task
from mekrr.benchmark.tasks.learning_curve import LearningCurve
from mekrr.benchmark.tasks.same import Same
from mekrr.benchmark.tasks.scaling import Scaling
from mekrr.benchmark.tasks.sensitivity import Sensitivity
from mekrr.benchmark.tasks.species_weight import SpeciesWeight
from mekrr.benchmark.tasks.transfer import Transfer
from mekrr.benchmark.tasks.unseen_species import UnseenSpecies

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Same(),
        Transfer(),
        SpeciesWeight(),
        LearningCurve(),
        Ablation(),
        Sensitivity(),
        Scaling(),
        UnseenSpecies(),
    )
}

__all__ = ["TASKS", "Finding", "Inputs", "Task"]
