"""mekrr export."""

from pathlib import Path
from typing import Annotated

import typer

from mekrr.cli.console import out, print_json
from mekrr.cli.options import DeviceOption, JsonOption, ModelArgument, TrustOption
from mekrr.cli.outputs import require_output
from mekrr.potential import KernelPotential

SUFFIXES = {"sevennet": (".pth", ".pt")}


def export(
    model: ModelArgument,
    to: Annotated[str, typer.Option("--to", help=f"Whose format: {', '.join(SUFFIXES)}.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The checkpoint to write (.pth).")],
    device: DeviceOption = "auto",
    trust_checkpoint: TrustOption = False,
    json: JsonOption = False,
) -> None:
    """Write a refined potential as a checkpoint of the network's own package, which runs wherever that package does."""
    if to not in SUFFIXES:
        raise ValueError(f"--to takes {', '.join(SUFFIXES)}; received {to}")
    require_output(output, SUFFIXES[to], (model,))
    potential = KernelPotential.load(model, device, trust_checkpoint)
    potential.export(output)
    if json:
        print_json({"output": str(output), "to": to, "backbone": potential.options.backbone})
    else:
        out.print(f"wrote {output}: a checkpoint of {to}", soft_wrap=True, highlight=False)
