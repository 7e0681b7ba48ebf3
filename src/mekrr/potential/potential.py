"""KernelPotential: fit, predict, save, load."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from ase import Atoms

from mekrr.backbones import Backbone, load_backbone
from mekrr.cluster import shards_of
from mekrr.data import Structure, as_structures, distinct, raise_on_errors, validate
from mekrr.errors import DataError, ModelFileError
from mekrr.features import BATCH_ATOMS, FeatureFile, RecordedBackbone, batches
from mekrr.potential.advice import MekrrWarning, check_elements
from mekrr.potential.archive import load_fitted, pack, save_fitted, unpack
from mekrr.potential.estimate import Estimate, estimate
from mekrr.potential.estimator import Estimator, parameter_defaults
from mekrr.potential.evaluate import Wanted
from mekrr.potential.fit import FitJob, run_fit, solver_of
from mekrr.potential.fitted import Fitted
from mekrr.potential.given import given_labels
from mekrr.potential.options import AUTO, FitOptions
from mekrr.potential.prediction import Predict, Prediction
from mekrr.potential.recorded import fit_options, options_with_file, wanted_from_file
from mekrr.potential.refine import refined_network
from mekrr.potential.training import StageProgress, Stopwatch
from mekrr.potential.update import new_structures, update
from mekrr.shards import HERE, Shards
from mekrr.threads import spinning

if TYPE_CHECKING:
    from dask.distributed import Client

FEWEST = 3  # structures in a fit
OWN = ("cache", "device", "trust_checkpoint", "cluster", "features")  # parameters that are no options of the fit


class KernelPotential(Estimator):
    """An interatomic potential: kernel ridge regression on the features of a frozen backbone.

    An estimator in scikit-learn's sense: the constructor stores, `fit` fits and makes `fitted_`.

    Args:
        backbone: a registered name, or name:path for weights of one's own.
        cache: folder in which computed features are kept, or None.
        device: "auto", "cpu" or "cuda"; where the backbone computes.
        trust_checkpoint: load weights that need unpickling from a path of yours.
        cluster: a dask.distributed.Client, whose workers compute what is done structure by structure; None for this
            process. The result is the same to the last bit, but for what the number of threads here changes.
        features: a file that `mekrr features` made, where the backbone cannot be installed; it brings the backbone's
            name, and predictions from it have energies and their deviations alone.
        layers: this and all that follow: see FitOptions; "auto" leaves the choice to leave-one-out.

    Attributes:
        options: as given, checked.
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
        layers: str | Sequence[str] = AUTO,
        embedding: str = "sum",
        solver: str = AUTO,
        forces: str | bool = AUTO,
        probes: int | str = 8,
        exact_forces: bool = True,
        inducing: int | str = AUTO,
        force_weight: str | float = AUTO,
        stress_weight: float = 0.01,
        kernel: str = "gaussian",
        prior: str = AUTO,
        species_weight: str | float = AUTO,
        tangent_share: str | float = AUTO,
        anchors: str = AUTO,
        length_scale: str | float = AUTO,
        ridge: str | float = AUTO,
        criterion: str = AUTO,
        isolated_atoms: bool = False,
        refine: int | str = 0,
        seed: int = 0,
        batch_atoms: int | None = None,
    ) -> None:
        given = locals()
        self._take({name: given[name] for name in parameter_defaults(type(self))})

    def _take(self, parameters: Mapping[str, Any]) -> None:
        """Store what the constructor or `set_params` was given, once it is checked."""
        options = {name: value for name, value in parameters.items() if name not in OWN}
        self.options = FitOptions(**options)
        self.cache, self.device, self.trust_checkpoint, cluster, self.features = (parameters[name] for name in OWN)
        self._file = None if self.features is None else FeatureFile(self.features)
        self.shards = shards_of(cluster)
        self._parameters = dict(parameters)  # as given: scikit-learn's clone looks for the very objects
        self._backbone: Backbone | None = None
        self._refined: tuple[Fitted, Backbone] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """All but the cluster and the network, which is loaded again when needed; the fit as in the model file."""
        state = vars(self) | {"_backbone": None, "_refined": None, "_file": None, "shards": HERE}
        state["_parameters"] = self._parameters | {"cluster": None}
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
        pretrained = self.pretrained
        fitted = getattr(self, "fitted_", None)
        if fitted is None or fitted.refined is None:
            return pretrained
        if self._refined is None or self._refined[0] is not fitted:
            self._refined = fitted, refined_network(pretrained, fitted)
        return self._refined[1]

    @property
    def pretrained(self) -> Backbone:
        """The network as published, which `backbone` is too unless the fit refined it.

        Raises:
            BackboneUnavailableError, ModelFileError: see `backbone`.
        """
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

    def fit(
        self,
        structures: Sequence[Structure | Atoms],
        energies: Sequence[float] | np.ndarray | None = None,
        *,
        forces: Sequence[np.ndarray] | None = None,
        stress: Sequence[np.ndarray] | None = None,
        progress: StageProgress | None = None,
    ) -> "KernelPotential":
        """Fit to energies, forces and stress; everything left to "auto" is chosen by leave-one-out.

        Args:
            structures: labelled, unless the labels are given beside.
            energies: total energies, eV, one a structure; with them, no labels of the structures are looked at.
            forces: with `energies`: an array (atoms, 3) a structure, eV/Angstrom, or None for one without.
            stress: with `energies`: (3, 3) or 6 in Voigt order a structure, eV/Angstrom^3 in ASE's sign, or None.
            progress: called with a stage's name, the units done and the units in all.

        Raises:
            DataError: when the data cannot be used; the message names the structure.
            BackboneUnavailableError: see `backbone`.
            TypeError, ValueError: for labels that are none, or of another number or shape.
        """
        self.shards.work.clear()
        if (busy := spinning()) is not None:
            warnings.warn(busy, MekrrWarning, stacklevel=2)
        given = given_labels(structures, energies, forces, stress)
        job, remarks = self._job(as_structures(structures) if given is None else given, progress)
        solver, with_forces = solver_of(job.options, job.structures)
        self.fitted_ = run_fit(job, solver, with_forces, remarks)
        for message in remarks:
            warnings.warn(message, MekrrWarning, stacklevel=2)
        return self

    def estimate(self, structures: Sequence[Structure | Atoms]) -> Estimate:
        """What a fit to these structures would cost: one of them is tried, and the rest counted.

        Args:
            structures: labelled as for `fit`.

        Raises:
            DataError: as `fit` would.
        """
        return estimate(self._job(as_structures(structures), None)[0])

    def _job(self, structures: list[Structure], progress: StageProgress | None) -> tuple[FitJob, list[str]]:
        """A fit that can begin, and what is to know of its data.

        Raises:
            DataError: when the data cannot be used.
        """
        watch = Stopwatch()
        with watch.stage("backbone"):
            backbone = self.pretrained
        issues = validate(structures, backbone.known_species, isolated_atoms=self.options.isolated_atoms)
        raise_on_errors(issues)
        remarks = [issue.message for issue in issues]
        training = distinct(structures)  # a copy in the training set would make leave-one-out lie
        if len(training) < FEWEST:
            raise DataError(f"{len(training)} different structures were given; leave-one-out needs at least {FEWEST}")
        options, cache = self.options, self._file or self.cache
        if self._file is not None:
            options = fit_options(options_with_file(options, self._file), self._file, training, remarks)
            backbone = RecordedBackbone(self._file, training)
        return FitJob(training, backbone, options, cache, watch, progress, self.shards), remarks

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
        added = distinct(new_structures(fitted, labelled))
        before = torch.tensor([p.energy for p in self.predict(added, forces=False)], dtype=torch.float64)
        errors = torch.tensor([s.energy for s in added], dtype=torch.float64) - before
        job = FitJob(added, self.backbone, self.options, self.cache, Stopwatch(), progress, self.shards)
        remarks = [issue.message for issue in issues]
        self.fitted_ = update(fitted, job, errors, remarks)
        for message in remarks:
            warnings.warn(message, MekrrWarning, stacklevel=2)
        return self

    @overload
    def predict(
        self,
        structures: Structure | Atoms,
        forces: bool = ...,
        uncertainty: bool = ...,
        atomic_uncertainty: bool = ...,
        force_uncertainty: bool = ...,
        backbone_forces: bool = ...,
        progress: StageProgress | None = ...,
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        structures: Sequence[Structure | Atoms],
        forces: bool = ...,
        uncertainty: bool = ...,
        atomic_uncertainty: bool = ...,
        force_uncertainty: bool = ...,
        backbone_forces: bool = ...,
        progress: StageProgress | None = ...,
    ) -> list[Prediction]: ...

    def predict(
        self,
        structures: Structure | Atoms | Sequence[Structure | Atoms],
        forces: bool = True,
        uncertainty: bool = False,
        atomic_uncertainty: bool = False,
        force_uncertainty: bool = False,
        backbone_forces: bool = False,
        progress: StageProgress | None = None,
    ) -> Prediction | list[Prediction]:
        """Energies and, where asked for, forces, stress and deviations: of one structure, or a list of many.

        Args:
            structures: one or many; labels, if any, are not looked at.
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
        wanted = Wanted(forces, uncertainty, backbone_forces, atomic_uncertainty, force_uncertainty)
        if isinstance(structures, Structure | Atoms):
            return self._predict([structures], wanted, progress)[0]
        return self._predict(structures, wanted, progress)

    def score(
        self, structures: Sequence[Structure | Atoms], energies: Sequence[float] | np.ndarray | None = None
    ) -> float:
        """The share of the variance of energies per atom that is predicted: 1 is perfect, 0 no better than their mean.

        Args:
            structures: labelled, unless the energies are given beside.
            energies: total energies, eV.

        Raises:
            DataError: when a structure has no energy.
        """
        labelled = given_labels(structures, energies) or as_structures(structures)
        missing = next((s.where for s in labelled if s.energy is None), None)
        if missing is not None:
            raise DataError(f"{missing}: no energy to compare with; label it, or give energies=[...]")
        n = np.array([len(s) for s in labelled], dtype=float)
        labels = np.array([s.energy for s in labelled], dtype=float) / n
        predicted = np.array([p.energy for p in self._predict(labelled, Wanted(forces=False))]) / n
        spread = float(np.square(labels - labels.mean()).sum())
        return 1.0 - float(np.square(predicted - labels).sum()) / spread if spread else float("nan")

    def _predict(
        self, structures: Sequence[Structure | Atoms], wanted: Wanted, progress: StageProgress | None = None
    ) -> list[Prediction]:
        fitted = self._require_fit()
        backbone = self.backbone
        atoms = [item.atoms if isinstance(item, Structure) else item for item in structures]
        self.check_species(atoms)
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
        """Refuse elements the potential cannot treat; warn of what only the prior covers, and of unread charge or spin.

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
                "--refine auto, write it with --to metatomic, or run it through mekrr's calculator and engines"
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


def _check_identity(backbone: Backbone, fitted: Fitted) -> None:
    expected = fitted.record.backbone.identity
    if backbone.identity != expected:
        raise ModelFileError(
            f"the potential was fitted with {expected}, but the backbone here is {backbone.identity}: features would "
            "not be comparable. Install the version the model names, or fit again"
        )
