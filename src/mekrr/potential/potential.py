"""KernelPotential: fit, predict, save, load."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ase import Atoms

from mekrr.backbones import Backbone, load_backbone
from mekrr.data import Structure, as_structures, isolated_atom_energies, raise_on_errors, validate
from mekrr.errors import DataError, ModelFileError
from mekrr.features import FeatureCache, batches, extract, structure_hash
from mekrr.features.extraction import BATCH_ATOMS
from mekrr.graph import build_batch
from mekrr.potential.advice import MekrrWarning, check_elements
from mekrr.potential.archive import load_fitted, save_fitted
from mekrr.potential.fitted import Fitted
from mekrr.potential.options import FitOptions
from mekrr.potential.prediction import Prediction, Wanted, predict_batch
from mekrr.potential.record import (
    backbone_record,
    choice_record,
    data_record,
    leave_one_out_record,
    loo_energies,
    versions,
)
from mekrr.potential.training import (
    Solution,
    StageProgress,
    Stopwatch,
    TrainingData,
    choose,
    fit_named_prior,
    layer_candidates,
    solve_at,
)
from mekrr.tune import Choice

FEWEST = 3  # structures in a fit
COVERAGE = 0.6827  # of one standard deviation of a normal distribution


class KernelPotential:
    """An interatomic potential: kernel ridge regression on the features of a frozen backbone.

    Args:
        backbone: a registered name, or name:path for weights of one's own.
        cache: folder in which computed features are kept, or None.
        device: "auto", "cpu" or "cuda"; where the backbone computes.
        trust_checkpoint: load weights that need unpickling from a path of yours.
        **options: see FitOptions; everything not given is chosen by leave-one-out.

    Attributes:
        options: as given.
        fitted_: the fit; absent before `fit` or `load`.
    """

    fitted_: Fitted

    def __init__(
        self,
        backbone: str = "sevennet-0",
        *,
        cache: str | Path | None = None,
        device: str = "auto",
        trust_checkpoint: bool = False,
        **options: Any,
    ) -> None:
        self.options = FitOptions(backbone=backbone, **options)
        self.cache = cache
        self.device = device
        self.trust_checkpoint = trust_checkpoint
        self._backbone: Backbone | None = None

    @property
    def backbone(self) -> Backbone:
        """The network, loaded when first needed and checked against the one the fit used.

        Raises:
            BackboneUnavailableError: when it is unknown, not installed or has no weights here.
            ModelFileError: when its weights are not those of the fit.
        """
        if self._backbone is None:
            self._backbone = load_backbone(
                self.options.backbone, device=self.device, trust_checkpoint=self.trust_checkpoint
            )
            if hasattr(self, "fitted_"):
                _check_identity(self._backbone, self.fitted_)
        return self._backbone

    def fit(self, structures: Sequence[Structure | Atoms], progress: StageProgress | None = None) -> "KernelPotential":
        """Fit to energies; everything left to "auto" is chosen by leave-one-out.

        Args:
            structures: labelled with energies in eV.
            progress: called with a stage's name, the units done and the units in all.

        Raises:
            DataError: when the data cannot be used; the message names the structure.
            BackboneUnavailableError: see `backbone`.
        """
        watch = Stopwatch()
        with watch.stage("backbone"):
            backbone = self.backbone
        labelled = as_structures(structures)
        issues = validate(labelled, known_species=backbone.known_species)
        raise_on_errors(issues)
        remarks = [issue.message for issue in issues]
        training = _without_duplicates(labelled)
        with watch.stage("features"):
            data = self._training_data(training, backbone, progress)
        with watch.stage("kernel"):
            choice = choose(data, self.options, backbone, progress)
        with watch.stage("solve"):
            solution = solve_at(data, choice.best, self.options, progress)
        remarks += choice.warnings
        self.fitted_ = self._collect(training, data, choice, solution, watch, remarks)
        for message in remarks:
            warnings.warn(message, MekrrWarning, stacklevel=2)
        return self

    def predict(
        self,
        structures: Sequence[Structure | Atoms],
        forces: bool = True,
        uncertainty: bool = False,
        backbone_forces: bool = False,
        progress: StageProgress | None = None,
    ) -> list[Prediction]:
        """Energies and, where asked for, forces, stress and deviations.

        Args:
            structures: labels, if any, are not looked at.
            forces: whether forces and stress are wanted.
            uncertainty: whether the energy's standard deviation is wanted.
            backbone_forces: whether the backbone's own forces are wanted beside.
            progress: as for `fit`.

        Raises:
            DataError: when a structure has elements the potential cannot treat.
        """
        fitted = self._require_fit()
        backbone = self.backbone
        atoms = [item.atoms if isinstance(item, Structure) else item for item in structures]
        self.check_species(atoms)
        wanted = Wanted(forces, uncertainty, backbone_forces)
        predictions: list[Prediction] = []
        for batch in batches([len(a) for a in atoms], self.options.batch_atoms or BATCH_ATOMS):
            graph = build_batch([atoms[t] for t in batch], backbone.cutoff, backbone.max_neighbours)
            predictions += predict_batch(fitted, backbone, graph.to(backbone.device), wanted)
            if progress is not None:
                progress("predict", len(predictions), len(atoms))
        return predictions

    def check_species(self, structures: Sequence[Atoms]) -> None:
        """Refuse elements the potential cannot treat; warn of what only the prior covers.

        Raises:
            DataError: for an element unknown to the backbone, or unseen in training where the prior does not cover it.
        """
        fitted = self._require_fit()
        check_elements(fitted, self.backbone, structures)

    def save(self, path: str | Path) -> None:
        """Write the potential as one safetensors file.

        Raises:
            OSError: when the file cannot be written; a file that was there stays as it was.
        """
        save_fitted(self._require_fit(), path)

    @classmethod
    def load(cls, path: str | Path, device: str = "auto", trust_checkpoint: bool = False) -> "KernelPotential":
        """Read a potential; its backbone is loaded when first needed.

        Raises:
            FileNotFoundError: when there is no such file.
            ModelFileError: when the file is truncated, not a model, or of a newer format.
        """
        fitted = load_fitted(path)
        options = dict(fitted.facts["options"])
        if isinstance(options["layers"], list):
            options["layers"] = tuple(options["layers"])
        potential = cls(device=device, trust_checkpoint=trust_checkpoint, **options)
        potential.fitted_ = fitted
        return potential

    def _require_fit(self) -> Fitted:
        if not hasattr(self, "fitted_"):
            raise ValueError("this potential has not been fitted; call fit(structures) or KernelPotential.load(path)")
        return self.fitted_

    def _training_data(
        self, training: Sequence[Structure], backbone: Backbone, progress: StageProgress | None
    ) -> TrainingData:
        wanted = {name for layers in layer_candidates(self.options, backbone) for name in layers}
        report = None if progress is None else lambda done, total: progress("features", done, total)
        extraction = extract(
            [s.atoms for s in training],
            backbone,
            [name for name in backbone.layers if name in wanted],
            None if self.cache is None else FeatureCache(self.cache),
            self.options.batch_atoms or BATCH_ATOMS,
            report,
        )
        energies = torch.tensor([s.energy for s in training], dtype=torch.float64)
        weights = torch.tensor([s.weight for s in training], dtype=torch.float64)
        return TrainingData(extraction, energies, weights, isolated_atom_energies(training))

    def _collect(
        self,
        training: Sequence[Structure],
        data: TrainingData,
        choice: Choice,
        solution: Solution,
        watch: Stopwatch,
        remarks: Sequence[str],
    ) -> Fitted:
        everything = torch.arange(len(training))
        best = choice.best
        priors = {
            name: fit_named_prior(name, data, everything, self.options.isolated_atoms)[0]
            for name in {best.prior, "composition", *(["backbone"] if self.backbone.has_energy else [])}
        }
        residuals = loo_energies(data, solution, self.options.embedding)
        standardised = solution.loo.residuals[0].abs() / solution.loo.variances[0].sqrt()
        facts = {
            "options": self.options.as_dict(),
            "backbone": backbone_record(self.backbone, self.options.backbone),
            "data": data_record(training),
            "leave_one_out": leave_one_out_record(data, solution, training, self.options.embedding),
            "search": choice_record(choice),
            "seconds": watch.seconds,
            "versions": versions(),
            "warnings": list(remarks),
        }
        return Fitted(
            training=data.extraction.select(best.layers).environments,
            scaler=solution.scaler,
            dual_coef=solution.dual_coef,
            half_inverse=solution.half_inverse,
            energies=data.energies,
            loo_residuals=residuals,
            prior=priors[best.prior],
            baseline=priors.get("backbone"),
            reference=priors["composition"],
            layers=best.layers,
            kernel_name=self.options.kernel,
            embedding=self.options.embedding,
            length_scale=best.length_scale,
            species_weight=best.species_weight,
            ridge=solution.ridge,
            amplitude=float(torch.quantile(standardised, COVERAGE)) ** 2,
            facts=facts,
        )


def _without_duplicates(structures: Sequence[Structure]) -> list[Structure]:
    """The first of equal structures: a copy in the training set would make leave-one-out lie.

    Raises:
        DataError: when too few are left.
    """
    first: dict[str, Structure] = {}
    for structure in structures:
        first.setdefault(structure_hash(structure.atoms), structure)
    if len(first) < FEWEST:
        raise DataError(f"{len(first)} different structures were given; leave-one-out needs at least {FEWEST}")
    return list(first.values())


def _check_identity(backbone: Backbone, fitted: Fitted) -> None:
    expected = fitted.facts["backbone"]["identity"]
    if backbone.identity != expected:
        raise ModelFileError(
            f"the potential was fitted with {expected}, but the backbone here is {backbone.identity}: features would "
            "not be comparable. Install the version the model names, or fit again"
        )
