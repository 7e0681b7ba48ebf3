"""SevenNet trained further on the labels by its own command, `sevenn`, with the settings its authors publish."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar
from zipfile import is_zipfile

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr.backbones import load_backbone
from mekrr.backbones.derivatives import energy_forces_stress
from mekrr.data import Structure
from mekrr.errors import DataError
from mekrr.graph import build_batch
from mekrr.potential import Prediction
from mekrr.typing import Float, ndarray
from mekrr_comparison.method import Method, Setup
from mekrr_comparison.peers.labels import ElementShift, bare, energies_of, fit_shift, fitted_and_held
from mekrr_comparison.peers.options import with_options
from mekrr_comparison.peers.process import find_program, last_lines, run_program, working_folder

_FOLDERS = {
    "sevennet-0": ("SevenNet_0__11Jul2024", "checkpoint_sevennet_0.pth"),
    "sevennet-l3i5": ("SevenNet_l3i5", "checkpoint_l3i5.pth"),
}


@dataclass(frozen=True)
class FinetuneOptions:
    """What may be changed of the published input; None leaves it as it is.

    Attributes:
        epochs: 100 as published.
        learning_rate: 0.004 as published.
        batch_size: 4 as published.
        validation_share: of the training structures, held out when no validation set is given.
    """

    epochs: int | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    validation_share: float = 0.1


class SevenNetFinetuned(Method):
    """All weights of SevenNet-0 trained further, by `sevenn preset fine_tune` and `sevenn train`.

    Changed in it: the paths of the data, and no stress where the labels have none. Energies go in relative to one
    energy per element fitted to DFT minus SevenNet-0, because the published input keeps the network's own element
    energies, which are those of another functional and code.
    """

    name: ClassVar[str] = "sevennet-finetuned"
    requirement: ClassVar[str | None] = 'pip install "mekrr[sevennet]"'
    settings_from: ClassVar[str] = (
        "presets/fine_tune.yaml of sevenn; Park et al., J. Chem. Theory Comput. 20, 4857 (2024)"
    )

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.options = with_options(FinetuneOptions(), setup.options, self.name)

    @classmethod
    def available(cls) -> bool:
        """Whether sevenn is installed."""
        return find_spec("sevenn") is not None and find_program("sevenn") is not None

    def fit(self, training: Sequence[Structure], validation: Sequence[Structure], seconds: float | None) -> None:
        """See Method.fit. At the cap training stops, and the best epoch on validation so far is used.

        Raises:
            DataError: when a structure has no energy or no forces.
            RuntimeError: when `sevenn` fails, or no epoch was done before the cap.
        """
        fitted, held = fitted_and_held(training, validation, self.options.validation_share, self.setup.seed)
        self._shift = fit_shift(fitted, _own_energies(fitted, self.setup.device))
        with working_folder(self.setup.folder) as folder:
            has_stress = all(s.stress is not None for s in fitted + held)
            _write(folder / "train_labels.extxyz", fitted, self._shift)
            _write(folder / "valid_labels.extxyz", held, self._shift)
            _write_input(folder / "input.yaml", self._input(has_stress))
            command = [_program(), "train", "input.yaml", "-s"]
            self.capped = not run_program(command, folder, seconds)
            self._epoch, checkpoint = _best_checkpoint(folder)
            self._calculator = self._load(checkpoint)

    def predict(self, atoms: Sequence[Atoms]) -> list[Prediction]:
        """Energies, forces and stress."""
        return [self._predict(one, float(shift)) for one, shift in zip(atoms, self._shift.of(atoms), strict=True)]

    def settings(self) -> dict[str, Any]:
        """The input file, and sevenn's version."""
        if not self.available():
            return asdict(self.options)
        return {"sevenn": version("sevenn"), **self._input(has_stress=False)}

    def chosen(self) -> dict[str, Any]:
        """The epoch whose weights are used."""
        return {"epoch": self._epoch, "element_energies": self._shift.energies()}

    def _input(self, has_stress: bool) -> dict[str, Any]:
        content = published_input()
        train, data, options = content["train"], content["data"], self.options
        train |= {"is_train_stress": has_stress, "random_seed": self.setup.seed + 1}
        train |= {"device": self.setup.device}
        if options.epochs is not None:
            train["epoch"] = options.epochs
        if options.learning_rate is not None:
            train["optim_param"]["lr"] = options.learning_rate
        if options.batch_size is not None:
            data["batch_size"] = options.batch_size
        if not has_stress:
            train["error_record"] = [pair for pair in train["error_record"] if "Stress" not in pair[0]]
        for unused in ("load_testset_path", "data_divide_ratio"):
            data.pop(unused, None)
        data |= {"load_trainset_path": ["train_labels.extxyz"], "load_validset_path": ["valid_labels.extxyz"]}
        return content

    def _load(self, checkpoint: Path) -> Any:
        from sevenn.calculator import SevenNetCalculator

        return SevenNetCalculator(str(checkpoint), device=self.setup.device)

    def _predict(self, atoms: Atoms, shift: float) -> Prediction:
        free = bare(atoms)
        free.calc = self._calculator
        energy, forces = free.get_potential_energy(), free.get_forces()
        stress = free.get_stress(voigt=False) if free.cell.rank == 3 else None
        return Prediction(float(energy) + shift, np.array(forces), stress)


