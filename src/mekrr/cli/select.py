"""mekrr select."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from rich.table import Table

from mekrr.cli.console import Stages, err, out, print_json
from mekrr.cli.declared import with_options
from mekrr.cli.options import (
    ClusterOption,
    CoresOption,
    DeviceOption,
    IndexOption,
    JsonOption,
    ModelArgument,
    TrustOption,
)
from mekrr.cli.outputs import STRUCTURE_SUFFIXES, require_output
from mekrr.cli.shown import new_table, show
from mekrr.cli.structure_files import write_structures
from mekrr.cli.tables import print_work, work_record
from mekrr.cluster import connected
from mekrr.data import LabelKeys, Structure, info_to_write, read_structures
from mekrr.features import default_cache_folder
from mekrr.potential import KernelPotential

if TYPE_CHECKING:
    from mekrr.active import Selection


@with_options(keys=LabelKeys, without=("weight", "unconverged"))
def select_command(
    model: ModelArgument,
    pool: Annotated[list[Path], typer.Argument(metavar="POOL...", help="Files with structures to choose from.")],
    keys: LabelKeys,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many structures to choose.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write: .extxyz, .extxyz.gz, .traj, .db, ...")],
    method: Annotated[str, typer.Option(help="variance, atoms, farthest or random.")] = "variance",
    skip_unknown: Annotated[
        bool, typer.Option("--skip-unknown", help="Leave out structures with elements the potential cannot treat.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the method random.")] = 0,
    index: IndexOption = ":",
    cache: Annotated[Path | None, typer.Option(help="Folder for computed features.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep no features on disk.")] = False,
    threads: CoresOption = None,
    device: DeviceOption = "auto",
    cluster: ClusterOption = None,
    trust_checkpoint: TrustOption = False,
    json: JsonOption = False,
) -> None:
    """The structures of POOL that MODEL would learn most from, as a batch and in order; the suffix says the format."""
    from mekrr.active import select

    require_output(output, STRUCTURE_SUFFIXES, (model, *pool))
    potential = KernelPotential.load(model, device, trust_checkpoint)
    potential.cache = None if no_cache else (cache or default_cache_folder())
    structures = read_structures(pool, keys, index, require_energy=False, strict=False)
    with connected(cluster) as shards, Stages(shards) as stages:
        potential.shards = shards
        found = select(potential, structures, count, method, seed, skip_unknown, stages)
    write_structures(output, list(_frames(found)))
    if json:
        print_json(record(found) | {"output": str(output), "threads": threads} | work_record(shards.work))
        return
    if any(vars(found.skipped).values()):
        err.print(f"left out of {found.n_pool} structures: {found.skipped}", soft_wrap=True, highlight=False)
    show(_table(found), out)
    print_work(shards.work)
    out.print(f"wrote {count} structures to {output}", soft_wrap=True, highlight=False)


def record(found: "Selection") -> dict[str, Any]:
    """For JSON; deviations in eV, of total energies."""
    return {
        "method": found.method,
        "n_pool": found.n_pool,
        "skipped": {name: list(indices) for name, indices in vars(found.skipped).items()},
        "selected": [
            {
                "rank": rank,
                "source": structure.source,
                "index": structure.index,
                "formula": structure.atoms.get_chemical_formula(),
                "n_atoms": len(structure),
                "energy_std_ev": before,
                "select_std_ev": conditional,
            }
            for rank, structure, before, conditional in _chosen(found)
        ],
    }


def _chosen(found: "Selection") -> Iterator[tuple[int, Structure, float, float]]:
    """Rank, structure and its two deviations, in the order of choice."""
    ranks = range(1, len(found.structures) + 1)
    return zip(ranks, found.structures, found.energy_std.tolist(), found.select_std.tolist(), strict=True)


def _frames(found: "Selection") -> Iterator[Atoms]:
    for rank, structure, before, conditional in _chosen(found):
        atoms = labelled_atoms(structure)
        atoms.info |= {"select_rank": rank, "energy_std": before, "select_std": conditional}
        yield atoms


def labelled_atoms(structure: Structure) -> Atoms:
    """The structure with its labels as they were read, and those of its keys that extended XYZ can hold."""
    atoms = structure.atoms.copy()
    atoms.info |= info_to_write(structure.info)
    results: dict[str, Any] = {"energy": structure.energy, "forces": structure.forces}
    if structure.stress is not None:
        results["stress"] = full_3x3_to_voigt_6_stress(structure.stress)
    atoms.calc = SinglePointCalculator(atoms, **{name: value for name, value in results.items() if value is not None})
    return atoms


def _table(found: "Selection") -> Table:
    table = new_table("deviations of the energy in meV/atom")
    for head in ("rank", "file", "index", "formula", "now", "given those\nbefore"):
        text = head in ("file", "formula")
        table.add_column(head, justify="left" if text else "right", overflow="fold", no_wrap=not text)
    for rank, structure, before, conditional in _chosen(found):
        deviations = (f"{1000 * value / len(structure):.2f}" for value in (before, conditional))
        where = Path(structure.source).name or "-"
        formula = structure.atoms.get_chemical_formula()
        table.add_row(str(rank), where, str(structure.index), formula, *deviations)
    return table
