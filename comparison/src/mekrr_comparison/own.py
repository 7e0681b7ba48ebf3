"""mekrr's own ways: everything automatic, and the settings that the tables compare it with."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, ClassVar

from ase import Atoms

from mekrr.backbones import Backbone
from mekrr.data import Structure
from mekrr.features import structure_hash
from mekrr.potential import FitOptions, KernelPotential, Prediction
from mekrr_comparison.method import Method, Setup
from mekrr_comparison.untrained import untrained

PAPER = "arXiv 2306.01589: kernel mean embedding of structures, energies only"
UNTRAINED = "untrained"
"""Option of every method here: features of the backbone with its weights shuffled."""


class _PotentialOn(KernelPotential):
    """A potential on a network that no name loads."""

    network: Backbone

    @property
    def backbone(self) -> Backbone:
        """The given network."""
        return self.network


class Automatic(Method):
    """KernelPotential with everything left to it."""

    name: ClassVar[str] = "mekrr"
    settings_from: ClassVar[str] = "mekrr's defaults: everything chosen by leave-one-out"
    needs_validation: ClassVar[bool] = False
    reads_features: ClassVar[bool] = True
    takes_cluster: ClassVar[bool] = True
    fixed: ClassVar[dict[str, Any]] = {}

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        options = {**self.fixed, **setup.options}
        self.is_untrained = bool(options.pop(UNTRAINED, False))
        self.options = options

    def fit(self, training: Sequence[Structure], validation: Sequence[Structure], seconds: float | None) -> None:
        """See Method.fit; a cap is not looked at, because fits take seconds to minutes."""
        self.training = list({structure_hash(s.atoms): s for s in reversed(training)}.values())[::-1]
        self.potential = self._potential().fit(training)
        self.seconds = dict(self.potential.fitted_.record.seconds)

    def predict(self, atoms: Sequence[Atoms]) -> list[Prediction]:
        """With forces and deviations."""
        return self.potential.predict(atoms, forces=True, uncertainty=True)

    def settings(self) -> dict[str, Any]:
        """Backbone and options."""
        untrained_ = {UNTRAINED: True} if self.is_untrained else {}
        return {"backbone": self.setup.backbone, **self.options, **untrained_}

    def chosen(self) -> dict[str, Any]:
        """Hyperparameters of the fit and its leave-one-out errors."""
        fitted = self.potential.fitted_
        loo = fitted.record.as_json()["leave_one_out"]
        return {
            "layers": list(fitted.layers),
            "prior": fitted.prior.name,
            "embedding": fitted.embedding,
            "species_weight": fitted.species_weight,
            "tangent_share": fitted.tangent_share,
            "length_scale": fitted.length_scale,
            "ridge": fitted.ridge,
            "leave_one_out": {key: value for key, value in loo.items() if key != "worst"},
        }

    def _potential(self) -> KernelPotential:
        unknown = sorted(set(self.options) - {field.name for field in fields(FitOptions)})
        if unknown:
            raise ValueError(f"{self.name}: this version of mekrr has no fit option {', '.join(unknown)}")
        common = {"cache": self.setup.cache, "device": self.setup.device, "seed": self.setup.seed} | self.options
        common["cluster"] = self.shards
        if not self.is_untrained:
            return KernelPotential(self.setup.backbone, **common)
        common["cluster"] = None  # weights that no name loads cannot travel
        potential = _PotentialOn(self.setup.backbone, **common)
        potential.network = untrained(self.setup.backbone, self.setup.seed)
        return potential


class Exact(Automatic):
    """Energies only, dense solution, everything else automatic."""

    name: ClassVar[str] = "mekrr-exact"
    settings_from: ClassVar[str] = "mekrr's defaults, solver exact: energies only"
    fixed: ClassVar[dict[str, Any]] = {"solver": "exact"}


class Probed(Automatic):
    """Energies and probed forces on inducing environments, without the exact refinement."""

    name: ClassVar[str] = "mekrr-sparse"
    settings_from: ClassVar[str] = "mekrr's defaults, solver sparse, stopping at the probed normal equations"
    fixed: ClassVar[dict[str, Any]] = {"solver": "sparse", "exact_forces": False}


class Paper(Exact):
    """The paper's multi-weight kernel: mean embedding, one mean energy per atom, energies only."""

    name: ClassVar[str] = "mekrr-paper"
    settings_from: ClassVar[str] = f"{PAPER}, species weight tuned (MEKRR-alpha)"
    fixed: ClassVar[dict[str, Any]] = {"solver": "exact", "embedding": "mean", "prior": "none"}


class PaperSingle(Paper):
    """The paper's single-weight kernel."""

    name: ClassVar[str] = "mekrr-paper-single"
    settings_from: ClassVar[str] = f"{PAPER}, one weight for all atoms (MEKRR)"
    fixed: ClassVar[dict[str, Any]] = {"solver": "exact", "embedding": "mean", "prior": "none", "species_weight": 0.0}
