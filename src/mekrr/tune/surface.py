"""The leave-one-out surface of one choice of features, explored coarse to fine."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from mekrr.errors import MekrrError
from mekrr.kernels import GramPair, gram, make_kernel
from mekrr.kernels.tiles import Progress
from mekrr.solve import LeaveOneOut, RidgeFactor, leave_one_out, log_evidence
from mekrr.tune.criteria import minus_log_error, score
from mekrr.tune.problem import MEDIAN, FeatureCandidate, Grid, PriorCandidate, Trial, median_distance
from mekrr.tune.safety import prefer_safe
from mekrr.typing import Float, Tensor

MAX_EXTENSIONS = 3  # each adds a factor of 2 to the range of length scales


class Surface:
    """Trials over (length scale, species weight) for several priors, each evaluated once.

    Args:
        features: one choice of layers.
        priors: the candidates, all for the same structures.
        noise: n_t / weight_t (sum) or 1 / weight_t (mean).
        n_atoms: of each structure.
        grid: values to choose from.
        progress: of the Gram passes.
    """

    def __init__(
        self,
        features: FeatureCandidate,
        priors: Sequence[PriorCandidate],
        noise: Float[Tensor, "structures"],
        n_atoms: Float[Tensor, "structures"],
        grid: Grid,
        progress: Progress | None = None,
    ) -> None:
        self.features = features
        self.priors = priors
        self.noise = noise
        self.n_atoms = n_atoms
        self.grid = grid
        if grid.length_scales == MEDIAN:
            self.grid = replace(grid, length_scales=(median_distance(features.environments.features),))
        self.progress = progress
        self.safe = {prior.name for prior in priors if prior.safe}
        self.measure = partial(minus_log_error, grid.criterion, n_structures=len(noise))
        self.trials: list[Trial] = []
        self.warnings: list[str] = []
        self.factorisations = 0
        self._done: dict[tuple[int, int], list[Trial]] = {}
        self._grams: dict[int, tuple[GramPair, int]] = {}

    def explore(self, exhaustive: bool = False) -> Trial:
        """The best trial: coarse grid, then uphill among neighbours from the best of each prior.

        Args:
            exhaustive: evaluate the whole grid instead.
        """
        first, last = 0, len(self.grid.length_scales) - 1
        self._load(first, last)
        weights = range(len(self.grid.species_weights))
        step = 1 if exhaustive else 2
        coarse = weights if exhaustive else sorted({0, len(weights) // 2, len(weights) - 1})
        self._evaluate([(rung, w) for rung in range(first, last + 1, step) for w in coarse])
        for prior in self.priors:
            self._climb(prior.name)
        for _ in range(MAX_EXTENSIONS):
            if not self._extend():
                break
        self._warn_at_edges()
        return self.best

    @property
    def best(self) -> Trial:
        """The best trial, with a safe prior where that is hardly worse."""
        return prefer_safe(self.trials, self.safe, self.measure)

    def _climb(self, prior: str) -> None:
        """Move to the best neighbour until none is better."""
        while True:
            position = self._position(prior)
            self._evaluate(self._neighbours(*position))
            if self._position(prior) == position:
                return

    def _position(self, prior: str) -> tuple[int, int]:
        scored = {point: t.score for point, trials in self._done.items() for t in trials if t.prior == prior}
        return max(scored, key=scored.__getitem__)

    def _neighbours(self, rung: int, w: int) -> list[tuple[int, int]]:
        steps = [(dr, dw) for dr in (-1, 0, 1) for dw in (-2, -1, 0, 1, 2)]
        points = [(rung + dr, w + dw) for dr, dw in steps]
        return [(r, v) for r, v in points if r in self._grams and 0 <= v < len(self.grid.species_weights)]

    def _extend(self) -> bool:
        """Add two length scales beyond the edge on which the best trial lies."""
        if self.grid.length_scale_fixed or self.grid.kernel == "linear":
            return False
        rungs = sorted(self._grams)
        best = self.best
        position = self._position(best.prior)
        if position[0] == rungs[0]:
            self._load(rungs[0] - 2, rungs[0] - 1)
        elif position[0] == rungs[-1]:
            self._load(rungs[-1] + 1, rungs[-1] + 2)
        else:
            return False
        self._climb(best.prior)
        return True

    def _scale(self, rung: int) -> float:
        """Absolute length scale of a rung; rungs beyond the grid continue it with ratio sqrt(2)."""
        scales = self.grid.length_scales
        unit = 1.0 if self.grid.length_scale_fixed else self.features.environments.features.shape[1] ** 0.5
        if 0 <= rung < len(scales):
            return scales[rung] * unit
        end, beyond = (scales[0], rung) if rung < 0 else (scales[-1], rung - len(scales) + 1)
        return end * unit / 2 ** (beyond / 2)

    def _load(self, first: int, last: int) -> None:
        """Gram matrices of the rungs first to last, in one pass where the scales form a ladder."""
        scales = [self._scale(rung) for rung in range(first, last + 1)]
        kernel = make_kernel(self.grid.kernel, scales[0])
        ladder = kernel.squares and all(abs(a / b - 2**0.5) < 1e-9 for a, b in itertools.pairwise(scales))
        passes = [(scales[0], len(scales))] if ladder else [(scale, 1) for scale in scales]
        rung = first
        for scale, rungs in passes:
            kernel = make_kernel(self.grid.kernel, scale)
            pair = gram(self.features.environments, None, kernel, self.grid.embedding, rungs, progress=self.progress)
            for level in range(rungs):
                self._grams[rung] = (pair, level)
                rung += 1

    def _evaluate(self, points: Sequence[tuple[int, int]]) -> None:
        for point in points:
            if point not in self._done:
                self._done[point] = self._ridge_paths(*point)
                self.trials += self._done[point]

    def _ridge_paths(self, rung: int, w: int) -> list[Trial]:
        """All priors and ridges from one factorisation."""
        pair, level = self._grams[rung]
        weight = self.grid.species_weights[w]
        K = pair.mix(level, weight)
        ridges = self._ridges(K, pair.noise[level])
        factor = RidgeFactor.of(K, self.noise)
        self.factorisations += 1
        return [self._trial(prior, factor, ridges, pair.length_scales[level], weight) for prior in self.priors]

    def _ridges(self, K: Float[Tensor, "structures structures"], noise: float) -> Float[Tensor, "ridges"]:
        """Absolute ridges that stand above the rounding of K."""
        ridges = torch.tensor(self.grid.ridges, dtype=torch.float64)
        unit = float(K.diagonal().mean() / self.noise.mean())
        floor = ridge_floor(len(K), noise)
        if self.grid.ridge_fixed:
            if float(ridges.min()) < floor * unit:
                self.warnings.append(
                    f"the ridge {float(ridges.min()):.1e} lies below the rounding of the kernel matrix "
                    f"({floor * unit:.1e}); predictions may be dominated by rounding"
                )
            return ridges
        kept = ridges[ridges >= floor]
        if not len(kept):
            raise MekrrError(
                f"no ridge of the grid stands above the rounding of the kernel matrix ({floor:.1e} relative to its "
                "diagonal); give a larger --ridge"
            )
        return kept * unit

    def _trial(
        self,
        prior: PriorCandidate,
        factor: RidgeFactor,
        ridges: Float[Tensor, "ridges"],
        length_scale: float,
        species_weight: float,
    ) -> Trial:
        loo = leave_one_out(factor, prior.target, prior.linear, ridges)
        evidence = log_evidence(factor, prior.residual, ridges)
        scores = score(self.grid.criterion, loo, evidence, self.noise)
        per_atom = self._mev_per_atom(loo)
        return Trial(
            self.features.layers,
            prior.name,
            length_scale,
            species_weight,
            tuple(ridges.tolist()),
            tuple(scores.tolist()),
            tuple(per_atom.square().mean(1).sqrt().tolist()),
            tuple(per_atom.abs().mean(1).tolist()),
            tuple(evidence.tolist()),
        )

    def _mev_per_atom(self, loo: LeaveOneOut) -> Float[Tensor, "ridges structures"]:
        return 1000 * loo.residuals / (self.n_atoms if self.grid.embedding == "sum" else 1.0)

    def _warn_at_edges(self) -> None:
        best = self.best
        if len(best.ridges) > 1 and best.best == len(best.ridges) - 1:
            self.warnings.append(
                f"the best ridge ({best.ridge:.1e}) is the largest tried: the data look like noise to these features"
            )
        rungs = sorted(self._grams)
        edge = len(rungs) > 1 and self._position(best.prior)[0] in (rungs[0], rungs[-1])
        if edge and not self.grid.length_scale_fixed and self.grid.kernel != "linear":
            self.warnings.append(
                f"the best length scale ({best.length_scale:.3g}) is on the edge of the range tried, "
                f"{self._scale(rungs[-1]):.3g} to {self._scale(rungs[0]):.3g}"
            )


def ridge_floor(n_structures: int, noise: float) -> float:
    """Smallest ridge, relative to the diagonal of K, that stands above rounding.

    Random entries of relative size `noise` have spectral norm noise * 2 sqrt(N); the eigensolver adds about N eps.
    """
    return 2 * n_structures**0.5 * noise + 4 * n_structures * torch.finfo(torch.float64).eps
