"""Whether lengths and energies have the size that Angstrom and eV give them; what their unit looks like where not.

A wrong unit is a factor, so everything is compared on a logarithmic scale, and the limit between a sound value and a
unit is half the way to it: the geometric mean of 1 and its factor.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms, units
from ase.data import covalent_radii
from vesin import NeighborList

from mekrr.data.checking.composition import composition_matrix
from mekrr.data.reading.structure import Structure
from mekrr.typing import Float, ndarray

LOOKED_AT = 200
"""Structures whose distances are measured."""

LENGTHS = {"Bohr": units.Bohr, "nm": units.nm}
"""Angstrom in the units that `--length-unit` knows."""

ENERGIES = {
    "Ha": units.Hartree,
    "Ry": units.Rydberg,
    "kcal/mol": units.kcal / units.mol,
    "kJ/mol": units.kJ / units.mol,
    "meV": 1e-3,
}
"""eV in the units that `--energy-unit` knows."""

PER_ATOM = "energies per atom"

ALSO_NEAR = 0.35
"""Logarithm of a factor of 1.4, by which networks are too soft or too stiff: units as near as that are named too."""

FAR_IN_SIZE = 8.0
"""Times a network's own size at which forces and stress are taken to be in another unit."""

PER_BOHR, OF_ONE_SHAPE = 0.25, 0.9
"""Logarithm of a factor of 1.28 around Bohr in Angstrom and its inverse, and the correlation with a network from which
so small a factor says anything: relaxations, whose forces are small, differ by as much without it."""

TOGETHER, OF_TWO_SIZES, LEFT = 0.85, 0.47, 8
"""Correlation with a network, of energies and of forces, from which the factors between labels and network are
compared; the logarithm of 1.6, by which the two factors differ when something is wrong (by 0.85 to 1.23 in the data
tried, and 2 is what Ry are to Ha); and how many energies more than their shifts it takes."""

SIGNS = {
    "forces": "forces are minus the gradient of the energy",
    "stress": "stress here has ASE's sign, positive under tension; give a virial as --virial-key",
}

_CUTOFFS = (0.4, 1.2, 3.6, 7.0)
_NOBLE = (2, 10, 18, 36, 54, 86)
_ALIKE = 0.6  # correlation from which energies are taken to be of the same matter
_ALIKE_IN_DIRECTION = 0.5
_FEWEST = 5
_BETTER = 10.0  # how much better energies per atom must fit before they are called so


