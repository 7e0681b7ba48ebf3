"""The tasks by name."""

from mekrr_comparison.tasks.ablation import Ablation
from mekrr_comparison.tasks.base import Finding, Inputs, Task
from mekrr_comparison.tasks.learning_curve import LearningCurve
from mekrr_comparison.tasks.same import Same
from mekrr_comparison.tasks.scaling import Scaling
from mekrr_comparison.tasks.sensitivity import Sensitivity
from mekrr_comparison.tasks.species_weight import SpeciesWeight
from mekrr_comparison.tasks.transfer import Transfer
from mekrr_comparison.tasks.unseen_species import UnseenSpecies

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
