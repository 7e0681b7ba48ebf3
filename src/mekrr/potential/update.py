"""Adding labelled structures to a sparse potential without going through the old ones again."""

from collections.abc import Sequence
from dataclasses import replace

from mekrr.data import Structure
from mekrr.errors import DataError
from mekrr.linalg import solve_ridge
from mekrr.potential.data_record import DataRecord
from mekrr.potential.fit import FitJob, labels_of, training_set
from mekrr.potential.fitted import Fitted, TrainingLabels
from mekrr.potential.model import TangentPart
from mekrr.potential.record import Record, UpdateRecord
from mekrr.potential.rows import Rows, ShardEquations
from mekrr.prior import Compositions, Prior, column_coefficients, fit_prior
from mekrr.shards import HERE
from mekrr.typing import Float, Tensor


def new_structures(fitted: Fitted, structures: Sequence[Structure]) -> list[Structure]:
    """Those that are not in the training set.

    Raises:
        DataError: when none is left, or an element was not there in training.
        ValueError: for a potential of the exact solver.
    """
    if fitted.model.solver != "sparse":
        raise ValueError("only potentials of the sparse solver can be updated; fit again with all structures")
    if fitted.record.options.isolated_atoms:
        raise ValueError("a prior that isolated atoms have fixed is not fitted again; fit again with all structures")
    known = fitted.trained_on(structures)
    found = [s for s, is_known in zip(structures, known, strict=True) if not is_known]
    if not found:
        raise DataError(f"all {len(structures)} structures are in the training set already; there is nothing to add")
    strangers = {int(z) for s in found for z in s.species} - fitted.known_species
    if strangers:
        raise DataError(
            f"elements with atomic numbers {sorted(strangers)} were not in training, so no inducing environment stands "
            "for them; fit again with all structures"
        )
    return found


def update(fitted: Fitted, job: FitJob, errors: Float[Tensor, "added"], remarks: list[str]) -> Fitted:
    """The potential of old and new structures, with the same hyperparameters and inducing environments.

    The prior is fitted again to all labels. After a fit with exact forces, the probed equations stand for the old
    structures' curvature around the full solution, and the new structures enter through their probes.

    Args:
        fitted: the potential; its structures are not needed.
        job: with the new structures.
        errors: DFT minus prediction before the update, eV.
        remarks: what to know, kept with the potential.
    """
    model = fitted.model
    space = None if model.tangent is None else model.tangent.space
    data = training_set(job, fitted.layers, fitted.record.solver.forces, sorted(fitted.known_species), space)
    rows = Rows(data, data.extraction, model.scaler, model.basis)
    added = HERE.sum(ShardEquations(rows, model.weights), rows.shards())
    equations = model.equations + added
    labels = fitted.labels + labels_of(job.structures, data, errors)
    # of a refined network, the labels have no energies of the pretrained one, which the baseline is
    kept = fitted.baseline is None or fitted.refined is not None
    names = {fitted.prior.name, fitted.reference.name, *(() if kept else ("backbone",))}
    priors = {name: _refitted(name, labels) for name in sorted(names)}
    prior, columns = priors[fitted.prior.name]
    total = equations.total if model.anchors is None else equations.total + model.anchors
    whitened = solve_ridge(total, model.ridge, equations.total_moments @ columns)
    return replace(
        fitted,
        model=replace(
            model,
            coefficients=model.basis.coefficients(whitened),
            equations=equations,
            tangent=TangentPart.of(space, model.basis, whitened),
        ),
        labels=labels,
        prior=prior,
        baseline=fitted.baseline if kept else priors["backbone"][0],
        reference=priors[fitted.reference.name][0],
        record=_record(fitted, job, remarks),
    )


def _refitted(name: str, labels: TrainingLabels) -> tuple[Prior, Float[Tensor, "columns"]]:
    """A prior fitted to all labels, and its combination of the target columns."""
    compositions = Compositions.of(labels.species, labels.n_atoms)
    own = labels.backbone_energies
    own_or_none = None if bool(own.isnan().any()) else own
    prior, linear, design = fit_prior(name, labels.energies, compositions, own_or_none, labels.weights)
    return prior, column_coefficients(design, linear.beta, compositions.elements)


def _record(fitted: Fitted, job: FitJob, remarks: list[str]) -> Record:
    old = fitted.record
    added = DataRecord.of(job.structures, old.solver.forces)
    return replace(
        old,
        data=old.data + added,
        updates=(*old.updates, UpdateRecord(added.n_structures)),
        warnings=(*old.warnings, *remarks),
    )
