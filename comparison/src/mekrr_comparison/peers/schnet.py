"""SchNet trained from nothing, and the one of OC20 trained further: the paper's two neural baselines."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms

from mekrr.backbones.checkpoint import read_ocp_checkpoint
from mekrr.backbones.fetch import fetched_path
from mekrr.backbones.schnet import SCHNET, SchNetNetwork, SchNetShape, build_network
from mekrr.backbones.weights import require_file
from mekrr.data import Structure
from mekrr.errors import BackboneUnavailableError
from mekrr.potential import Prediction
from mekrr_comparison.method import Method, Setup
from mekrr_comparison.peers.labels import ElementShift, energies_of, fit_shift, fitted_and_held
from mekrr_comparison.peers.options import with_options
from mekrr_comparison.peers.schnet_model import Potential, Sample, make_sample, predict
from mekrr_comparison.peers.schnet_training import Outcome, TrainerSettings, train

_TRAINER = "schnetpack's md17 experiment, callbacks/earlystopping and scheduler/reduce_on_plateau"
_PAPER = "code of Falk et al., arXiv 2306.01589, github IsakFalk/atomistic_transfer_mekrr, s2ef/cuformate"


@dataclass(frozen=True)
class ScratchSettings(TrainerSettings):
    """Training and sizes of a new SchNet; sizes are those of the paper's baseline, with all neighbours kept."""

    learning_rate: float = 1e-3
    batch_size: int = 10
    max_epochs: int = 100_000
    hidden_channels: int = 256
    num_filters: int = 64
    num_interactions: int = 3
    num_gaussians: int = 200
    cutoff: float = 6.0


@dataclass(frozen=True)
class FinetuneSettings(TrainerSettings):
    """Training further; `frozen_interactions` and the embedding keep their weights, as in the paper."""

    learning_rate: float = 1e-4
    batch_size: int = 16
    max_epochs: int = 100_000
    frozen_interactions: int = 3
    max_neighbours: int = 50
    checkpoint: str = ""


class _TrainedSchNet(Method):
    """What both have in common: element shifts, samples, the trainer, predictions."""

    options: TrainerSettings
    max_neighbours: int | None = None

    def fit(self, training: Sequence[Structure], validation: Sequence[Structure], seconds: float | None) -> None:
        """See Method.fit. Without validation structures, a tenth of the training ones is held out.

        Raises:
            DataError: when a structure has no energy, or validation has an element that training lacks.
            RuntimeError: when training diverges.
        """
        torch.manual_seed(self.setup.seed)
        self._potential = self._start(training).to(self.setup.device)
        self._shift = self._element_shift(training)
        fitted, held = fitted_and_held(training, validation, self.options.validation_share, self.setup.seed)
        samples, checks = self._labelled(fitted), self._labelled(held)
        self._outcome = train(self._potential, samples, checks, self.options, self.setup.seed, seconds)
        self.capped = self._outcome.capped

    def predict(self, atoms: Sequence[Atoms]) -> list[Prediction]:
        """Energies, forces and stress."""
        shifts = self._shift.of(atoms)
        relative = predict(self._potential, [self._sample(one) for one in atoms])
        return [
            Prediction(p.energy + float(shift), p.forces, p.stress) for p, shift in zip(relative, shifts, strict=True)
        ]

    def settings(self) -> dict[str, Any]:
        """Of network and trainer."""
        return {**asdict(self.options), "max_neighbours": self.max_neighbours, "optimiser": "AdamW, amsgrad"}

    def chosen(self) -> dict[str, Any]:
        """How training ended."""
        outcome: Outcome = self._outcome
        return {**asdict(outcome), "element_energies": self._shift.energies()}

    @abstractmethod
    def _start(self, training: Sequence[Structure]) -> Potential:
        """The network before training."""

    def _element_shift(self, training: Sequence[Structure]) -> ElementShift:
        return fit_shift(training)

    def _labelled(self, structures: Sequence[Structure]) -> list[Sample]:
        energies = energies_of(structures) - self._shift.of(structures)
        return [self._sample(s.atoms, float(energy), s.forces) for s, energy in zip(structures, energies, strict=True)]

    def _sample(self, atoms: Atoms, energy: float = math.nan, forces: np.ndarray | None = None) -> Sample:
        return make_sample(atoms, self._potential.network.cutoff, self.max_neighbours, energy, forces)


class SchNet(_TrainedSchNet):
    """SchNet from random weights on energies and forces."""

    name: ClassVar[str] = "schnet"
    settings_from: ClassVar[str] = (
        f"network: gnn.yaml, {_PAPER}, with cutoff 6 Angstrom and all neighbours so that forces are smooth; "
        f"training: {_TRAINER}"
    )
    options: ScratchSettings

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.options = with_options(ScratchSettings(), setup.options, self.name)

    def _start(self, training: Sequence[Structure]) -> Potential:
        shape = {f.name: getattr(self.options, f.name) for f in fields(SchNetShape)}
        forces = [s.forces.ravel() for s in training if s.forces is not None]
        scale = float(np.sqrt(np.mean(np.concatenate(forces) ** 2))) if forces else 1.0
        return Potential(SchNetNetwork(SchNetShape(**shape)), scale or 1.0)


class SchNetFinetuned(_TrainedSchNet):
    """The published SchNet of OC20, its upper layers trained further."""

    name: ClassVar[str] = "schnet-finetuned"
    requirement: ClassVar[str | None] = "mekrr backbones fetch schnet"
    settings_from: ClassVar[str] = (
        f"frozen layers, optimiser, rate and batch size: gnn-ft.yaml, {_PAPER}; early stopping: {_TRAINER}"
    )
    options: FinetuneSettings

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.options = with_options(FinetuneSettings(), setup.options, self.name)
        self.max_neighbours = self.options.max_neighbours

    @classmethod
    def available(cls) -> bool:
        """Whether the published checkpoint has been fetched; with the option `checkpoint` it is not needed."""
        try:
            require_file(fetched_path(SCHNET.card))
        except BackboneUnavailableError:
            return False
        return True

    @classmethod
    def ready(cls, options: Mapping[str, Any]) -> bool:
        """Also with a checkpoint of the user's own."""
        return bool(options.get("checkpoint")) or cls.available()

    def _start(self, training: Sequence[Structure]) -> Potential:
        path = Path(self.options.checkpoint) if self.options.checkpoint else fetched_path(SCHNET.card)
        require_file(path)
        checkpoint = read_ocp_checkpoint(path)
        network = build_network(checkpoint, path)
        _thaw(network, self.options.frozen_interactions)
        return Potential(network, checkpoint.target_std)

    def _element_shift(self, training: Sequence[Structure]) -> ElementShift:
        """Between the labels and what the checkpoint says before training."""
        own = [p.energy for p in predict(self._potential, [self._sample(s.atoms) for s in training])]
        return fit_shift(training, np.array(own))


def _thaw(network: SchNetNetwork, frozen: int) -> None:
    """Let the interactions from `frozen` on, and the layers after them, be trained."""
    if frozen > len(network.interactions):
        raise ValueError(f"frozen_interactions is {frozen}, but the network has {len(network.interactions)}")
    for part in [*network.interactions[frozen:], network.lin1, network.lin2]:
        part.requires_grad_(True)
