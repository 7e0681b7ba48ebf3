"""What a user must hear before trusting a prediction."""

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols

from mekrr.backbones import Backbone
from mekrr.data import Structure, outside_row_space, units_beside
from mekrr.data.reading.electrons import CHARGE, NEUTRAL, SINGLET, SPIN, as_number, charge_and_spin
from mekrr.errors import DataError, MekrrWarning
from mekrr.features import DerivativeStore
from mekrr.potential.data_record import DataRecord
from mekrr.potential.fitted import Fitted
from mekrr.potential.options import AUTO, FitOptions
from mekrr.prior import NEEDS_BACKBONE, Compositions
from mekrr.typing import Float, Tensor, ndarray

VERY_MANY = 5000  # structures for the exact solver
LABELS_LOOKED_AT = 200  # structures whose labels are compared with the backbone's


def electron_remarks(structures: Sequence[Structure], backbone: Backbone) -> list[str]:
    """That structures differ in a charge or spin which the backbone does not read."""
    pairs, found = [charge_and_spin(s.atoms) for s in structures], []
    for k, name in enumerate(("charge", "spin")):
        different = sorted({pair[k] for pair in pairs if math.isfinite(pair[k])})
        if name not in backbone.reads and len(different) > 1:
            found.append(
                f"the structures have {len(different)} different values of {name} ({different[0]:g} to "
                f"{different[-1]:g}), which {backbone.name} does not read: structures that differ in it alone are one "
                "and the same to the potential; fit those of one value, or take a backbone that reads it"
            )
        found += _no_numbers([s.atoms for s in structures], name) if name not in backbone.reads else []
    return found


def solver_remarks(options: FitOptions, solver: str, forces: bool, count: int) -> list[str]:
    """That energies of very many structures go to the sparse solver, or what the exact one takes of them."""
    if solver == "sparse" and options.solver == AUTO and not forces:
        return [
            f"energies of {count:,} structures go to the sparse solver: the exact one decomposes a matrix of as many "
            "rows and columns. More --inducing comes nearer to it; --solver exact takes it all the same"
        ]
    if solver == "exact" and count > VERY_MANY:
        return [
            f"the exact solver decomposes a matrix of {count:,} rows and columns, {8e-9 * count**2:.1f} GB, and holds "
            "several of them, in a time that grows with the cube; --solver sparse is the way for so many"
        ]
    return []


def check_elements(fitted: Fitted, backbone: Backbone, structures: Sequence[Atoms]) -> None:
    """Refuse elements that cannot be treated; warn of those, compositions, charges and spins that the data leave open.

    Raises:
        DataError: for an element unknown to the backbone, or unseen in training where the prior does not cover it.
    """
    elements = {int(z) for atoms in structures for z in atoms.numbers}
    unknown = elements - backbone.known_species
    if unknown:
        raise DataError(f"{_symbols(unknown)}: unknown to the backbone {backbone.name}; use a backbone that knows them")
    unseen = elements - fitted.known_species
    if unseen and fitted.prior.name not in NEEDS_BACKBONE:
        raise DataError(
            f"{_symbols(unseen)}: not in the training data, and the prior {fitted.prior.name!r} does not cover them; "
            "add structures with them, or fit with --prior backbone"
        )
    if unseen:
        factor = f" times {fitted.prior.factor:.3g}" if fitted.prior.name == "backbone-scaled" else ""
        warnings.warn(
            f"{_symbols(unseen)}: not in the training data; their energies are the backbone's own{factor}, unshifted",
            MekrrWarning,
            stacklevel=3,
        )
    _warn_of_compositions(fitted, structures)
    for words in unread_electrons(fitted.record.data, backbone, structures):
        warnings.warn(words, MekrrWarning, stacklevel=3)


def unread_electrons(data: DataRecord, backbone: Backbone, structures: Sequence[Atoms]) -> list[str]:
    """That structures say a charge or spin which no training structure had, and which the backbone does not read."""
    found, pairs = [], [charge_and_spin(atoms) for atoms in structures]
    known = ((CHARGE, data.charges, NEUTRAL), (SPIN, data.spins, SINGLET))
    for k, (name, fitted_to, unsaid) in enumerate(known):
        said = {pair[k] for atoms, pair in zip(structures, pairs, strict=True) if name in atoms.info}
        other = sorted(value for value in said if math.isfinite(value) and value not in fitted_to)
        if other and fitted_to and name not in backbone.reads:
            found.append(
                f"{name} {_listed(other)}: training structures have {_listed(fitted_to)} (one that says nothing counts "
                f"as {unsaid:g}), and {backbone.name} does not read it, so that what is predicted is of the {name} of "
                "the training structures. Fit to structures with this one, or take a backbone that reads it"
            )
        found += _no_numbers(structures, name) if name not in backbone.reads else []
    return found


def _no_numbers(structures: Iterable[Atoms], name: str) -> list[str]:
    """A charge or spin that cannot be compared with any other."""
    said = [atoms.info[name] for atoms in structures if name in atoms.info]
    words = sorted({repr(value) for value in said if not math.isfinite(as_number(value))})
    if not words:
        return []
    return [
        f"{name} {', '.join(words[:3])}{' and others' if len(words) > 3 else ''}: no number, and taken for nothing; "
        f"give info[{name!r}] as a number, or rename it if it means something else"
    ]


def label_remarks(
    structures: Sequence[Structure], own: Float[ndarray, "structures"], store: DerivativeStore | None
) -> list[str]:
    """What labels look like beside the backbone's own: see `units_beside`.

    Args:
        structures: labelled.
        own: energies of the backbone, eV.
        store: derivatives of some structures, with labels beside; None without any.
    """
    rows: dict[str, list[Tensor]] = {"forces": [], "stress": []}
    entries = () if store is None else (store(t) for t in range(min(len(store.keys), LABELS_LOOKED_AT)))
    for d in entries:
        if d is not None:
            rows["forces"].append(torch.stack([d.dft[: d.n_forces], d.own[: d.n_forces]]))
            rows["stress"].append(torch.stack([d.dft[d.n_forces :], d.own[d.n_forces :]]))
    pairs = {name: torch.cat(parts, dim=1).numpy() for name, parts in rows.items() if parts}
    return units_beside(structures, own, {name: (dft, theirs) for name, (dft, theirs) in pairs.items()})


def undetermined(fitted: Fitted, structures: Iterable[Atoms]) -> list[str]:
    """A sentence for each composition whose energy the training compositions leave open."""
    found = {
        atoms.get_chemical_formula(): atoms.numbers
        for atoms in structures
        if fitted.prior.leaves_open(Counter(atoms.numbers.tolist()))
    }
    if not found:
        return []
    elements = sorted(fitted.known_species)
    train = Compositions.of(fitted.labels.species, fitted.labels.n_atoms, elements).counts.numpy()
    new = np.array([[(numbers == z).sum() for z in elements] for numbers in found.values()], dtype=float)
    return [
        f"{formula}: its composition lies outside those of the training data{_how(words)}. They do not determine its "
        "energy, and the smallest shifts that fit were taken: energies of such structures carry an unknown offset, "
        "forces do not"
        for formula, words in zip(found, outside_row_space(train, new, elements)[1], strict=True)
    ]


def _how(words: str) -> str:
    return f" ({words})" if words else ""


def _warn_of_compositions(fitted: Fitted, structures: Iterable[Atoms]) -> None:
    for sentence in undetermined(fitted, structures):
        warnings.warn(sentence, MekrrWarning, stacklevel=3)


def _symbols(numbers: Iterable[int]) -> str:
    return ", ".join(chemical_symbols[z] for z in sorted(numbers))


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
