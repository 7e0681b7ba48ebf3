"""mekrr features."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mekrr.backbones import load_backbone
from mekrr.cli.console import Stages, out, print_json
from mekrr.cli.declared import with_options
from mekrr.cli.options import CoresOption, DataArgument, DeviceOption, IndexOption, JsonOption, TrustOption
from mekrr.cli.outputs import MODEL_SUFFIXES, require_output
from mekrr.data import LabelKeys, raise_on_errors, read_structures, validate
from mekrr.features import ALL, FeatureCache, NetworkRecord, default_cache_folder, write_features


@with_options(keys=LabelKeys, without=("weight",))
def features_command(
    data: DataArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="The feature file to write (.safetensors).")],
    keys: LabelKeys,
    backbone: Annotated[str, typer.Option(help="A name of `mekrr backbones`, or name:path.")] = "sevennet-0",
    forces: Annotated[
        bool, typer.Option("--forces/--no-forces", help="Derivatives too, where the data have forces or stress.")
    ] = True,
    probes: Annotated[str, typer.Option(help="Random force directions a structure, or all.")] = "8",
    seed: Annotated[int, typer.Option(help="Of the directions; the fit takes it over.")] = 0,
    tangent: Annotated[
        bool, typer.Option("--tangent/--no-tangent", help="Rows of the tangent kernel too, where the network has one.")
    ] = True,
    batch_atoms: Annotated[int | None, typer.Option(help="Atoms in one batch of the backbone.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for computed features.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep no features on disk.")] = False,
    index: IndexOption = ":",
    device: DeviceOption = "auto",
    trust_checkpoint: TrustOption = False,
    threads: CoresOption = None,
    json: JsonOption = False,
) -> None:
    """What BACKBONE makes of DATA, in one file: `mekrr fit --features` goes on from it where BACKBONE cannot be."""
    weights = backbone.partition(":")[2] or None
    require_output(output, MODEL_SUFFIXES, (*data, weights))
    directions = _directions(probes) if forces else None
    if not forces and (probes != "8" or seed != 0 or not tangent):
        raise ValueError("--probes, --seed and --no-tangent are about derivatives, and --no-forces leaves these out")
    if no_cache and cache is not None:
        raise ValueError("--cache names a folder and --no-cache keeps none; give one of the two")
    if batch_atoms is not None and batch_atoms < 1:
        raise ValueError(f"--batch-atoms must be at least 1; got {batch_atoms}")
    structures = read_structures(data, keys, index, require_energy=False)
    network = load_backbone(backbone, device, trust_checkpoint=trust_checkpoint)
    raise_on_errors(validate(structures, network.known_species, require_energy=False))
    kept = None if no_cache else FeatureCache(cache or default_cache_folder())
    with Stages() as stages:
        made = write_features(
            output, structures, network, directions, seed, tangent, kept, batch_atoms, progress=stages
        )
    if json:
        print_json(_json(output, made) | {"threads": threads})
    else:
        out.print(_told(output, made), soft_wrap=True, highlight=False)


def _directions(probes: str) -> int | str:
    if probes == ALL:
        return ALL
    if not probes.isdecimal():
        raise ValueError(f"--probes takes a number from 0, or all; got {probes!r}")
    return int(probes)


def _json(output: Path, made: NetworkRecord) -> dict[str, Any]:
    return {
        "output": str(output),
        "megabytes": output.stat().st_size / 1e6,
        "backbone": made.spec,
        "identity": f"{made.card.name}:{made.weights_hash}",
        "n_structures": len(made.structures),
        "n_derivatives": sum(bool(one.along) for one in made.structures),
        "n_tangent": sum(bool(one.tangent) for one in made.structures),
        "probes": made.probes,
        "seed": made.seed,
    }


def _told(output: Path, made: NetworkRecord) -> str:
    told = _json(output, made)
    derivatives = "no derivatives: a fit from this file is to energies alone"
    if made.probes is not None:
        derivatives = f"derivatives of {told['n_derivatives']} along {made.probes} random directions and the forces"
    beside = f", rows of the tangent kernel of {told['n_tangent']}" if told["n_tangent"] else ""
    return (
        f"wrote {output}: features of {told['n_structures']} structures by {told['identity']}, {derivatives}{beside}; "
        f"{told['megabytes']:.1f} MB"
    )
