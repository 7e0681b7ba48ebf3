"""GAP-SOAP: Gaussian approximation potentials fitted by gap_fit, of PyPI quippy-ase."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import ase.io
import numpy as np
from ase import Atoms

from mekrr.data import Structure
from mekrr.potential import Prediction
from mekrr_comparison.method import Method, Setup
from mekrr_comparison.peers.labels import ElementShift, bare, energies_of, fit_shift
from mekrr_comparison.peers.options import with_options
from mekrr_comparison.peers.process import find_program, run_program, working_folder


@dataclass(frozen=True)
class GapSettings:
    """Arguments of gap_fit, under its own names; the defaults are those of the paper for Cu/formate.

    Attributes:
        cutoff: Angstrom; with `cutoff_transition_width` the range of the descriptor.
        n_sparse: representative environments of each element.
        sparse_method: how they are picked; gap_fit's default.
        energy_sigma: expected error of energies, eV/atom.
        force_sigma: expected error of forces, eV/Angstrom; 0 fits energies alone, as the paper did. With forces the
            descriptor's derivatives are held in memory: 0.45 GB for each 52-atom structure with the other defaults.
    """

    atom_sigma: float = 0.5
    l_max: int = 6
    n_max: int = 12
    cutoff: float = 6.0
    cutoff_transition_width: float = 1.0
    delta: float = 0.2
    zeta: int = 4
    n_sparse: int = 1000
    sparse_method: str = "random"
    energy_sigma: float = 0.001
    force_sigma: float = 0.0


class Gap(Method):
    """GAP with one SOAP descriptor per element, with the settings of the paper unless options say otherwise.

    Energies go in relative to one fitted energy per element, in place of the paper's average energy per atom, so that
    compositions can differ.
    """

    name: ClassVar[str] = "gap"
    requirement: ClassVar[str | None] = 'pip install "./comparison[gap]"'
    settings_from: ClassVar[str] = (
        "Falk et al., arXiv 2306.01589: cuformate/gap.yaml of its code, github IsakFalk/atomistic_transfer_mekrr"
    )
    needs_validation: ClassVar[bool] = False
    defaults: ClassVar[GapSettings] = GapSettings()

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.options = with_options(self.defaults, setup.options, self.name)

    @classmethod
    def available(cls) -> bool:
        """Whether gap_fit is installed."""
        return find_spec("quippy") is not None and find_program("gap_fit") is not None

    def fit(self, training: Sequence[Structure], validation: Sequence[Structure], seconds: float | None) -> None:
        """See Method.fit. GAP has no early end: at the cap it is ended and nothing is left.

        Raises:
            DataError: when a structure has no energy.
            RuntimeError: when gap_fit fails, or reaches the cap.
        """
        shift = fit_shift(training)
        with working_folder(self.setup.folder) as folder:
            _write_training(folder / "training.xyz", training, shift)
            if not run_program([_program(), *self._arguments()], folder, seconds):
                self.capped = True
                raise RuntimeError(
                    f"gap_fit had not finished after {seconds:g} s and keeps nothing unfinished; allow more time, or "
                    "lower n_sparse, n_max or the number of training structures"
                )
            self._load(folder / "gap.xml")
        self._shift = shift

    def predict(self, atoms: Sequence[Atoms]) -> list[Prediction]:
        """Energies, forces and stress."""
        return [self._predict(one, float(shift)) for one, shift in zip(atoms, self._shift.of(atoms), strict=True)]

    def settings(self) -> dict[str, Any]:
        """Arguments of gap_fit, and its version."""
        return {"quippy-ase": version("quippy-ase") if self.available() else None, **asdict(self.options)}

    def chosen(self) -> dict[str, Any]:
        """The fitted energies per element, eV."""
        return {"element_energies": self._shift.energies()}

    def _arguments(self) -> list[str]:
        options = self.options
        soap = {
            name: getattr(options, name)
            for name in ("atom_sigma", "l_max", "n_max", "cutoff", "cutoff_transition_width", "delta", "zeta")
        }
        soap |= {"n_sparse": options.n_sparse, "sparse_method": options.sparse_method}
        described = " ".join(f"{key}={value}" for key, value in soap.items())
        forces = options.force_sigma > 0
        return [
            "at_file=training.xyz",
            "gap_file=gap.xml",
            f"rnd_seed={self.setup.seed + 1}",  # gap_fit takes 0 for a seed by the clock
            f"gap={{soap {described} covariance_type=dot_product add_species=T}}",
            f"default_sigma={{{options.energy_sigma} {options.force_sigma} 0.0 0.0}}",
            "e0=0.0",
            "energy_parameter_name=gap_energy",
            f"force_parameter_name={'gap_force' if forces else 'NONE'}",
            "virial_parameter_name=NONE",
            "stress_parameter_name=NONE",
            "do_copy_at_file=F",
            "sparse_separate_file=F",
        ]

    def _load(self, path: Path) -> None:
        from quippy.potential import Potential

        self._potential = Potential(param_str=path.read_text())

    def _predict(self, atoms: Atoms, shift: float) -> Prediction:
        free = bare(atoms)
        free.calc = self._potential
        energy, forces = free.get_potential_energy(), free.get_forces()
        stress = free.get_stress(voigt=False) if free.cell.rank == 3 else None
        return Prediction(float(energy) + shift, np.array(forces), stress)


class GapForces(Gap):
    """GAP that learns forces too, with a descriptor short enough for its derivatives to fit in memory."""

    name: ClassVar[str] = "gap-forces"
    settings_from: ClassVar[str] = (
        "those of gap; force error 0.1 eV/A and cutoff 5 A from Bartok et al., Phys. Rev. X 8, 041048 (2018); n_max 8, "
        "l_max 4 and 300 sparse points, so that derivatives fit in memory and a fit in an hour"
    )
    defaults: ClassVar[GapSettings] = GapSettings(n_max=8, l_max=4, cutoff=5.0, n_sparse=300, force_sigma=0.1)


def _program() -> str:
    found = find_program("gap_fit")
    if found is None:
        raise RuntimeError(f"gap_fit is not installed; {Gap.requirement}")
    return found


def _write_training(path: Path, training: Sequence[Structure], shift: ElementShift) -> None:
    """Extended XYZ under names that no reader takes for ASE's own labels."""
    written = []
    energies = energies_of(training) - shift.of(training)
    for structure, energy in zip(training, energies, strict=True):
        atoms = bare(structure.atoms)
        atoms.info["gap_energy"] = float(energy)
        if structure.forces is not None:
            atoms.arrays["gap_force"] = np.array(structure.forces)
        written.append(atoms)
    ase.io.write(path, written, format="extxyz")
