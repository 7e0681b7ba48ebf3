"""A compact trainer: AdamW on energies and forces, learning rate cut on plateaus, best weights on validation kept."""

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from mekrr.typing import Float, Tensor
from mekrr_comparison.peers.schnet_model import Batch, Potential, Sample, collate, forces_of, summed


@dataclass(frozen=True)
class TrainerSettings:
    """How to train.

    Attributes:
        learning_rate: of AdamW with amsgrad, no weight decay.
        batch_size: structures a step.
        energy_weight: of the mean squared error of energies, eV^2 of whole structures divided by their atoms.
        force_weight: of the mean squared error of force components, (eV/Angstrom)^2.
        plateau_epochs: without a better validation loss before the learning rate is multiplied by `plateau_factor`.
        plateau_factor: see above.
        patience_epochs: without a better validation loss before training stops.
        smallest_rate: the learning rate is not cut below it.
        max_epochs: the end in any case.
        validation_share: of the training structures, held out when no validation set is given.
    """

    learning_rate: float
    batch_size: int
    max_epochs: int
    energy_weight: float = 1.0
    force_weight: float = 1.0
    plateau_epochs: int = 50
    plateau_factor: float = 0.5
    patience_epochs: int = 150
    smallest_rate: float = 1e-6
    validation_share: float = 0.1


@dataclass(frozen=True)
class Outcome:
    """How training went.

    Attributes:
        epochs: begun.
        best_epoch: whose weights are kept, from 1.
        best_loss: on validation.
        capped: whether the wall-clock cap ended it.
    """

    epochs: int
    best_epoch: int
    best_loss: float
    capped: bool


def train(
    potential: Potential,
    training: Sequence[Sample],
    validation: Sequence[Sample],
    settings: TrainerSettings,
    seed: int,
    seconds: float | None,
) -> Outcome:
    """Train in place; the weights with the lowest validation loss are put back at the end.

    Args:
        potential: whose weights with `requires_grad` are trained.
        training: at least one.
        validation: at least one.
        settings: see there.
        seed: of the order of the structures.
        seconds: wall-clock cap, None for none; looked at before every step.

    Raises:
        RuntimeError: when the loss stops being a number.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    weights = [p for p in potential.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.0, amsgrad=True)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser, factor=settings.plateau_factor, patience=settings.plateau_epochs, min_lr=settings.smallest_rate
    )
    order = torch.Generator().manual_seed(seed)
    best = _Best(potential, validation, settings)
    epoch, capped = 0, False
    while epoch < settings.max_epochs and epoch - best.epoch < settings.patience_epochs and not capped:
        epoch += 1
        capped = not _epoch(potential, training, optimiser, settings, order, deadline)
        schedule.step(best.look(epoch))
    potential.load_state_dict(best.state)
    return Outcome(epoch, best.epoch, best.loss, capped)


def _epoch(
    potential: Potential,
    training: Sequence[Sample],
    optimiser: torch.optim.Optimizer,
    settings: TrainerSettings,
    order: torch.Generator,
    deadline: float | None,
) -> bool:
    """One pass over the training set; False when the deadline ended it."""
    for batch in _batches(training, settings.batch_size, potential, order):
        if deadline is not None and time.monotonic() > deadline:
            return False
        optimiser.zero_grad()
        loss(potential, batch, settings, training=True).backward()
        optimiser.step()
    return True


def _batches(
    samples: Sequence[Sample], size: int, potential: Potential, order: torch.Generator | None = None
) -> Iterator[Batch]:
    """Batches in random order, or in the given one."""
    indices = torch.arange(len(samples)) if order is None else torch.randperm(len(samples), generator=order)
    for part in indices.split(size):
        yield collate([samples[t] for t in part.tolist()], potential.dtype, potential.device)


def loss(potential: Potential, batch: Batch, settings: TrainerSettings, training: bool = False) -> Float[Tensor, ""]:
    """Weighted mean squared errors; force components that are NaN count for nothing."""
    graph = batch.graph
    atomic, gradient = potential(graph, training)
    error = summed(graph, atomic) - batch.energies
    total = settings.energy_weight * (error**2 / graph.n_atoms).mean()
    known = batch.forces.isfinite()
    if settings.force_weight > 0 and known.any():
        errors = (forces_of(graph, gradient) - batch.forces)[known]
        total = total + settings.force_weight * (errors**2).mean()
    return total


class _Best:
    """The weights with the lowest validation loss so far, those before training among them."""

    def __init__(self, potential: Potential, validation: Sequence[Sample], settings: TrainerSettings) -> None:
        self._potential, self._validation, self._settings = potential, validation, settings
        self.epoch, self.loss = 0, float("inf")
        self.look(0)

    def look(self, epoch: int) -> float:
        """Validation loss of the present weights, which are kept if it is the lowest."""
        found = self._validation_loss()
        if not found < float("inf"):
            raise RuntimeError(
                f"training diverged: the validation loss is {found} after epoch {epoch}; lower learning_rate "
                f"(now {self._settings.learning_rate:g})"
            )
        if found < self.loss:
            self.epoch, self.loss = epoch, found
            self.state = copy.deepcopy(self._potential.state_dict())
        return found

    def _validation_loss(self) -> float:
        total = 0.0
        for batch in _batches(self._validation, self._settings.batch_size, self._potential):
            total += float(loss(self._potential, batch, self._settings).detach()) * batch.graph.n_structures
        return total / len(self._validation)
