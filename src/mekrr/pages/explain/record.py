"""An explanation as one JSON object."""

from dataclasses import asdict
from typing import Any

from ase.data import chemical_symbols

from mekrr.pages.explain import tables
from mekrr.pages.explain.explanation import Explanation


def record(found: Explanation) -> dict[str, Any]:
    """Everything, in eV; atoms of a structure as lists in the order of the file."""
    made = found.fitted.record
    rows = tables.structure_rows(found)
    return {
        "solver": found.fitted.model.solver,
        "prior": found.fitted.prior.name,
        "species_weight": found.fitted.species_weight,
        "backbone": made.backbone.name,
        "training_set_sha256": made.data.sha256,
        "n_structures": len(found.n_atoms),
        "n_atoms": len(found.species),
        "notes": tables.notes(found),
        "species": {row.symbol: asdict(row) for row in tables.species_rows(found)},
        "leans_on": [asdict(row) for row in tables.group_rows(found)],
        "contributions_over_sum": tables.cancellation(found.contributions),
        "terms_over_sum": tables.cancellation(found.terms),
        "furthest_atoms": [asdict(row) for row in tables.furthest_atoms(found)],
        "most_uncertain_atoms": [asdict(row) for row in tables.most_uncertain_atoms(found)],
        "furthest_structures": [row.where for row in tables.furthest_structures(rows)],
        "structures": [_structure(found, t, row) for t, row in enumerate(rows)],
    }


def _structure(found: Explanation, t: int, row: tables.StructureRow) -> dict[str, Any]:
    ends = found.n_atoms.cumsum(0)
    atoms = slice(int(ends[t] - found.n_atoms[t]), int(ends[t]))
    per_atom = {
        "species": [chemical_symbols[z] for z in found.species[atoms].tolist()],
        "energy": found.energy[atoms].tolist(),
        "prior": found.prior[atoms].tolist(),
        "kernel": found.kernel[atoms].tolist(),
        "tangent": found.tangent[atoms].tolist(),
        "deviation": found.deviation[atoms].tolist(),
        "distance": found.distance[atoms].tolist(),
        "novelty": found.novelty[atoms].tolist(),
    }
    return asdict(row) | {"atoms": per_atom}
