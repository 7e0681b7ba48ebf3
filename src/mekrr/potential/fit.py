"""One fit from labelled structures to Fitted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mekrr.backbones import Backbone
from mekrr.data import Structure, isolated_atom_energies, sketches_of
from mekrr.errors import DataError
from mekrr.features import BATCH_ATOMS, DerivativeStore, FeatureCache, TangentSpace, extract, probe, tangent_space
from mekrr.features.probes import PROBE_BATCH_ATOMS
from mekrr.potential.advice import electron_remarks, label_remarks, solver_remarks
from mekrr.potential.anchors import anchor_structures
from mekrr.potential.data_record import DataRecord
from mekrr.potential.fitted import Fitted, TrainingLabels
from mekrr.potential.options import AUTO, FitOptions
from mekrr.potential.record import (
    BackboneRecord,
    LeaveOneOutRecord,
    Record,
    SearchRecord,
    SolverRecord,
    versions,
)
from mekrr.potential.refine import enough_to_refine, refine
from mekrr.potential.solution import Solution, solve
from mekrr.potential.training import StageProgress, Stopwatch, TrainingSet, choose, layer_candidates, plan_of
from mekrr.shards import HERE, Shards
from mekrr.tune import Choice, Trial
from mekrr.typing import Float, Tensor

REPLACED = (
    "the network was refined: choices, leave-one-out and inducing environments are those of the kernel potential on "
    "the pretrained network, which the refined one replaces"
)
EXACT_STRUCTURES = 3000  # beyond, the dense eigendecomposition takes minutes and energies alone go to the sparse solver


@dataclass(frozen=True, eq=False)
class FitJob:
    """What a fit works on.

    Attributes:
        structures: labelled, without duplicates.
        backbone: the network.
        options: of the fit.
        cache: folder of features, a file of them, or None.
        watch: seconds of the stages.
        progress: see KernelPotential.fit.
        shards: who computes what is done structure by structure.
    """

    structures: Sequence[Structure]
    backbone: Backbone
    options: FitOptions
    cache: str | Path | FeatureCache | None
    watch: Stopwatch
    progress: StageProgress | None
    shards: Shards = HERE

    def report(self, stage: str) -> Any:
        """Progress of one stage."""
        progress = self.progress
        return None if progress is None else lambda done, total: progress(stage, done, total)

    @property
    def feature_cache(self) -> FeatureCache | None:
        """On disk, where a folder or a file was given."""
        if isinstance(self.cache, FeatureCache):
            return self.cache
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
    if job.options.refine != 0:
        check_refine(job)
    remarks += solver_remarks(job.options, solver, forces, len(job.structures))
    remarks += electron_remarks(job.structures, job.backbone)
    anchors = anchor_structures(job.options.anchors, job.structures, job.options.seed)
    space = tangent_space_of(job, forces, remarks)
    data = training_set(job, wanted_layers(job), forces, space=space)
    if data.extraction.energies is not None:
        remarks += label_remarks(job.structures, data.extraction.energies.numpy(), data.store)
    plan = plan_of(solver)
    with job.watch.stage("kernel"):
        choice = choose(data, job.options, job.backbone, plan, job.progress)
    pinned = _pinned(job, anchors, choice.best, data)
    # a refined network takes the place of the solution, which is made for its leave-one-out alone
    options = job.options if job.options.refine == 0 else replace(job.options, exact_forces=False)
    with job.watch.stage("solve"):
        solution = solve(
            job.structures, data, plan, choice.best, options, job.backbone, job.progress, pinned, job.shards
        )
    remarks += [*solution.warnings, *choice.warnings]
    if job.options.refine == 0:
        return _fitted(job, data, solution, choice, forces, remarks)
    remarks.append(REPLACED)
    fitted = _fitted(job, data, solution, choice, forces, remarks)
    with job.watch.stage("refine"):
        space = tangent_space(job.structures, job.backbone, job.feature_cache)
        return refine(job.structures, fitted, job.backbone, space, job.options, job.progress)


def check_refine(job: FitJob) -> None:
    """What can be known before anything is computed.

    Raises:
        ValueError: for a network that names no linear maps.
        DataError: for too few structures.
    """
    backbone = job.backbone
    if not (backbone.has_energy and backbone.linear_maps):
        raise ValueError(f"--refine: {backbone.name} {backbone.without_maps}, so there are no weights to change")
    enough_to_refine(job.structures)


def labels_of(
    structures: Sequence[Structure], data: TrainingSet, residuals: Float[Tensor, "structures"]
) -> TrainingLabels:
    """What a fitted potential keeps of its training structures."""
    environments, own = data.extraction.environments, data.extraction.energies
    own = torch.full_like(data.energies, torch.nan) if own is None else own
    sketches = torch.from_numpy(sketches_of(structures).numbers)
    return TrainingLabels(
        environments.species, environments.n_atoms, data.energies, own, data.weights, residuals, sketches
    )


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
        missing = f"{backbone.name} {backbone.without_maps}, so the kernel is that on features alone"
        if share != AUTO:
            raise ValueError(f"tangent_share {share}: {missing}; leave it out, or take another backbone")
        remarks.append(missing)
        return None
    with job.watch.stage("derivatives"):
        return tangent_space(job.structures, backbone, job.feature_cache)


def _pinned(job: FitJob, anchors: Sequence[Structure], best: Trial, data: TrainingSet) -> TrainingSet | None:
    """Rows at which the kernel on features is asked to vanish; None without any.

    By default they go with the tangent kernel: a kernel on features alone must correct what is wrong everywhere, too.
    """
    unasked = job.options.anchors == AUTO and best.tangent_share == 0.0
    if not anchors or unasked or data.store is None:
        return None
    # progress would count them among the training structures
    there = replace(job, structures=anchors, progress=None)
    return training_set(there, best.layers, True, data.elements)


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
        extraction = extract(
            atoms, job.backbone, layers, job.feature_cache, batch_atoms, job.report("features"), job.shards
        )
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
            job.shards,
        )


def _fitted(
    job: FitJob, data: TrainingSet, solution: Solution, choice: Choice, forces: bool, remarks: list[str]
) -> Fitted:
    best, residuals = solution.best, solution.loo_energies
    baseline = data.prior("backbone") if job.backbone.has_energy else None
    # what knowing the formula alone gives: energies that are fixed are no fit to these structures
    reference = replace(data, references=None).prior("composition")
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
        work=tuple(job.shards.work),
    )
    return Fitted(
        solution.model,
        labels_of(job.structures, data, residuals),
        data.prior(best.prior),
        baseline,
        reference,
        best.layers,
        record,
    )
