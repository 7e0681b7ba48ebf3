"""What leave-one-out is asked to choose between: features, priors and the values of each hyperparameter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mekrr.features import Derivatives, Environments, Scaler
from mekrr.kernels.design import Progress
from mekrr.kernels.pointwise import PointwiseKernel, make_kernel
from mekrr.kernels.tiles import rounding
from mekrr.prior import PriorColumns
from mekrr.solve import choose_inducing
from mekrr.tune.criteria import BALANCED
from mekrr.typing import Float, Int, Tensor

MEDIAN: tuple[float, ...] = ()


@dataclass(frozen=True)
class Size:
    """How much of the data a stage of the search looks at.

    Attributes:
        structures: at most.
        groups: of the basis, at most; None for the structures themselves.
        tangent_rows: of the tangent kernel's basis, at most.
    """

    structures: int
    groups: int | None = None
    tangent_rows: int = 1000


@dataclass(frozen=True)
class Plan:
    """What the basis is, and on how much of the data its choices are made.

    Attributes:
        solver: "exact": the training structures are the basis; "sparse": inducing environments are.
        screening: where layers are screened.
        screen_from: number of structures from which screening saves time.
        search: where the rest is chosen.
        comparison: where the finalists' layers are compared once more, in a basis as large as the solution's: few
            inducing environments favour few features; None where the search has the solution's basis already.
        length_scales: tried, in units of sqrt(features), longest first.
        ridges: tried.
        jitter: on the diagonal of the basis' covariance at least, relative to its mean.
        extends: whether length scales are sought beyond those named. With forces they are not: errors near the data
            hardly change with the longest ones, and a fit that has them extrapolates like a polynomial.
        mixing: where the share of the tangent kernel is chosen; None where it is not.
        short_margin: the shortest length scale is taken that is not worse by more, in the log of the error.
        near_margin: beside a tangent kernel, the shortest reach is (`prefer_near`), likewise.
    """

    solver: str
    screening: Size
    screen_from: int
    search: Size
    comparison: Size | None
    length_scales: tuple[float, ...]
    ridges: tuple[float, ...]
    jitter: float
    extends: bool
    short_margin: float
    mixing: Size | None = None
    near_margin: float = 0.0

    @property
    def of_structures(self) -> bool:
        """Whether the structures themselves are the basis."""
        return self.solver == "exact"

    def centres(
        self, x: Environments, groups: int | None, seed: int, scaler: Scaler | None = None
    ) -> Int[Tensor, "centres"] | None:
        """Rows of x that span the basis; None for the structures as they are.

        Args:
            x: standardised environments, or raw ones with their scaler.
            groups: at most.
            seed: of the subset of very many candidates.
            scaler: see `choose_inducing`.
        """
        if self.of_structures:
            return None
        return choose_inducing(x, min(groups or len(x.species), len(x.species)), seed, scaler)

    def floor(self, x: Environments, kernel: PointwiseKernel, embedding: str) -> float:
        """Smallest ridge that stands above rounding, relative to the mean diagonal of K over the mean noise.

        Random entries of relative size `noise` have spectral norm noise * 2 sqrt(N) (Wigner's semicircle); the
        eigensolver adds about N eps. Rows of inducing environments carry their jitter, which is larger.
        """
        if not self.of_structures:
            return 0.0
        noise = rounding(x, kernel, embedding, 1)[0]
        N = x.n_structures
        return 2 * N**0.5 * noise + 4 * N * torch.finfo(torch.float64).eps


def _ladder(longest: float, rungs: int) -> tuple[float, ...]:
    return tuple(longest / 2 ** (rung / 2) for rung in range(rungs))


# Structures tolerate ridges near rounding; rows of inducing environments are whitened with a jitter of 1e-10, below
# which no ridge means anything. The length scale hardly matters to errors of forces near the data and decides those far
# away; energies alone see it in the evidence, and a scale 3% worse costs 5% on oxides.
OF_STRUCTURES = Plan(
    solver="exact",
    length_scales=_ladder(8.0, 8),
    screening=Size(150),
    screen_from=300,
    search=Size(1500),
    comparison=None,
    ridges=tuple(10.0 ** (-12 + 0.5 * step) for step in range(29)),
    jitter=1e-14,
    extends=True,
    short_margin=0.0,
)
OF_ENVIRONMENTS = Plan(
    solver="sparse",
    length_scales=_ladder(16.0, 10),
    screening=Size(50, 200),
    screen_from=0,
    search=Size(200, 400),
    comparison=Size(200, 1500, 2500),
    ridges=tuple(10.0 ** (-10 + 0.5 * step) for step in range(23)),
    jitter=1e-10,
    extends=False,
    short_margin=0.03,
    mixing=Size(60, 300),
    near_margin=0.05,
)
# Rows of the tangent kernel are scaled to those of the kernel on features, which are small where its length is long.
RIDGES_WITH_TANGENT = tuple(10.0 ** (-16 + 0.5 * step) for step in range(35))
TANGENT_SHARES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97)
FORCE_WEIGHTS = tuple(10.0 ** (-5 + 0.5 * step) for step in range(11))


@dataclass(frozen=True)
class Grid:
    """Values to choose from; a single value is a fixed one.

    Attributes:
        kernel: name of the pointwise kernel.
        embedding: "sum" or "mean".
        length_scales: in units of sqrt(features), longest first; a ladder with ratio sqrt(2) costs one pass. MEDIAN
            stands for the median distance between the environments of each choice of layers.
        species_weights: ascending.
        force_weights: Angstrom^2, ascending; a single 0 without forces.
        ridges: absolute, ascending.
        tangent_shares: shares of the tangent kernel, ascending; a single 0 without it.
        criterion: one of CRITERIA.
        length_scale_fixed: length_scales are absolute values by the user.
        ridge_fixed: ridges are values by the user.
    """

    kernel: str = "gaussian"
    embedding: str = "sum"
    length_scales: tuple[float, ...] = OF_STRUCTURES.length_scales
    species_weights: tuple[float, ...] = tuple(w / 10 for w in range(11))
    force_weights: tuple[float, ...] = (0.0,)
    ridges: tuple[float, ...] = OF_STRUCTURES.ridges
    tangent_shares: tuple[float, ...] = (0.0,)
    criterion: str = BALANCED
    length_scale_fixed: bool = False
    ridge_fixed: bool = False

    @property
    def extends(self) -> bool:
        """Whether the length scale may be sought beyond the values given: the linear kernel has none to seek."""
        return not self.length_scale_fixed and make_kernel(self.kernel, 1.0).squares

    def scales(self, h: Float[Tensor, "atoms features"]) -> tuple[float, ...]:
        """Length scales in units of the features."""
        if self.length_scales == MEDIAN:
            return (median_distance(h),)
        unit = 1.0 if self.length_scale_fixed else h.shape[1] ** 0.5
        return tuple(scale * unit for scale in self.length_scales)


def median_distance(h: Float[Tensor, "atoms features"], sample: int = 2000) -> float:
    """The median distance between a sample of environments that differ: the median heuristic for the length scale.

    Args:
        h: standardised features.
        sample: atoms looked at, drawn with a fixed seed.
    """
    chosen = torch.randperm(len(h), generator=torch.Generator().manual_seed(0))[:sample].to(h.device)
    distances = torch.pdist(h[chosen])
    return float(distances[distances > 0].median()) if bool((distances > 0).any()) else 1.0


@dataclass(frozen=True, eq=False)
class Observed:
    """Standardised environments and derivatives of some structures.

    Attributes:
        environments: float64.
        derivatives: with standardised features; None where a structure has neither forces nor stress.
    """

    environments: Environments
    derivatives: Sequence[Derivatives | None]


@dataclass(frozen=True)
class SearchProblem:
    """Everything the search needs, for any subset of the training structures.

    Attributes:
        plan: of the basis.
        layer_sets: choices of layers.
        observe: standardised environments and derivatives of a layer set for chosen structures.
        priors: candidates for chosen structures.
        columns: energy targets: DFT, backbone, atoms of each element.
        weights: of the structures.
        grid: values to choose from.
        stress_weight: see RowWeights.
        groups: of the basis, at most; None for the structures themselves.
        progress: units of work done, and in all.
    """

    plan: Plan
    layer_sets: Sequence[tuple[str, ...]]
    observe: Callable[[tuple[str, ...], Int[Tensor, "chosen"]], Observed]
    priors: Callable[[Int[Tensor, "chosen"]], Sequence[PriorColumns]]
    columns: Float[Tensor, "structures columns"]
    weights: Float[Tensor, "structures"]
    grid: Grid
    stress_weight: float = 0.0
    groups: int | None = None
    progress: Progress | None = None