def published_input() -> dict[str, Any]:
    """The input for fine-tuning that sevenn ships, what `sevenn preset fine_tune` prints.

    Raises:
        FileNotFoundError: when this version of sevenn has none.
    """
    import yaml

    return yaml.safe_load((_package() / "presets" / "fine_tune.yaml").read_text())


def checkpoint_of(backbone: str) -> Path:
    """The checkpoint of a SevenNet by its name in mekrr: inside sevenn, or after the colon.

    Raises:
        ValueError: when it is no SevenNet, or has several heads.
    """
    name, _, path = backbone.partition(":")
    if path and name.startswith("sevennet"):
        return Path(path)
    if name not in _FOLDERS:
        raise ValueError(f"this needs one of {', '.join(_FOLDERS)}, or sevennet:path, as backbone; received {backbone}")
    return _package().joinpath("pretrained_potentials", *_FOLDERS[name])


def _own_energies(structures: Sequence[Structure], device: str) -> Float[ndarray, "structures"]:
    """SevenNet-0's energies, eV."""
    backbone = load_backbone("sevennet-0", device)
    graphs = (build_batch([s.atoms], backbone.cutoff).to(backbone.device) for s in structures)
    return np.array([float(energy_forces_stress(backbone, graph).energies[0]) for graph in graphs])


def _package() -> Path:
    """The folder of sevenn, found without importing it."""
    found = find_spec("sevenn")
    if found is None or found.origin is None:
        raise RuntimeError(f"sevenn is not installed; {SevenNetFinetuned.requirement}")
    return Path(found.origin).parent


def _program() -> str:
    found = find_program("sevenn")
    if found is None:
        raise RuntimeError(f"the command sevenn is not installed; {SevenNetFinetuned.requirement}")
    return found


def _write(path: Path, structures: Sequence[Structure], shift: ElementShift) -> None:
    written = []
    energies = energies_of(structures) - shift.of(structures)
    for structure, energy in zip(structures, energies, strict=True):
        atoms = bare(structure.atoms)
        if structure.forces is None:
            raise DataError(f"{structure.where}: no forces, and sevenn needs them of every structure; drop it")
        labels: dict[str, Any] = {"energy": float(energy), "forces": np.array(structure.forces)}
        if structure.stress is not None:
            labels["stress"] = np.array(structure.stress)[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        atoms.calc = SinglePointCalculator(atoms, **labels)
        written.append(atoms)
    ase.io.write(path, written, format="extxyz")


def _write_input(path: Path, content: dict[str, Any]) -> None:
    import yaml

    path.write_text(yaml.safe_dump(content, sort_keys=False))


def _best_checkpoint(folder: Path) -> tuple[int, Path]:
    """The epoch with the lowest validation loss, and its weights.

    Raises:
        RuntimeError: when no epoch was done.
    """
    best, curve = folder / "checkpoint_best.pth", folder / "lc.csv"
    rows = list(csv.DictReader(curve.open())) if curve.exists() else []
    # A file that was cut off while it was written has no end of archive.
    if not rows or not is_zipfile(best):
        raise RuntimeError(
            f"no epoch was done before the cap; allow more time or give fewer structures. It said last:\n"
            f"{last_lines(folder)}"
        )
    column = next(name for name in rows[0] if name.startswith("validset_") and "TotalLoss" in name)
    return int(min(rows, key=lambda row: float(row[column]))["epoch"]), best
