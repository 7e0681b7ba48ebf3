"""Options of a fit, checked before anything is computed."""

from dataclasses import asdict, dataclass
from typing import Any

from mekrr.declared import option
from mekrr.kernels import KERNELS
from mekrr.prior import PRIORS
from mekrr.tune import CRITERION_NAMES

AUTO = "auto"
NO_ANCHORS = "none"


@dataclass(frozen=True)
class FitOptions:
    """Everything a fit may be told; "auto" leaves the choice to leave-one-out.

    Attributes:
        backbone: a registered name, or name:path for weights of one's own.
        layers: "auto", or names of layers to concatenate.
        embedding: "sum" (size-extensive) or "mean" (the paper's: E/n).
        solver: "exact" (energies only, every training atom), "sparse" (energies, forces and stress in a basis of
            inducing environments), or "auto": sparse where there are forces or stress and the embedding is sum.
        forces: train on forces and stress; "auto": wherever the solver can and the data have them.
        probes: random directions a structure beside the span of its forces; "all" for all 3n.
        exact_forces: iterate from the probed to the full solution by conjugate gradients.
        inducing: number of inducing environments; "auto": half of the atoms, at most 1,500.
        force_weight: "auto", or what a squared force error counts in Angstrom^2, where e^2/n counts 1.
        stress_weight: what a squared strain derivative over n counts, where e^2/n counts 1.
        kernel: pointwise kernel: gaussian or linear.
        prior: "auto", or one of PRIORS.
        species_weight: "auto", or w between 0 and 1.
        tangent_share: "auto", or the share s of the network's tangent kernel, from 0 (the kernel on features alone, as
            in the paper) to below 1; it needs forces, the sum embedding and a backbone with linear maps.
        anchors: structures without labels at which the kernel on features is asked for no correction: "auto" (training
            structures with atoms moved at random, where the tangent kernel has a share), "none", or a file, whose
            positions are in Angstrom.
        length_scale: "auto", "median" (the median heuristic) or a number in units of the standardised features.
        ridge: "auto", or a number; it is multiplied by n_t / weight_t (sum) or 1 / weight_t (mean).
        criterion: what the choice maximises; "auto" is "loo+evidence" for energies alone and "loo-mae", the
            geometric mean of energy and force errors, with forces or in a basis of inducing environments.
        isolated_atoms: take energies of isolated atoms in the data as fixed references of the composition prior, which
            is then the only one to choose from.
        refine: rounds in which the network's weights are changed, "auto" for as many as pay off on structures held
            out, 0 for none: the potential is then a network like the pretrained one, as fast and without a kernel.
        seed: of subsets in the search.
        batch_atoms: atoms in one batch of the backbone; None for the default.
    """

    backbone: str = option("sevennet-0", "a name of `mekrr backbones`, or name:path", "--backbone")
    layers: str | tuple[str, ...] = option(
        AUTO, "layer to tap, repeatable; all sets worth trying by default", "--layer", repeatable=True
    )
    embedding: str = option("sum", "sum (size-extensive) or mean (the paper's, E/n)", "--embedding")
    solver: str = option(AUTO, "auto, exact (energies only) or sparse (with forces and stress)", "--solver")
    forces: str | bool = option(
        AUTO,
        "train on forces and stress; by default where possible",
        "--forces",
        (AUTO,),
        switch="--forces/--no-forces",
    )
    probes: int | str = option(
        8,
        "random force directions a structure, beside the span of DFT's and the backbone's; all for all",
        "--probes",
        ("all",),
    )
    exact_forces: bool = option(
        True,
        "go on from the probes to all force components",
        "--exact-forces",
        switch="--exact-forces/--no-exact-forces",
    )
    inducing: int | str = option(AUTO, "inducing environments; half of the atoms, at most 1,500", "--inducing", (AUTO,))
    force_weight: str | float = option(
        AUTO, "Å²; what a squared force error counts where e²/n counts 1", "--force-weight", (AUTO,)
    )
    stress_weight: float = option(
        0.01, "what a squared strain derivative over n counts where e²/n counts 1", "--stress-weight"
    )
    kernel: str = option("gaussian", f"between two environments: {' or '.join(KERNELS)}", "--kernel")
    prior: str = option(AUTO, f"auto or one of {', '.join(PRIORS)}", "--prior")
    species_weight: str | float = option(AUTO, "w, from 0 to 1", "--species-weight", (AUTO,))
    tangent_share: str | float = option(
        AUTO, "share of the network's tangent kernel, from 0 (the kernel on features alone) to below 1",
        "--tangent-share", (AUTO,),
    )  # fmt: skip
    anchors: str = option(
        AUTO,
        "where features are to correct nothing: auto (rattled training structures), none, or a file in Å",
        "--anchors",
    )
    length_scale: str | float = option(
        AUTO, "of standardised features; median for the median heuristic", "--length-scale", (AUTO, "median")
    )
    ridge: str | float = option(AUTO, "multiplied by atoms / weight", "--ridge", (AUTO,))
    criterion: str = option(AUTO, f"what is maximised: one of {', '.join(CRITERION_NAMES)}", "--criterion")
    isolated_atoms: bool = option(
        False,
        "take the composition prior, fixed by isolated atoms in the data",
        "--isolated-atoms",
        switch="--isolated-atoms",
    )
    refine: int | str = option(
        0, "rounds of refining the network's weights; auto: while held-out errors fall", "--refine", (AUTO,)
    )
    seed: int = option(0, "of the subsets of the search and of the probes", "--seed")
    batch_atoms: int | None = option(
        None, "atoms in one batch of the backbone; lower it if memory runs out", "--batch-atoms"
    )

    def __post_init__(self) -> None:
        _choice("embedding", self.embedding, ("sum", "mean"))
        _choice("solver", self.solver, (AUTO, "exact", "sparse"))
        self._check_sparse()
        _choice("kernel", self.kernel, tuple(KERNELS))
        _choice("prior", self.prior, (AUTO, *PRIORS))
        _choice("criterion", self.criterion, CRITERION_NAMES)
        _number("species_weight", self.species_weight, (AUTO,), 0.0, 1.0)
        if self.refine != AUTO and not (isinstance(self.refine, int) and self.refine >= 0):
            raise ValueError(f"refine must be a number of rounds from 0, or auto; got {self.refine!r}")
        if not self.anchors:
            raise ValueError("anchors is empty; give auto, none or a file of structures")
        _number("tangent_share", self.tangent_share, (AUTO,), 0.0, 0.999)
        _number("length_scale", self.length_scale, (AUTO, "median"), 1e-12, 1e12)
        _number("ridge", self.ridge, (AUTO,), 1e-300, 1e300)
        if isinstance(self.layers, str) and self.layers != AUTO:
            object.__setattr__(self, "layers", (self.layers,))
        if not self.layers:
            raise ValueError("layers is empty; give at least one layer, or auto")
        if self.batch_atoms is not None and self.batch_atoms < 1:
            raise ValueError(f"batch_atoms must be at least 1; got {self.batch_atoms}")

    def _check_sparse(self) -> None:
        """The options of the sparse solver."""
        if self.forces not in (AUTO, True, False):
            raise ValueError(f"forces must be auto, true or false; got {self.forces!r}")
        if self.solver == "exact" and self.forces is True:
            raise ValueError("the exact solver fits energies only; take the sparse solver, or leave forces out")
        if self.solver == "sparse" and self.embedding != "sum":
            raise ValueError("the sparse solver needs the sum embedding: the mean one has no atomic energies or forces")
        if self.embedding != "sum" and self.forces is True:
            raise ValueError("forces need the sum embedding: with the mean one the potential is fitted to energies")
        if self.probes != "all" and not (isinstance(self.probes, int) and self.probes >= 0):
            raise ValueError(f"probes must be a number from 0, or all; got {self.probes!r}")
        if self.inducing != AUTO and not (isinstance(self.inducing, int) and self.inducing >= 1):
            raise ValueError(f"inducing must be a positive number, or auto; got {self.inducing!r}")
        _number("force_weight", self.force_weight, (AUTO,), 1e-12, 1e12)
        _number("stress_weight", self.stress_weight, (), 0.0, 1e12)

    def check_effect(self, solver: str, forces: bool, stress: bool) -> None:
        """Refuse options that the chosen path ignores.

        Args:
            solver: that is taken.
            forces: whether forces and stress are fitted.
            stress: whether any structure has a stress.

        Raises:
            ValueError: naming the options and the reason.
        """
        defaults = FitOptions()
        reasons = {
            "the exact solver has no inducing environments": ("inducing",) if solver == "exact" else (),
            "no forces are fitted": ()
            if forces
            else ("probes", "force_weight", "refine", *self._tangent(), *self._anchors()),
            "no stress is fitted": () if forces and stress else ("stress_weight",),
            "only the composition prior has energies of isolated atoms": ("isolated_atoms",)
            if self.prior not in (AUTO, "composition")
            else (),
        }
        for reason, names in reasons.items():
            given = [name for name in names if getattr(self, name) != getattr(defaults, name)]
            if given:
                flags = ", ".join("--" + name.replace("_", "-") for name in given)
                raise ValueError(f"{flags}: without effect here, since {reason}; leave it out")

    def _tangent(self) -> tuple[str, ...]:
        """The share, unless it asks for what there is without forces."""
        return () if self.tangent_share in (AUTO, 0.0) else ("tangent_share",)

    def _anchors(self) -> tuple[str, ...]:
        """Anchors, unless there are to be none."""
        return () if self.anchors == NO_ANCHORS else ("anchors",)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(allowed)}")


def _number(name: str, value: str | float, words: tuple[str, ...], low: float, high: float) -> None:
    if isinstance(value, str):
        _choice(name, value, words)
    elif not low <= value <= high:
        raise ValueError(f"{name} must lie between {low:g} and {high:g}, or be {' or '.join(words)}; got {value}")