def unit_of_lengths(structures: Sequence[Structure]) -> str | None:
    """What unit the positions seem to be in, in words with the option to give, where it is not Angstrom.

    The median distance to the nearest neighbour is within a few percent of the sum of the covalent radii in metals,
    oxides and molecules alike. Noble gases and isolated atoms are left aside.
    """
    step = max(1, len(structures) // LOOKED_AT)
    ratios = [_nearest(s.atoms) for s in structures[::step]]
    known = np.concatenate([*ratios, np.zeros(0)])
    if len(known) == 0 or len(ratios) < 3:
        return None
    ratio = float(np.median(known))
    if ratio == 0.0:  # atoms that coincide, which are reported elsewhere
        return None
    found = [(name, 1 / angstrom) for name, angstrom in LENGTHS.items() if _is_nearer(ratio, 1 / angstrom)]
    if not found and not _is_nearer(ratio, units.Bohr):
        return None
    what = f"nearest neighbours are {ratio:.2f} times the sum of their covalent radii apart (median)"
    if not found:
        return (
            f"{what}: too near for Angstrom; were positions in Angstrom converted from Bohr, or given in another unit?"
        )
    name = min(found, key=lambda one: abs(np.log(ratio / one[1])))[0]
    also = ", and where energies are in Ha, as they often are then, --energy-unit Ha" if name == "Bohr" else ""
    return f"{what}: positions and cell look like {name}; give --length-unit {name}{also}"


def _is_nearer(ratio: float, factor: float) -> bool:
    """Whether a ratio is nearer to a unit's factor than to 1."""
    return bool(abs(np.log(ratio / factor)) < abs(np.log(ratio)))


def _nearest(atoms: Atoms) -> Float[ndarray, "atoms"]:
    """Distance of each atom to its nearest neighbour over the sum of their covalent radii; none beyond the reach."""
    for cutoff in _CUTOFFS:
        i, j, d = NeighborList(cutoff=cutoff, full_list=True).compute(
            atoms.positions, atoms.cell.complete().array, atoms.pbc.tolist(), "ijd"
        )
        if len(np.unique(i)) == len(atoms):
            break
    keep = ~np.isin(atoms.numbers[i], _NOBLE) & ~np.isin(atoms.numbers[j], _NOBLE)
    if len(i) == 0 or not keep.any():
        return np.zeros(0)
    i, j, d = i[keep], j[keep], d[keep]
    nearest = np.full(len(atoms), np.inf)
    np.minimum.at(nearest, i, d / (covalent_radii[atoms.numbers[i]] + covalent_radii[atoms.numbers[j]]))
    return nearest[np.isfinite(nearest)]


def per_atom(structures: Sequence[Structure]) -> str | None:
    """Words, where the energies do not grow with the number of atoms as total energies do.

    Energies are fitted by counts of elements and by their fractions; what is left over, relative to the spread of what
    is fitted, tells total energies from energies per atom. Sizes must differ for that.
    """
    labelled = [s for s in structures if s.energy is not None and len(s) > 1]
    sizes = np.array([len(s) for s in labelled])
    if len(labelled) < _FEWEST or sizes.max() < 1.5 * sizes.min():
        return None
    counts, elements = composition_matrix(labelled)
    if len(labelled) < len(elements) + 3:
        return None
    energies = np.array([s.energy for s in labelled], dtype=float)
    # both in units of an energy per atom: totals over n, and what is called per atom as it stands
    total, single = (_left_over(counts / sizes[:, None], target) for target in (energies / sizes, energies))
    if total < _BETTER * single or np.ptp(energies) > 0.3 * np.abs(energies).max() * np.log(sizes.max() / sizes.min()):
        return None
    return (
        f"the energies do not grow with the number of atoms ({sizes.min()} to {sizes.max()}): they look like energies "
        "per atom; multiply them by the number of atoms, mekrr reads total energies"
    )


def _left_over(design: np.ndarray, target: np.ndarray) -> float:
    """Root mean square of what a least-squares fit leaves over, relative to the size of its target."""
    left = target - design @ np.linalg.lstsq(design, target, rcond=1e-10)[0]
    return float(np.sqrt(np.mean(left**2)) / max(np.sqrt(np.mean(target**2)), 1e-12))


def units_beside(
    structures: Sequence[Structure],
    own: Float[ndarray, "structures"],
    derivatives: Mapping[str, tuple[Float[ndarray, "_components"], Float[ndarray, "_components"]]],
) -> list[str]:
    """What is odd about labels beside a network's own, in words.

    Args:
        structures: with energies.
        own: the network's energies in eV.
        derivatives: "forces" and "stress", where there are any: labels and the network's, for `unit_of_derivatives`.
    """
    found = [unit_of_energies(structures, own)]
    found += [unit_of_derivatives(label, *pair) for label, pair in derivatives.items()]
    if not any(found) and "forces" in derivatives:
        found.append(_of_two_sizes(structures, own, *derivatives["forces"]))
    return [words for words in found if words]


def _of_two_sizes(
    structures: Sequence[Structure], own: np.ndarray, forces: np.ndarray, own_forces: np.ndarray
) -> str | None:
    """Words, where energies and forces are both like the network's, but not by the same factor."""
    chosen = [k for k, s in enumerate(structures) if s.energy is not None and np.isfinite(own[k])]
    counts, _ = composition_matrix([structures[k] for k in chosen])
    if len(chosen) < np.linalg.matrix_rank(counts) + LEFT:
        return None
    weights = 1 / np.sqrt(counts.sum(axis=1))  # an energy is off by the root of the number of atoms
    labels = np.array([structures[k].energy for k in chosen], dtype=float)
    energies = [
        values - rows @ np.linalg.lstsq(rows, values, rcond=1e-10)[0]
        for rows, values in ((counts * weights[:, None], weights * each) for each in (labels, own[chosen]))
    ]
    (factor, alike), (force_factor, forces_alike) = _size(*energies), _size(forces, own_forces)
    if min(alike, forces_alike) < TOGETHER or abs(np.log(factor / force_factor)) < OF_TWO_SIZES:
        return None
    return (
        f"after shifts per element the energies change by {factor:.3g} times the backbone's, but forces are "
        f"{force_factor:.3g} times its: they are not in units that belong together (Ry are half a Ha), or not of one "
        "calculation. Look at --energy-unit and --forces-unit"
    )


def _size(values: np.ndarray, own: np.ndarray) -> tuple[float, float]:
    """How large values are beside a network's, and their correlation without a mean."""
    sizes = float(np.linalg.norm(values)), float(np.linalg.norm(own))
    return (sizes[0] / sizes[1], float(values @ own) / (sizes[0] * sizes[1])) if min(sizes) > 0.0 else (1.0, 0.0)


def unit_of_energies(structures: Sequence[Structure], own: Float[ndarray, "structures"]) -> str | None:
    """What unit the energies seem to be in beside a network's own, in words with the option to give; None for eV.

    After one shift per element, energies of any level of theory rise and fall with the network's by a factor near 1; a
    unit shows as its factor. Where the two are not alike nothing can be said.

    Args:
        structures: with energies.
        own: the network's energies in eV.
    """
    if unit_of_lengths(structures):
        return None  # the network saw nonsense
    if words := per_atom(structures):
        return words
    chosen = [k for k, s in enumerate(structures) if s.energy is not None and len(s) > 1 and np.isfinite(own[k])]
    if len(chosen) < _FEWEST:
        return None
    counts, _ = composition_matrix([structures[k] for k in chosen])
    sizes = counts.sum(axis=1)
    labels = np.array([structures[k].energy for k in chosen], dtype=float)
    slope, alike = _slope(counts / sizes[:, None], labels / sizes, own[chosen] / sizes)
    # cells of one size do not tell an energy per atom by themselves: it is one more unit, and the number its factor
    candidates = {"eV": 1.0} | {name: 1 / value for name, value in ENERGIES.items()}
    same_size = float(sizes[0]) if np.ptp(sizes) == 0 else None
    if alike >= _ALIKE:
        names = _nearest_units(slope, candidates | ({PER_ATOM: 1 / same_size} if same_size else {}))
    elif same_size is None and _slope(counts / sizes[:, None], labels, own[chosen] / sizes)[1] >= _ALIKE:
        names = [PER_ATOM]
    else:
        return None
    if names[0] == "eV":
        return None
    advice = {name: f"give --energy-unit {name}, and --forces-unit where the forces have another" for name in ENERGIES}
    advice[PER_ATOM] = "multiply them by the number of atoms, mekrr reads total energies"
    causes = "; or ".join(f"they look like {name}: {advice[name]}" for name in names if name != "eV")
    return f"after shifts per element the energies change by {slope:.3g} times the backbone's: {causes}"


def unit_of_derivatives(
    label: str, values: Float[ndarray, "components"], own: Float[ndarray, "components"]
) -> str | None:
    """What is odd about forces or stress beside a network's own, in words: an opposite sign, or another unit.

    A foundation model need not be accurate, but its forces and stresses have the right sign and size.

    Args:
        label: "forces" or "stress".
        values: all components, eV/Angstrom; of stress, times the volume.
        own: the network's.
    """
    ratio, alike = _size(values, own)
    if alike < -_ALIKE_IN_DIRECTION:
        return (
            f"the {label} labels have the opposite sign of the backbone's (correlation {alike:.2f}): "
            f"{SIGNS[label]}. Fitted to them, the potential would contradict its energies"
        )
    if alike > _ALIKE_IN_DIRECTION and not 1 / FAR_IN_SIZE < ratio < FAR_IN_SIZE:
        return (
            f"the {label} labels are {ratio:.3g} times the backbone's in size though alike in direction: look at "
            f"their unit (--{label}-unit)"
        )
    per_bohr = abs(abs(np.log(ratio)) - abs(np.log(units.Bohr))) < PER_BOHR
    if label == "forces" and alike > OF_ONE_SHAPE and per_bohr:
        factor, way = (units.Bohr, "Bohr") if ratio < 1 else (1 / units.Bohr, "Angstrom")
        return (
            f"the forces labels are {ratio:.3g} times the backbone's in size though alike in direction, and "
            f"{factor:.3g} is what forces per {way} are when read as the other: look at their unit (--forces-unit)"
        )
    return None


def _nearest_units(slope: float, factors: dict[str, float]) -> list[str]:
    """The unit whose factor is the nearest on a logarithmic scale, and those that are hardly farther."""
    far = {name: abs(np.log(max(slope, 1e-12) / factor)) for name, factor in factors.items()}
    first = min(far, key=lambda name: far[name])
    return [first, *(name for name in far if name != first and far[name] < ALSO_NEAR)]


def _slope(rows: np.ndarray, labels: np.ndarray, own: np.ndarray) -> tuple[float, float]:
    """How strongly labels change with a network's energies, by the ratio of their median sizes, and how alike they are.

    Both are freed of shifts per element first. The similarity is that of ranks, which no violent structure rules.
    """
    left = [values - rows @ np.linalg.lstsq(rows, values, rcond=1e-10)[0] for values in (labels, own)]
    sizes = [float(np.median(np.abs(values - np.median(values)))) for values in left]
    if min(sizes) < 1e-9:
        return 1.0, 0.0
    ranks = [values.argsort().argsort() for values in left]
    alike = float(np.corrcoef(ranks)[0, 1])
    products = left[0] * left[1]
    slope = float(np.sum(np.sign(products) * np.minimum(np.abs(products), _cap(products)))) / float(
        np.sum(np.minimum(left[1] ** 2, _cap(left[1] ** 2)))
    )
    return (slope if slope > 0 else sizes[0] / sizes[1]), alike


def _cap(values: np.ndarray) -> float:
    """Ten times the median size: larger values count no more than that."""
    return 10 * float(np.median(np.abs(values)))
