"""One fit from labelled structures to Fitted: the exact solver's way and the sparse solver's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mekrr.backbones import Backbone
from mekrr.data import Structure, isolated_atom_energies, unit_of_energies
from mekrr.errors import DataError
from mekrr.features import FeatureCache, extract, probe
from mekrr.features.extraction import BATCH_ATOMS
from mekrr.features.probes import PROBE_BATCH_ATOMS
from mekrr.kernels import make_kernel
from mekrr.potential.advice import label_remarks
from mekrr.potential.dual import DualModel
from mekrr.potential.fitted import Fitted, Model, TrainingLabels
from mekrr.potential.options import AUTO, FitOptions
from mekrr.potential.record import (
    backbone_record,
    choice_record,
    data_record,
    leave_one_out_record,
    loo_energies,
    sparse_record,
    versions,
)
from mekrr.potential.sparse_training import COVERAGE, SparseData, choose_sparse, solve_sparse
from mekrr.potential.training import (
    StageProgress,
    Stopwatch,
    TrainingData,
    choose,
    fit_named_prior,
    layer_candidates,
    solve_at,
)
from mekrr.tune import Choice, Trial
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


def fit_exact(job: FitJob, remarks: list[str]) -> Fitted:
    """Energies only, every training atom in the solution."""
    data = training_data(job, wanted_layers(job))
    with job.watch.stage("kernel"):
        choice = choose(data, job.options, job.backbone, job.progress)
    with job.watch.stage("solve"):
        solution = solve_at(data, choice.best, job.options, job.progress)
    best = choice.best
    standardised = solution.loo.residuals[0].abs() / solution.loo.variances[0].sqrt()
    model = DualModel(
        data.extraction.select(best.layers).environments,
        solution.scaler,
        make_kernel(job.options.kernel, best.length_scale),
        best.species_weight,
        job.options.embedding,
        solution.ridge,
        solution.dual_coef,
        solution.half_inverse,
        float(torch.quantile(standardised, COVERAGE)) ** 2,
    )
    residuals = loo_energies(data, solution, job.options.embedding)
    return _fitted(job, data, model, residuals, choice, best, {"solver": "exact", "forces": False}, None, remarks)


def fit_sparse(job: FitJob, forces: bool, remarks: list[str]) -> Fitted:
    """Energies, forces and stress in a basis of inducing environments."""
    base = training_data(job, wanted_layers(job))
    data = sparse_data(job, base, forces)
    if data.store is not None and job.backbone.has_energy:
        remarks += label_remarks(data.store)
    with job.watch.stage("kernel"):
        choice = choose_sparse(data, job.options, job.backbone, job.progress)
    with job.watch.stage("solve"):
        solution = solve_sparse(job.structures, data, choice.best, job.options, job.backbone, job.progress)
    remarks += solution.warnings
    record = sparse_record(solution, forces)
    residuals = solution.loo_energies
    return _fitted(job, base, solution.model, residuals, choice, solution.best, record, solution.loo_forces, remarks)


def sparse_data(job: FitJob, base: TrainingData, forces: bool, elements: Sequence[int] | None = None) -> SparseData:
    """With derivatives where forces and stress are trained on."""
    if not forces:
        return SparseData.of(base, None, elements)
    layers, options = base.extraction.layers, job.options
    with job.watch.stage("derivatives"):
        store = probe(
            job.structures,
            job.backbone,
            layers,
            options.probes,
            options.seed,
            job.feature_cache,
            job.report("derivatives"),
            min(PROBE_BATCH_ATOMS, options.batch_atoms or PROBE_BATCH_ATOMS),
        )
    return SparseData.of(base, store, elements)


def labels_of(data: TrainingData, residuals: Float[Tensor, "structures"]) -> TrainingLabels:
    """What a fitted potential keeps of its training structures."""
    environments, own = data.extraction.environments, data.extraction.energies
    own = torch.full_like(data.energies, torch.nan) if own is None else own
    return TrainingLabels(environments.species, environments.n_atoms, data.energies, own, data.weights, residuals)


def wanted_layers(job: FitJob) -> list[str]:
    """Every layer that may be chosen."""
    wanted = {name for layers in layer_candidates(job.options, job.backbone) for name in layers}
    return [name for name in job.backbone.layers if name in wanted]


def training_data(job: FitJob, layers: Sequence[str]) -> TrainingData:
    """Features and labels of the job's structures."""
    with job.watch.stage("features"):
        extraction = extract(
            [s.atoms for s in job.structures],
            job.backbone,
            layers,
            job.feature_cache,
            job.options.batch_atoms or BATCH_ATOMS,
            job.report("features"),
        )
    return TrainingData(
        extraction,
        torch.tensor([s.energy for s in job.structures], dtype=torch.float64),
        torch.tensor([s.weight for s in job.structures], dtype=torch.float64),
        isolated_atom_energies(job.structures),
    )


def _fitted(
    job: FitJob,
    data: TrainingData,
    model: Model,
    residuals: Float[Tensor, "structures"],
    choice: Choice,
    best: Trial,
    solver: dict[str, Any],
    forces: Float[Tensor, "structures"] | None,
    remarks: list[str],
) -> Fitted:
    own = data.extraction.energies
    unit = None if own is None else unit_of_energies(job.structures, own.numpy())
    remarks += [unit] if unit else []
    remarks += choice.warnings
    everything = torch.arange(len(job.structures))
    names = {best.prior, "composition", *(["backbone"] if job.backbone.has_energy else [])}
    priors = {name: fit_named_prior(name, data, everything, job.options.isolated_atoms)[0] for name in sorted(names)}
    facts = {
        "options": job.options.as_dict(),
        "solver": solver,
        "backbone": backbone_record(job.backbone, job.options.backbone),
        "data": data_record(job.structures, bool(solver["forces"])),
        "leave_one_out": leave_one_out_record(residuals, job.structures, forces),
        "search": choice_record(choice, best),
        "seconds": job.watch.seconds,
        "versions": versions(),
        "warnings": list(remarks),
    }
    return Fitted(
        model,
        labels_of(data, residuals),
        priors[best.prior],
        priors.get("backbone"),
        priors["composition"],
        best.layers,
        facts,
    )
