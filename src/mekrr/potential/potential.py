"""KernelPotential: fit, predict, save, load."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ase import Atoms

from mekrr.backbones import Backbone, load_backbone
from mekrr.cluster import shards_of
from mekrr.data import Structure, as_structures, raise_on_errors, validate
from mekrr.errors import DataError, ModelFileError
from mekrr.features import BATCH_ATOMS, FeatureFile, RecordedBackbone, batches, structure_hash
from mekrr.potential.advice import MekrrWarning, check_elements
from mekrr.potential.archive import load_fitted, pack, save_fitted, unpack
from mekrr.potential.evaluate import Wanted
from mekrr.potential.fit import FitJob, run_fit, solver_of
from mekrr.potential.fitted import Fitted
from mekrr.potential.options import FitOptions
from mekrr.potential.prediction import Predict, Prediction
from mekrr.potential.recorded import fit_options, options_with_file, wanted_from_file
from mekrr.potential.refine import refined_network
from mekrr.potential.training import StageProgress, Stopwatch
from mekrr.potential.update import new_structures, update
from mekrr.shards import HERE, Shards

if TYPE_CHECKING:
    from dask.distributed import Client

FEWEST = 3  # structures in a fit


class KernelPotential:
    """An interatomic potential: kernel ridge regression on the features of a frozen backbone.

    Args:
        backbone: a registered name, or name:path for weights of one's own.
        cache: folder in which computed features are kept, or None.
        device: "auto", "cpu" or "cuda"; where the backbone computes.
        trust_checkpoint: load weights that need unpickling from a path of yours.
        cluster: a dask.distributed.Client, whose workers compute what is done structure by structure; None for this
            process. The result is the same to the last bit, but for what the number of threads here changes.
        features: a file that `mekrr features` made, where the backbone cannot be installed; it brings the backbone's
            name, and predictions from it have energies and their deviations alone.
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
        cluster: "Client | Shards | None" = None,
        features: str | Path | None = None,
        **options: Any,
    ) -> None:
        self.options = FitOptions(backbone=backbone, **options)
        self.cache = cache
        self.features = features
        self._file = None if features is None else FeatureFile(features)
        self.device = device
        self.trust_checkpoint = trust_checkpoint
        self.shards = shards_of(cluster)
        self._backbone: Backbone | None = None
        self._refined: tuple[Fitted, Backbone] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """All but the cluster and the network, which is loaded again when needed; the fit as in the model file."""
        state = vars(self) | {"_backbone": None, "_refined": None, "_file": None, "shards": HERE}
        if "fitted_" in state:
            state["fitted_"] = pack(state["fitted_"])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if "fitted_" in state:
            self.fitted_ = unpack(*state["fitted_"])
        self._file = None if self.features is None else FeatureFile(self.features)

    @property
    def backbone(self) -> Backbone:
        """The network, loaded when first needed and checked against the one the fit used.

        Raises:
            BackboneUnavailableError: when it is unknown, not installed or has no weights here.
            ModelFileError: when its weights are not those of the fit.
        """
        pretrained = self._pretrained()
        fitted = getattr(self, "fitted_", None)
        if fitted is None or fitted.refined is None:
            return pretrained
        if self._refined is None or self._refined[0] is not fitted:
            self._refined = fitted, refined_network(pretrained, fitted)
        return self._refined[1]

    def _pretrained(self) -> Backbone:
        """The network as published."""
        if self._backbone is None:
            if self._file is None:
                self._backbone = load_backbone(
                    self.options.backbone, device=self.device, trust_checkpoint=self.trust_checkpoint
                )
            else:
                self._backbone = RecordedBackbone(self._file)
            if hasattr(self, "fitted_"):
                _check_identity(self._backbone, self.fitted_)
        return self._backbone

    def fit(self, structures: Sequence[Structure | Atoms], progress: StageProgress | None = None) -> "KernelPotential":
        """Fit to energies, forces and stress; everything left to "auto" is chosen by leave-one-out.

        Args:
            structures: labelled with energies in eV.
            progress: called with a stage's name, the units done and the units in all.

        Raises:
            DataError: when the data cannot be used; the message names the structure.
            BackboneUnavailableError: see `backbone`.
        """
        watch = Stopwatch()
        with watch.stage("backbone"):
            backbone = self._pretrained()
        labelled = as_structures(structures)
        issues = validate(labelled, backbone.known_species, isolated_atoms=self.options.isolated_atoms)
        raise_on_errors(issues)
        remarks = [issue.message for issue in issues]
        training = _without_duplicates(labelled)
        self.shards.work.clear()
        options, cache = self.options, self._file or self.cache
        if self._file is not None:
            options = fit_options(options_with_file(options, self._file), self._file, training, remarks)
            backbone = RecordedBackbone(self._file, training)
        job = FitJob(training, backbone, options, cache, watch, progress, self.shards)
        solver, forces = solver_of(options, training)
        self.fitted_ = run_fit(job, solver, forces, remarks)
        for message in remarks:
            warnings.warn(message, MekrrWarning, stacklevel=2)
        return self

    def update(
        self, structures: Sequence[Structure | Atoms], progress: StageProgress | None = None
    ) -> "KernelPotential":
        """Add labelled structures, with the hyperparameters and inducing environments of the fit.

        The same as the fit to old and new structures with these choices, without going through the old ones again;
        after a fit with exact forces, to the accuracy with which probes stand for the old structures' curvature.
        Leave-one-out and the calibration of deviations stay those of the fit. Structures already there are left out.

        Args:
            structures: labelled as for `fit`.
            progress: see `fit`.

        Raises:
            DataError: when nothing is new, or an element was not there in training.
            ModelFileError: when the backbone here is not the fit's.
            ValueError: for a potential of the exact solver, or with a feature file in place of the network.
        """
        fitted = self._require_fit()
        if self._file is not None:
            raise ValueError(f"an update needs the network, and {self.features} holds its features alone: fit again")
        labelled = as_structures(structures)
        issues = validate(labelled, known_species=self.backbone.known_species)
        raise_on_errors(issues)
        added = new_structures(fitted, labelled)
        before = torch.tensor([p.energy for p in self.predict(added, forces=False)], dtype=torch.float64)
        errors = torch.tensor([s.energy for s in added], dtype=torch.float64) - before
        job = FitJob(added, self.backbone, self.options, self.cache, Stopwatch(), progress, self.shards)
        remarks = [issue.message for issue in issues]
        self.fitted_ = update(fitted, job, errors, remarks)
        for message in remarks:
            warnings.warn(message, MekrrWarning, stacklevel=2)
        return self

    def predict(
        self,
        structures: Sequence[Structure | Atoms],
        forces: bool = True,
        uncertainty: bool = False,
        atomic_uncertainty: bool = False,
        force_uncertainty: bool = False,
        backbone_forces: bool = False,
        progress: StageProgress | None = None,
    ) -> list[Prediction]:
        """Energies and, where asked for, forces, stress and deviations.

        Args:
            structures: labels, if any, are not looked at.
            forces: whether forces and stress are wanted.
            uncertainty: whether the energy's standard deviation is wanted.
            atomic_uncertainty: whether that of each atom's energy is (sparse solver).
            force_uncertainty: whether that of each force component is (sparse solver trained on forces); it takes
                some reverse passes a structure.
            backbone_forces: whether the backbone's own forces are wanted beside.
            progress: as for `fit`.

        Raises:
            DataError: when a structure has elements the potential cannot treat.
            ValueError: for deviations this potential does not have.
        """
        fitted = self._require_fit()
        backbone = self.backbone
        atoms = [item.atoms if isinstance(item, Structure) else item for item in structures]
        self.check_species(atoms)
        wanted = Wanted(forces, uncertainty, backbone_forces, atomic_uncertainty, force_uncertainty)
        wanted.check(fitted)
        if self._file is not None:
            wanted = wanted_from_file(wanted, fitted, self._file, structures)
        predictions: list[Prediction] = []
        groups = batches([len(a) for a in atoms], self.options.batch_atoms or BATCH_ATOMS)
        shards = [[atoms[t] for t in batch] for batch in groups]
        for found in self.shards.map(Predict(fitted, backbone, wanted), shards, "predict"):
            predictions += found
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

    def export(self, path: str | Path) -> None:
        """Write a refined potential as a checkpoint of the network's own package, without deviations.

        The package sums in its own precision: energies agree with those here as far as that goes.

        Raises:
            ValueError: for a potential with a kernel part, or a network that cannot be written.
            OSError: when the file cannot be written.
        """
        fitted = self._require_fit()
        if not fitted.is_network:
            raise ValueError(
                "a checkpoint cannot hold this potential, which has a kernel part beside the network; fit it with "
                "--refine auto, or run it through mekrr's calculator and engines"
            )
        self.backbone.write_checkpoint(Path(path), fitted.prior.shifts)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "auto",
        trust_checkpoint: bool = False,
        cluster: "Client | Shards | None" = None,
        features: str | Path | None = None,
    ) -> "KernelPotential":
        """Read a potential; its backbone is loaded when first needed.

        Args:
            path: written by `save`.
            device: see KernelPotential.
            trust_checkpoint: see KernelPotential.
            cluster: see KernelPotential.
            features: of the structures to predict, in place of the backbone.

        Raises:
            FeatureFileError: when `features` is no feature file.
            FileNotFoundError: when there is no such file.
            ModelFileError: when the file is truncated, not a model, or of a newer format.
        """
        fitted = load_fitted(path)
        options = vars(fitted.record.options)
        potential = cls(device=device, trust_checkpoint=trust_checkpoint, cluster=cluster, features=features, **options)
        potential.fitted_ = fitted
        return potential

    def _require_fit(self) -> Fitted:
        if not hasattr(self, "fitted_"):
            raise ValueError("this potential has not been fitted; call fit(structures) or KernelPotential.load(path)")
        return self.fitted_


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
    expected = fitted.record.backbone.identity
    if backbone.identity != expected:
        raise ModelFileError(
            f"the potential was fitted with {expected}, but the backbone here is {backbone.identity}: features would "
            "not be comparable. Install the version the model names, or fit again"
        )
