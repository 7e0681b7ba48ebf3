"""Annotations are checked while tests run, shapes by jaxtyping and all else by beartype: importing this begins it.

The rooms of arrays always; with MEKRR_TYPED=all, which takes a tenth longer, all modules but those below and what
stands in the `__init__` of a room.
Python's numeric tower holds (PEP 484): an int will do where a float is asked for.
"""

import os
from pathlib import Path

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))

PACKAGE = Path(__file__).parents[1] / "src" / "mekrr"
WHY_NOT = {
    "numba pickles what it compiles": ("backbones.convolution_compiled",),
    "TorchScript reads the annotations itself": (
        "backbones.sevennet_script",
        "potential.scripted",
        "potential.scripted_kernel",
    ),
    "typer hands over contexts of another class than it exports, and no version": (
        "cli.app",
        "cli.backbone_commands",
        "cli.config",
        "cli.fit",
        "cli.plugins",
    ),
    "tests hand in the parts of a session that a function uses": ("learning.neb",),
    "what users hand in wrongly is refused in words of its own": (
        "data.checking.splits",
        "data.reading.labels",
        "learning.options",
        "potential.potential",
    ),
}
UNCHECKED = {f"mekrr.{name}" for names in WHY_NOT.values() for name in names}
MODULES = {".".join(("mekrr", *p.relative_to(PACKAGE).with_suffix("").parts)) for p in PACKAGE.rglob("[!_]*.py")}

if missing := UNCHECKED - MODULES:
    raise RuntimeError(f"no such module: {', '.join(sorted(missing))}")
EVERYWHERE = os.environ.get("MEKRR_TYPED") == "all"
ROOMS = ("kernels", "solve", "tune", "features", "prior", "linalg", "graph", "engines", "testing")
install_import_hook(sorted(MODULES - UNCHECKED) if EVERYWHERE else [f"mekrr.{room}" for room in ROOMS], "typed.checked")
