"""mekrr export."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mekrr.cli.console import out, print_json
from mekrr.cli.options import DeviceOption, JsonOption, ModelArgument, TrustOption
from mekrr.cli.outputs import require_output, require_writable
from mekrr.potential import KernelPotential

SUFFIXES = {"sevennet": (".pth", ".pt"), "metatomic": (".pt",)}


def export(
    model: ModelArgument,
    to: Annotated[str, typer.Option("--to", help=f"Whose format: {', '.join(SUFFIXES)}.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write (.pth, .pt).")],
    device: DeviceOption = "auto",
    trust_checkpoint: TrustOption = False,
    json: JsonOption = False,
) -> None:
    """Write a potential for metatomic's engines, or a refined one for what runs its network's own package."""
    if to not in SUFFIXES:
        raise ValueError(f"--to takes {', '.join(SUFFIXES)}; received {to}")
    require_output(output, SUFFIXES[to], (model,))
    record: dict[str, Any] = {"output": str(output), "to": to}
    if to == "metatomic":
        record |= _metatomic(model, output, device, trust_checkpoint)
        said = (
            f"a model of metatomic for {' '.join(record['elements'])}, {record['megabytes']:.1f} MB: "
            f"{', '.join(record['outputs'])}"
        )
    else:
        potential = KernelPotential.load(model, device, trust_checkpoint)
        checkpoint = potential.options.backbone.partition(":")[2] or None
        require_writable(output, (checkpoint,))
        potential.export(output)
        record |= {"backbone": potential.options.backbone}
        said = f"a checkpoint of {to}"
    if json:
        print_json(record)
    else:
        out.print(f"wrote {output}: {said}", soft_wrap=True, highlight=False)


def _metatomic(model: Path, output: Path, device: str, trust_checkpoint: bool) -> dict[str, Any]:
    if device not in ("auto", "cpu"):
        raise ValueError(
            f"--device {device} has no effect with --to metatomic: the file is written on the CPU, and the engine that "
            "loads it chooses a device; leave the option out"
        )
    from mekrr.engines.metatomic import export_metatomic

    potential = KernelPotential.load(model, "cpu", trust_checkpoint)
    capabilities = export_metatomic(potential, output)
    return {
        "backbone": potential.options.backbone,
        "elements": capabilities.elements,
        "outputs": capabilities.outputs,
        "members": capabilities.members,
        "megabytes": output.stat().st_size / 1e6,
    }
