"""What chemiscope needs to show atoms coloured by what explains their energy: its script, and a data set.

chemiscope is the structure and property viewer of S. Chorna et al., J. Open Source Softw. 11, 10380 (2026). Its Python
package carries the viewer as one script, which is written into the page; nothing is fetched when the page is opened.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols

from mekrr.errors import MekrrError
from mekrr.pages.explain.explanation import Explanation
from mekrr.typing import Tensor

PIP = 'pip install "mekrr[explain]"'
MOST_ATOMS = 30_000  # on one page; browsers slow down and the page grows beyond
WORDS = {
    "relative energy": "energy, relative to the element's mean",
    "kernel part": "kernel part of the energy",
    "deviation": "uncertainty",
    "distance": "distance from the training data",
    "energy": "energy",
}
SIGNED = ("relative energy", "kernel part")  # coloured about zero
CUTOFF = 4.0  # Angstrom; drawn around an atom only when the user asks for it


def require_viewer() -> Path:
    """The viewer's script.

    Raises:
        MekrrError: when chemiscope is not installed, or is without its script.
    """
    spec = find_spec("chemiscope")  # without importing it: that would start half of Jupyter
    if spec is None or spec.origin is None:
        raise MekrrError(f"the 3D page needs chemiscope, which is not installed here: {PIP}, or leave out --output")
    script = Path(spec.origin).parent / "sphinx" / "static" / "chemiscope.min.js"
    if not script.is_file():
        raise MekrrError(f"the chemiscope installed here lacks {script.name}; reinstall it: {PIP}")
    return script


def shown_structures(found: Explanation) -> list[int]:
    """Structures for the page: all, or those with the furthest atoms while their atoms number at most 30,000."""
    furthest = torch.full((len(found.n_atoms),), -torch.inf, dtype=torch.float64)
    furthest.scatter_reduce_(0, found.structure, found.novelty.nan_to_num(nan=-1.0), "amax")
    chosen: list[int] = []
    atoms = 0
    for t in furthest.argsort(descending=True, stable=True).tolist():
        atoms += int(found.n_atoms[t])
        if atoms > MOST_ATOMS and chosen:
            break
        chosen.append(t)
    return sorted(chosen)


def dataset(found: Explanation, structures: list[int]) -> dict[str, Any]:
    """The chosen structures in chemiscope's format; NaN and infinity become None, which the page turns into NaN."""
    rows = torch.isin(found.structure, torch.tensor(structures))
    properties = {name: _property("atom", values[rows], unit) for name, (values, unit) in _atomic(found).items()}
    symbols = [chemical_symbols[z] for z in found.species[rows].tolist()]
    properties["element"] = {"target": "atom", "values": symbols}
    properties |= {
        name: _property("structure", values[structures], unit) for name, (values, unit) in _total(found).items()
    }
    return {
        "meta": {"name": " ", "description": "", "authors": [], "references": []},
        "structures": [_geometry(found.structures[t].atoms) for t in structures],
        "environments": [
            {"structure": s, "center": i, "cutoff": CUTOFF}
            for s, t in enumerate(structures)
            for i in range(int(found.n_atoms[t]))
        ],
        "properties": properties,
        "settings": _settings(found, rows),
    }


@dataclass(frozen=True)
class Colouring:
    """Something that atoms can be coloured by.

    Attributes:
        property: its name in the data set.
        words: for the button.
        palette: of chemiscope.
        low: value of the first colour; the same for all structures, so that they can be compared.
        high: value of the last colour.
    """

    property: str
    words: str
    palette: str
    low: float
    high: float


def colourings(found: Explanation) -> list[Colouring]:
    """What atoms can be coloured by, the first one first."""
    atomic = _atomic(found)
    return [_colouring(name, atomic[name][0]) for name in WORDS if name in atomic] + [
        Colouring("element", "element", "viridis", 0.0, 0.0)
    ]


def _colouring(name: str, values: Tensor) -> Colouring:
    known = values[values.isfinite()]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    high = high if high > low else low + 1.0  # the viewer needs a range, whatever there is to show
    if name not in SIGNED:
        return Colouring(name, WORDS[name], "viridis", low, high)
    size = max(abs(low), abs(high))
    return Colouring(name, WORDS[name], "bwr", -size, size)


def _atomic(found: Explanation) -> dict[str, tuple[Tensor, str]]:
    """Properties of atoms with their units."""
    values = {
        "relative energy": (1000 * _relative(found), "meV"),
        "energy": (found.energy, "eV"),
        "prior part": (found.prior, "eV"),
        "kernel part": (1000 * found.kernel, "meV"),
    }
    if found.deviation is not None:
        values["deviation"] = (1000 * found.deviation, "meV")
    return values | {"distance": (found.novelty, "times usual")}


def _relative(found: Explanation) -> Tensor:
    """Energies less the mean of the element, which would hide all else in a colour scale."""
    relative = found.energy.clone()
    for z in torch.unique(found.species):
        relative[found.species == z] -= found.energy[found.species == z].mean()
    return relative


def _total(found: Explanation) -> dict[str, tuple[Tensor, str]]:
    """Properties of structures with their units."""
    n = found.n_atoms.double()
    return {
        "energy per atom": (found.by_structure(found.energy) / n, "eV/atom"),
        "kernel part per atom": (found.by_structure(found.kernel) / n, "eV/atom"),
        "deviation per atom": (1000 * found.energy_std / n, "meV/atom"),
    }


def _property(target: str, values: Tensor, unit: str) -> dict[str, Any]:
    rounded = np.round(values.numpy(), 6)
    finite = [value if np.isfinite(value) else None for value in rounded.tolist()]
    return {"target": target, "values": finite, "units": unit}


def _geometry(atoms: Atoms) -> dict[str, Any]:
    x, y, z = np.round(atoms.positions, 4).T.tolist()
    geometry = {"size": len(atoms), "names": atoms.get_chemical_symbols(), "x": x, "y": y, "z": z}
    if atoms.cell.rank == 3:
        geometry["cell"] = np.round(atoms.cell.array, 4).ravel().tolist()
    return geometry


def _settings(found: Explanation, rows: Tensor) -> dict[str, Any]:
    """The viewer as it opens: at the most uncertain atom."""
    first = int(_atomic(found)["deviation"][0][rows].nan_to_num(nan=-1.0).argmax())
    return {
        "target": "atom",
        "pinned": [first],
        "map": {
            "x": {"property": "distance"},
            "y": {"property": "relative energy"},
            "color": {"property": "deviation", "palette": "viridis"},
            "symbol": "element",
        },
        "structure": [
            {
                "unitCell": True,
                "keepOrientation": True,
                "environments": {"activated": False, "cutoff": CUTOFF},
            }
        ],
    }
