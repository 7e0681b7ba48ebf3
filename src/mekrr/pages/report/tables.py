"""The tables of the page."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from ase.symbols import Symbols

from mekrr.data import Structure, summary
from mekrr.evaluation import Evaluation
from mekrr.pages.report.parity import ForceComponents
from mekrr.pages.words import MISSING, count, listed, number, percent, plural, seconds, short_names
from mekrr.potential import Fitted

WORST = 12
MOST_FORMULAS = 6


@dataclass(frozen=True)
class HeadlineRow:
    """One kind of error in three columns; None where there is none."""

    name: str
    unit: str
    potential: float | None
    backbone: float | None
    composition: float | None


def headline(evaluation: Evaluation, metrics: Mapping[str, Any]) -> list[HeadlineRow]:
    """Errors of this potential, the backbone with shifts and the composition mean, which has no forces."""
    rows = [
        HeadlineRow(
            f"Energy {kind.upper()}",
            "meV/atom",
            metrics[f"energy_{kind}_mev_per_atom"],
            metrics[f"backbone_energy_{kind}_mev_per_atom"],
            metrics[f"composition_energy_{kind}_mev_per_atom"],
        )
        for kind in ("rmse", "mae")
    ]
    forces = ForceComponents.of(evaluation)
    if forces is not None:
        zero = {"rmse": _rms(1000 * forces.dft), "mae": float(np.mean(np.abs(1000 * forces.dft)))}
        rows += [
            HeadlineRow(
                f"Force {kind.upper()}",
                "meV/Å",
                metrics[f"forces_{kind}_mev_per_angstrom"],
                metrics[f"backbone_forces_{kind}_mev_per_angstrom"],
                zero[kind],
            )
            for kind in ("rmse", "mae")
        ]
    return rows


def offsets_tell(structures: Sequence[Structure]) -> bool:
    """Whether compositions recur, so that errors without their offsets are more than an artefact of few structures."""
    return 2 * len({s.atoms.get_chemical_formula(empirical=True) for s in structures}) <= len(structures)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


@dataclass(frozen=True)
class ElementRow:
    """Force errors of one element's atoms, meV/Angstrom."""

    symbol: str
    components: int
    rmse: float
    mae: float
    backbone_rmse: float | None
    scale: float


def element_rows(forces: ForceComponents) -> list[ElementRow]:
    """Force errors by element; `scale` is the root mean square of the DFT components."""
    rows = []
    for z in forces.elements:
        part = forces.of_element(z)
        errors, own = part.errors, part.backbone_errors
        rows.append(
            ElementRow(
                chemical_symbols[z],
                len(errors),
                _rms(errors),
                float(np.mean(np.abs(errors))),
                None if own is None else _rms(own),
                _rms(1000 * part.dft),
            )
        )
    return rows


@dataclass(frozen=True)
class StructureRow:
    """One structure with its errors: meV/atom, meV/Angstrom; the largest DFT force component in eV/Angstrom."""

    file: str
    index: int
    formula: str
    energy_error: float
    deviation: float | None
    force_rmse: float | None
    largest_force: float | None


def structure_rows(evaluation: Evaluation) -> list[StructureRow]:
    """A row for every structure evaluated."""
    names = short_names(s.source for s in evaluation.structures)
    return [
        _structure_row(evaluation, t, names.get(s.source) or "in memory") for t, s in enumerate(evaluation.structures)
    ]


def _structure_row(evaluation: Evaluation, t: int, file: str) -> StructureRow:
    s, p = evaluation.structures[t], evaluation.predictions[t]
    both = s.forces is not None and p.forces is not None
    return StructureRow(
        file,
        s.index,
        s.atoms.get_chemical_formula(),
        1000 * (p.energy - float(s.energy or 0.0)) / len(s),
        None if p.energy_std is None else 1000 * p.energy_std / len(s),
        _rms(1000 * (p.forces - s.forces)) if both else None,  # type: ignore[operator]
        None if s.forces is None else float(np.abs(s.forces).max()),
    )


def worst_by_energy(rows: Sequence[StructureRow]) -> list[StructureRow]:
    """Largest energy errors an atom first."""
    return sorted(rows, key=lambda row: -abs(row.energy_error))[:WORST]


def worst_by_forces(rows: Sequence[StructureRow]) -> list[StructureRow]:
    """Largest root mean square force errors first; empty without forces."""
    known = [row for row in rows if row.force_rmse is not None]
    return sorted(known, key=lambda row: -(row.force_rmse or 0.0))[:WORST]


def loo_worst(fitted: Fitted) -> list[tuple[str, float]]:
    """Training structures with the largest leave-one-out errors, predicted minus DFT in meV/atom."""
    rows = fitted.record.leave_one_out.worst
    names = short_names(fitted.record.data.sources)
    return [(_shortened(row.where, names), -row.error_mev_per_atom) for row in rows]


