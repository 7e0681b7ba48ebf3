"""mekrr predict."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from mekrr.cli.console import Stages, out, print_json
from mekrr.cli.declared import with_options
from mekrr.cli.options import (
    ClusterOption,
    CoresOption,
    DataArgument,
    DeviceOption,
    FeaturesOption,
    IndexOption,
    JsonOption,
    ModelArgument,
    TrustOption,
)
from mekrr.cli.outputs import STRUCTURE_SUFFIXES, require_output
from mekrr.cli.structure_files import write_structures
from mekrr.cli.tables import print_work, work_record
from mekrr.cluster import connected
from mekrr.data import OWN_RESULTS, LabelKeys, Structure, info_to_write, read_structures
from mekrr.evaluation import warn_of_unlike
from mekrr.potential import KernelPotential, Prediction


@with_options(keys=LabelKeys, without=("weight", "unconverged"))
def predict(
    model: ModelArgument,
    data: DataArgument,
    keys: LabelKeys,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write: .extxyz, .extxyz.gz, .traj, .db, ...")],
    force_uncertainty: Annotated[
        bool, typer.Option("--force-uncertainty", help="Write the deviation of each force component too.")
    ] = False,
    features: FeaturesOption = None,
    index: IndexOption = ":",
    threads: CoresOption = None,
    device: DeviceOption = "auto",
    cluster: ClusterOption = None,
    trust_checkpoint: TrustOption = False,
    json: JsonOption = False,
) -> None:
    """Energies, forces, stress, deviations and atomic energies of DATA; the suffix says the format."""
    require_output(output, STRUCTURE_SUFFIXES, (model, features, *data))
    potential = KernelPotential.load(model, device, trust_checkpoint, features=features)
    structures = read_structures(data, keys, index, require_energy=False, strict=False)
    with connected(cluster) as shards, Stages(shards) as stages:
        potential.shards = shards
        predictions = potential.predict(
            structures,
            uncertainty=True,
            atomic_uncertainty=potential.fitted_.embedding == "sum",
            force_uncertainty=force_uncertainty,
            progress=stages,
        )
    warn_of_unlike(potential.fitted_.record, structures, predictions)
    write_predictions(output, structures, predictions)
    if json:
        energies = [p.energy for p in predictions]
        found = {"output": str(output), "n_structures": len(structures), "energies_ev": energies, "threads": threads}
        print_json(found | work_record(shards.work))
    else:
        print_work(shards.work)
        out.print(f"wrote {len(predictions)} structures to {output}", soft_wrap=True, highlight=False)


def write_predictions(path: Path, structures: Sequence[Structure], predictions: Sequence[Prediction]) -> None:
    """Write predictions; labels that were known are kept as dft_energy, dft_forces and dft_stress.

    Raises:
        ValueError: for a suffix that is none of a structure file.
        OSError: when the file cannot be written.
    """
    frames = [_frame(s, p) for s, p in zip(structures, predictions, strict=True)]
    write_structures(path, frames)


def _frame(structure: Structure, prediction: Prediction) -> Atoms:
    atoms = structure.atoms.copy()
    atoms.info |= info_to_write(structure.info)
    atoms.info[OWN_RESULTS] = "predict"
    results = {"energy": prediction.energy, "forces": prediction.forces, "energies": prediction.atomic_energies}
    if prediction.stress is not None:
        results["stress"] = full_3x3_to_voigt_6_stress(prediction.stress)
    if prediction.energy_std is not None:
        atoms.info["energy_std"] = prediction.energy_std
    if prediction.atomic_energies_std is not None:
        atoms.arrays["energies_std"] = prediction.atomic_energies_std
    if prediction.forces_std is not None:
        atoms.arrays["forces_std"] = prediction.forces_std
    if structure.energy is not None:
        atoms.info["dft_energy"] = structure.energy
    if structure.forces is not None:
        atoms.arrays["dft_forces"] = structure.forces
    if structure.stress is not None:
        atoms.info["dft_stress"] = structure.stress
    atoms.calc = SinglePointCalculator(atoms, **{name: value for name, value in results.items() if value is not None})
    return atoms
