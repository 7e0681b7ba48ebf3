"""One fit from labelled structures to Fitted."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mekrr.backbones import Backbone
from mekrr.data import Structure, isolated_atom_energies, unit_of_energies
from mekrr.errors import DataError
from mekrr.features import BATCH_ATOMS, DerivativeStore, FeatureCache, TangentSpace, extract, probe, tangent_space
from mekrr.features.probes import PROBE_BATCH_ATOMS
from mekrr.potential.advice import label_remarks
from mekrr.potential.fitted import Fitted, TrainingLabels
from mekrr.potential.options import AUTO, FitOptions
from mekrr.potential.record import (
    BackboneRecord,
    DataRecord,
    LeaveOneOutRecord,
    Record,
    SearchRecord,
    SolverRecord,
    versions,
)
from mekrr.potential.solution import Solution, solve
from mekrr.potential.training import StageProgress, Stopwatch, TrainingSet, choose, layer_candidates, plan_of
from mekrr.tune import Choice
from mekrr.typing import Float, Tensor

EXACT_STRUCTURES = 3000  # beyond, the dense eigendecomposition takes minutes and energies alone go to the sparse solver


@dataclass(frozen=True, eq=False)
class FitJob:
    """What a fit works on.

    Attributes:
        structures: labelled, without duplicates.
        backbone: the network.
        options: of the fit.
        cache: folder of features, or None.
        watch: seconds of the stages.
        progress: see KernelPotential.fit.
    """

    structures: Sequence[Structure]
    backbone: Backbone
    options: FitOptions
    cache: str | Path | None
    watch: Stopwatch
    progress: StageProgress | None

    def report(self, stage: str) -> Any:
        """Progress of one stage."""
        progress = self.progress
        return None if progress is None else lambda done, total: progress(stage, done, total)

    @property
    def feature_cache(self) -> FeatureCache | None:
        """On disk, where a folder was given."""
        return None if self.cache is None else FeatureCache(self.cache)


def solver_of(options: FitOptions, structures: Sequence[Structure]) -> tuple[str, bool]:
    """The solver, and whether it trains on forces and stress.

    Raises:
        DataError: when forces are asked for and no structure has any.
    """
    labelled = any(s.forces is not None or s.stress is not None for s in structures)
    if options.forces is True and not labelled:
        raise DataError(f"none of the {len(structures)} structures has forces or stress; fit with --no-forces")
    possible = labelled and options.embedding == "sum" and options.solver != "exact"
    forces = possible and options.forces is not False
    if options.solver != AUTO:
        return options.solver, forces
    large = options.embedding == "sum" and len(structures) > EXACT_STRUCTURES
    return ("sparse" if forces or large else "exact"), forces


def run_fit(job: FitJob, solver: str, forces: bool, remarks: list[str]) -> Fitted:
    """Observe, choose, solve; `remarks` grows by what the user should know.

    Raises:
        ValueError: for an option that has no effect on this path.
    """
    job.options.check_effect(solver, forces, any(s.stress is not None for s in job.structures))
    space = tangent_space_of(job, forces, remarks)
    data = training_set(job, wanted_layers(job), forces, space=space)
    if data.store is not None and job.backbone.has_energy:
        remarks += label_remarks(data.store)
    plan = plan_of(solver)
    with job.watch.stage("kernel"):
        choice = choose(data, job.options, job.backbone, plan, job.progress)
    with job.watch.stage("solve"):
        solution = solve(job.structures, data, plan, choice.best, job.options, job.backbone, job.progress)
    own = data.extraction.energies
    unit = None if own is None else unit_of_energies(job.structures, own.numpy())
    remarks += [*solution.warnings, *([unit] if unit else []), *choice.warnings]
    return _fitted(job, data, solution, choice, forces, remarks)


def labels_of(data: TrainingSet, residuals: Float[Tensor, "structures"]) -> TrainingLabels:
    """What a fitted potential keeps of its training structures."""
    environments, own = data.extraction.environments, data.extraction.energies
    own = torch.full_like(data.energies, torch.nan) if own is None else own
    return TrainingLabels(environments.species, environments.n_atoms, data.energies, own, data.weights, residuals)


def wanted_layers(job: FitJob) -> list[str]:
    """Every layer that may be chosen."""
    wanted = {name for layers in layer_candidates(job.options, job.backbone) for name in layers}
    return [name for name in job.backbone.layers if name in wanted]


def tangent_space_of(job: FitJob, forces: bool, remarks: list[str]) -> TangentSpace | None:
    """Where the tangent kernel lives; None where there is none to choose.

    Raises:
        ValueError: for a share asked for that cannot be had.
    """
    share, backbone = job.options.tangent_share, job.backbone
    if not forces or share == 0.0:
        return None
    if not (backbone.has_energy and backbone.linear_maps):
        missing = f"{backbone.name} names no linear maps, so the kernel is that on features alone"
        if share != AUTO:
            raise ValueError(f"tangent_share {share}: {missing}; leave it out, or take another backbone")
        remarks.append(missing)
        return None
    with job.watch.stage("derivatives"):
        return tangent_space(job.structures, backbone, job.feature_cache)


def training_set(
    job: FitJob,
    layers: Sequence[str],
    forces: bool,
    elements: Sequence[int] | None = None,
    space: TangentSpace | None = None,
) -> TrainingSet:
    """Features, derivatives where forces are trained on, and labels of the job's structures."""
    options = job.options
    with job.watch.stage("features"):
        atoms = [s.atoms for s in job.structures]
        batch_atoms = options.batch_atoms or BATCH_ATOMS
        extraction = extract(atoms, job.backbone, layers, job.feature_cache, batch_atoms, job.report("features"))
    return TrainingSet.of(
        extraction,
        _derivatives(job, layers, space) if forces else None,
        torch.tensor([s.energy for s in job.structures], dtype=torch.float64),
        torch.tensor([s.weight for s in job.structures], dtype=torch.float64),
        isolated_atom_energies(job.structures) if options.isolated_atoms else None,
        elements,
        space,
    )


def _derivatives(job: FitJob, layers: Sequence[str], space: TangentSpace | None) -> DerivativeStore:
    options = job.options
    with job.watch.stage("derivatives"):
        return probe(
            job.structures,
            job.backbone,
            layers,
            options.probes,
            options.seed,
            job.feature_cache,
            job.report("derivatives"),
            min(PROBE_BATCH_ATOMS, options.batch_atoms or PROBE_BATCH_ATOMS),
            space,
        )


def _fitted(
    job: FitJob, data: TrainingSet, solution: Solution, choice: Choice, forces: bool, remarks: list[str]
) -> Fitted:
    best, residuals = solution.best, solution.loo_energies
    names = {best.prior, "composition", *(["backbone"] if job.backbone.has_energy else [])}
    priors = {name: data.prior(name) for name in sorted(names)}
    record = Record(
        job.options,
        SolverRecord.of(solution, forces, data.extraction.environments.n_atoms),
        BackboneRecord.of(job.backbone, job.options.backbone),
        DataRecord.of(job.structures, forces),
        LeaveOneOutRecord.of(residuals, job.structures, solution.loo_forces),
        SearchRecord.of(choice, best, solution.criterion),
        job.watch.seconds,
        versions(),
        tuple(remarks),
    )
    return Fitted(
        solution.model,
        labels_of(data, residuals),
        priors[best.prior],
        priors.get("backbone"),
        priors["composition"],
        best.layers,
        record,
    )
