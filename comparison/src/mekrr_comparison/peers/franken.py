"""franken: random Fourier features of a frozen network, of PyPI franken 0.7, on SevenNet as its backbone."""

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr.data import Structure
from mekrr.errors import DataError
from mekrr.potential import Prediction
from mekrr_comparison.method import Method, Setup
from mekrr_comparison.peers.labels import ElementShift, bare, energies_of, fit_shift, fitted_and_held
from mekrr_comparison.peers.options import with_options
from mekrr_comparison.peers.process import working_folder
from mekrr_comparison.peers.sevennet import checkpoint_of


@dataclass(frozen=True)
class FrankenSettings:
    """franken's settings; None leaves a grid as `franken.config.AutotuneConfig` has it.

    Attributes:
        interaction_block: down to which layer features are taken; they are concatenated.
        random_features: how many, shared among the length scales.
        jac_chunk_size: directions whose derivatives are taken at once.
        l2_penalty: grid, or None for 1e-11 to 1e-6 in 6 steps.
        force_weight: grid, or None for 0.01 to 0.99 in 10 steps.
        validation_share: of the training structures, held out for the choice when no validation set is given.
    """

    interaction_block: int = 2
    random_features: int = 1024
    jac_chunk_size: int = 8
    length_scale_low: float = 4.0
    length_scale_high: float = 20.0
    length_scale_num: int = 6
    l2_penalty: tuple[float, ...] | None = None
    force_weight: tuple[float, ...] | None = None
    validation_share: float = 0.1


class Franken(Method):
    """franken.autotune with its defaults: it chooses on validation, and takes all 3n derivatives of every structure.

    Energies go in relative to one energy per element fitted in float64, because franken itself fits and keeps them in
    float32, which loses several meV per atom where total energies are large. Every structure needs forces. It knows no
    cap and no stress.
    """

    name: ClassVar[str] = "franken"
    requirement: ClassVar[str | None] = 'pip install "./comparison[franken]"'
    settings_from: ClassVar[str] = (
        "franken 0.7.0, defaults of franken.config.AutotuneConfig and of its multiscale Gaussian features; "
        "Novelli et al., npj Comput. Mater. 11 (2025), arXiv 2505.05652"
    )

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.options = with_options(FrankenSettings(), setup.options, self.name)

    @classmethod
    def available(cls) -> bool:
        """Whether franken and sevenn are installed."""
        return find_spec("franken") is not None and find_spec("sevenn") is not None

    def fit(self, training: Sequence[Structure], validation: Sequence[Structure], seconds: float | None) -> None:
        """See Method.fit; the cap is not looked at, because franken has nothing before its end.

        Raises:
            DataError: when a structure has no energy or no forces.
        """
        shift = fit_shift(training)
        fitted, held = fitted_and_held(training, validation, self.options.validation_share, self.setup.seed)
        with working_folder(self.setup.folder) as folder, _quiet(), _torch_settings_kept(), redirect_stdout(sys.stderr):
            train_path, validation_path = folder / "training.extxyz", folder / "validation.extxyz"
            _write(train_path, fitted, shift)
            _write(validation_path, held, shift)
            run = self._autotune(train_path, validation_path, folder)
            self._best = json.loads((run / "best.json").read_text())
            self._calculator = self._load(run / "best_ckpt.pt")
        self._shift = shift

    def predict(self, atoms: Sequence[Atoms]) -> list[Prediction]:
        """Energies and forces."""
        with _torch_settings_kept():
            return [self._predict(one, float(shift)) for one, shift in zip(atoms, self._shift.of(atoms), strict=True)]

    def settings(self) -> dict[str, Any]:
        """Its settings and version."""
        return {"franken": version("franken") if self.available() else None, **asdict(self.options)}

    def chosen(self) -> dict[str, Any]:
        """What autotune chose, with its errors on validation in meV/atom and meV/Angstrom."""
        return {"solver": self._best["hyperparameters"]["solver"], "metrics": self._best["metrics"]}

    def _autotune(self, training: Path, validation: Path, folder: Path) -> Path:
        from franken.autotune.script import autotune
        from franken.config import (
            AutotuneConfig,
            DatasetConfig,
            HPSearchConfig,
            MultiscaleGaussianRFConfig,
            SevennBackboneConfig,
            SolverConfig,
        )

        options = self.options
        grids = {"l2_penalty": options.l2_penalty, "force_weight": options.force_weight}
        solver = {
            name: HPSearchConfig(values=np.atleast_1d(grid).tolist())
            for name, grid in grids.items()
            if grid is not None
        }
        scales = {name: value for name, value in asdict(options).items() if name.startswith("length_scale")}
        checkpoint = str(checkpoint_of(self.setup.backbone))
        config = AutotuneConfig(
            dataset=DatasetConfig(train_path=str(training), val_path=str(validation)),
            solver=SolverConfig(**solver),
            backbone=SevennBackboneConfig(path_or_id=checkpoint, interaction_block=options.interaction_block),
            rfs=MultiscaleGaussianRFConfig(
                num_random_features=options.random_features, rng_seed=1337 + self.setup.seed, **scales
            ),
            jac_chunk_size=options.jac_chunk_size,
            # The errors on training structures choose nothing, and cost as much again.
            eval_splits=["val"],
            run_dir=str(folder),
            console_logging_level="ERROR",
            seed=1337 + self.setup.seed,
        )
        return Path(autotune(config))

    def _load(self, checkpoint: Path) -> Any:
        from franken.calculators import FrankenCalculator

        return FrankenCalculator(checkpoint, device=self.setup.device)

    def _predict(self, atoms: Atoms, shift: float) -> Prediction:
        free = bare(atoms)
        free.calc = self._calculator
        return Prediction(float(free.get_potential_energy()) + shift, np.array(free.get_forces()))


def _write(path: Path, structures: Sequence[Structure], shift: ElementShift) -> None:
    written = []
    energies = energies_of(structures) - shift.of(structures)
    for structure, energy in zip(structures, energies, strict=True):
        if structure.forces is None:
            raise DataError(f"{structure.where}: no forces, and franken needs them of every structure; drop it")
        atoms = bare(structure.atoms)
        atoms.calc = SinglePointCalculator(atoms, energy=float(energy), forces=np.array(structure.forces))
        written.append(atoms)
    ase.io.write(path, written, format="extxyz")


@contextmanager
def _torch_settings_kept() -> Iterator[None]:
    """Franken changes torch's defaults; put them back."""
    dtype, gradients = torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)


@contextmanager
def _quiet() -> Iterator[None]:
    """Take away the log handlers that franken adds, whose files lie in a folder that goes."""
    logger = logging.getLogger("franken")
    before = list(logger.handlers)
    try:
        yield
    finally:
        for handler in [h for h in logger.handlers if h not in before]:
            logger.removeHandler(handler)
            handler.close()
