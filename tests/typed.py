"""Annotations are checked while tests run, shapes by jaxtyping and all else by beartype: importing this begins it.

Python's numeric tower holds (PEP 484): an int will do where a float is asked for.
"""

from pathlib import Path

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))

PACKAGE = Path(__file__).parents[1] / "src" / "mekrr"
UNCHECKED = {
    "mekrr.backbones.convolution_compiled": "numba pickles what it compiles",
    "mekrr.backbones.sevennet_script": "TorchScript reads the annotations itself",
    "mekrr.cli.app": "typer calls a callback without its value while it completes a line",
    "mekrr.learning.neb": "tests hand in the parts of a session that a function uses",
} | dict.fromkeys(
    ("mekrr.data.checking.splits", "mekrr.data.reading.labels", "mekrr.learning.options", "mekrr.potential.potential"),
    "what users hand in wrongly is refused in words of its own",
)
MODULES = {".".join(("mekrr", *p.relative_to(PACKAGE).with_suffix("").parts)) for p in PACKAGE.rglob("[!_]*.py")}

if missing := UNCHECKED.keys() - MODULES:
    raise RuntimeError(f"no such module: {', '.join(sorted(missing))}")
install_import_hook(sorted(MODULES - UNCHECKED.keys()), "typed.checked")