def _shortened(where: str, names: Mapping[str, str]) -> str:
    for source in sorted(names, key=len, reverse=True):
        if where.startswith(source):
            return names[source] + where[len(source) :]
    return where


def training_facts(fitted: Fitted) -> dict[str, str]:
    """The training set in words; geometries are not kept in a model, labels and compositions are."""
    data = fitted.record.data
    formulas = _formulas_of(fitted)
    residuals = _per_atom_residuals(fitted)
    return {
        "Structures": count(data.n_structures),
        "Atoms": count(data.n_atoms),
        "Atoms a structure": _range(data.smallest, data.largest),
        "Elements": _elements(fitted.labels.species.numpy()),
        "Compositions": _formulas(formulas),
        "Energy spread about the composition fit": f"{number(1000 * _rms(residuals))} meV/atom",
        "Forces": _training_forces(fitted),
        "Files": listed(data.sources),
    }


def workers(fitted: Fitted) -> str:
    """Who computed what, where a cluster did; empty where none did."""
    work = fitted.record.work
    lines = [f"{w.stage} by {w.worker}: {plural(w.shards, 'shard')}, {seconds(w.seconds)}" for w in work[:WORK_SHOWN]]
    more = [f"and {len(work) - WORK_SHOWN} more"] if len(work) > WORK_SHOWN else []
    return "; ".join(lines + more)


def _training_forces(fitted: Fitted) -> str:
    """Whether the fit used them, in words."""
    components = fitted.record.data.n_force_components
    return "not used by this fit" if not components else plural(components, "component")


def _formulas_of(fitted: Fitted) -> dict[str, int]:
    parts = np.split(fitted.labels.species.numpy(), np.cumsum(fitted.labels.n_atoms.numpy())[:-1])
    return dict(Counter(_formula(part) for part in parts).most_common())


def _formula(species: np.ndarray) -> str:
    return Symbols(species).get_chemical_formula()


def _per_atom_residuals(fitted: Fitted) -> np.ndarray:
    shifts = fitted.reference.shift_energies(fitted.labels.species).numpy()
    n = fitted.labels.n_atoms.numpy()
    totals = np.add.reduceat(shifts, np.concatenate([[0], np.cumsum(n)[:-1]]))
    return (fitted.labels.energies.numpy() - totals) / n


def evaluation_facts(structures: Sequence[Structure]) -> dict[str, str]:
    """The evaluated set in the same words."""
    found = summary(structures)
    spread = found.energy_residual
    return {
        "Structures": count(found.n_structures),
        "Atoms": count(found.n_atoms),
        "Atoms a structure": _range(int(found.sizes["smallest"]), int(found.sizes["largest"])),
        "Elements": _elements(np.concatenate([s.species for s in structures])),
        "Compositions": _formulas(dict(Counter(_formula(s.species) for s in structures).most_common())),
        "Energy spread about the composition fit": f"{number(1000 * spread['rms'])} meV/atom" if spread else MISSING,
        "Forces": _force_facts(found.labels["forces"], found.forces),
        "Files": listed(found.sources) if found.sources else "in memory",
    }


def _force_facts(labelled: int, forces: Mapping[str, float] | None) -> str:
    if forces is None:
        return "none"
    return (
        f"{plural(labelled, 'structure')}; root mean square {number(forces['rms'])} eV/Å, "
        f"largest {number(forces['largest'])} eV/Å"
    )


def _range(low: int, high: int) -> str:
    return count(low) if low == high else f"{count(low)} to {count(high)}"


def _elements(species: np.ndarray) -> str:
    shares = sorted(Counter(species.tolist()).items())
    return ", ".join(f"{chemical_symbols[z]} ({percent_of(n / len(species))})" for z, n in shares)


def percent_of(share: float) -> str:
    """A percentage that does not round a rare element to nothing."""
    return percent(share) if share >= 0.01 else "<1%"


def _formulas(formulas: Mapping[str, int]) -> str:
    shown = [f"{formula} ({count(n)})" for formula, n in list(formulas.items())[:MOST_FORMULAS]]
    rest = len(formulas) - len(shown)
    return ", ".join(shown) + (f" and {plural(rest, 'other')}" if rest else "")


WORK_SHOWN = 12  # lines on who computed what
STAGES = {
    "read": "reading the data",
    "backbone": "loading the backbone",
    "features": "features of the training structures",
    "kernel": "kernel matrices and leave-one-out search",
    "solve": "solving at the choice",
    "forces": "force rows",
}


def timing_rows(fitted: Fitted) -> list[tuple[str, str, float]]:
    """Stage, seconds and share of the whole."""
    spent: Mapping[str, float] = fitted.record.seconds
    total = sum(spent.values()) or 1.0
    return [(STAGES.get(name, name), seconds(value), value / total) for name, value in spent.items()]


def prior_rows(fitted: Fitted) -> list[tuple[str, float]]:
    """Element and its shift in the prior, eV."""
    return [(chemical_symbols[z], shift + fitted.prior.everywhere) for z, shift in sorted(fitted.prior.shifts.items())]
