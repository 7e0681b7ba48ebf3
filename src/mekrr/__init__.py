"""Interatomic potentials from little data, by kernel ridge regression on frozen graph-neural-network features.

import mekrr

potential = mekrr.KernelPotential("sevennet-0").fit(mekrr.read_structures("train.extxyz"))
potential.save("model.safetensors")
atoms.calc = mekrr.Calculator("model.safetensors")
"""

from typing import TYPE_CHECKING, Any

from mekrr._version import __version__

if TYPE_CHECKING:
    from mekrr.calculators import Calculator
    from mekrr.data import Structure, load_dataset, read_structures
    from mekrr.errors import BackboneUnavailableError, DataError, MekrrError
    from mekrr.evaluation import evaluate
    from mekrr.learning import learn
    from mekrr.potential import KernelPotential, MekrrWarning

_HOME = {
    "BackboneUnavailableError": "mekrr.errors",
    "Calculator": "mekrr.calculators",
    "DataError": "mekrr.errors",
    "KernelPotential": "mekrr.potential",
    "MekrrError": "mekrr.errors",
    "MekrrWarning": "mekrr.potential",
    "Structure": "mekrr.data",
    "evaluate": "mekrr.evaluation",
    "learn": "mekrr.learning.run",
    "load_dataset": "mekrr.data",
    "read_structures": "mekrr.data",
}

__all__ = [
    "BackboneUnavailableError",
    "Calculator",
    "DataError",
    "KernelPotential",
    "MekrrError",
    "MekrrWarning",
    "Structure",
    "__version__",
    "evaluate",
    "learn",
    "load_dataset",
    "read_structures",
]


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that `import mekrr` costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'mekrr' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """The public names, those not imported yet among them, for completion."""
    return sorted({*globals(), *__all__} - {"TYPE_CHECKING", "Any"})
