"""The leave-one-out surface of one choice of features, explored coarse to fine."""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from mekrr.errors import MekrrError
from mekrr.features import Environments
from mekrr.kernels import Basis, Design, StructureKernel, energy_noise, make_designs, make_kernel
from mekrr.solve import Factor, NormalEquations, Observation, RowWeights, leave_one_structure_out
from mekrr.threads import side_by_side
from mekrr.tune.criteria import Judged
from mekrr.tune.mixture import TangentDesign
from mekrr.tune.observations import observation
from mekrr.tune.problem import SearchProblem, Size
from mekrr.tune.safety import prefer_safe
from mekrr.tune.trial import Trial, best_of, make_trials
from mekrr.typing import Float, Int, Tensor

MAX_EXTENSIONS = 3  # each adds a factor of 2 to the range of length scales
AT_ONCE = 8  # points; each holds the rows of all structures
FINE = 10  # values; a longer axis is walked two values at a time before it is walked one by one


class Point(NamedTuple):
    """A position on each axis. Length scales count down from the longest; beyond the grid they go on either way."""

    length_scale: int = 0
    species_weight: int = 0
    force_weight: int = 0
    tangent_share: int = 0


class Surface:
    """Trials over the axes for several priors, each evaluated once.

    Args:
        problem: values and candidates.
        layers: one choice of them.
        chosen: structures.
        size: of the basis.
        seed: of the inducing environments.
    """

    def __init__(
        self, problem: SearchProblem, layers: tuple[str, ...], chosen: Int[Tensor, "chosen"], size: Size, seed: int
    ) -> None:
        self.problem, self.grid, self.layers = problem, problem.grid, layers
        self.priors = problem.priors(chosen)
        self.columns, self.weights = problem.columns[chosen], problem.weights[chosen]
        observed = problem.observe(layers, chosen)
        self.x = observed.environments
        self.derivatives = observed.derivatives
        self.n_atoms = self.x.n_atoms.double()
        self.energy_noise = energy_noise(self.n_atoms, self.grid.embedding)
        self.centres = centres_of(problem, self.x, size, seed)
        mixed = self.grid.tangent_shares != (0.0,)
        self.tangent = TangentDesign.of(observed, size.tangent_rows, seed) if mixed else None
        self.scales = dict(enumerate(self.grid.scales(self.x.features)))
        self.trials: list[Trial] = []
        self.factorisations = 0
        self._designs: dict[int, Design] = {}
        self._floors: dict[int, float] = {}
        self._smallest: dict[tuple[float, float], float] = {}
        self._done: dict[Point, list[Trial]] = {}
        self._load(range(len(self.scales)))

    def screen(self) -> list[Trial]:
        """The best trial of each prior on the coarse grid, with the ends of the species weights."""
        rungs, species_weights, force_weights = self._coarse()
        self._evaluate(_points(rungs, sorted({species_weights[0], species_weights[-1]}), force_weights))
        return [self._best(prior.name) for prior in self.priors]

    def explore(self, whole: bool = False) -> None:
        """Evaluate a coarse grid, then go uphill from the best of each prior; or evaluate the whole grid.

        While the best trial lies on the edge of the length scales, there are more of them. From the best of each prior
        all shorter ones are evaluated where the shortest that is hardly worse will be taken.
        """
        axes = (sorted(self.scales), range(len(self.grid.species_weights)), range(len(self.grid.force_weights)))
        self._evaluate(_points(*(axes if whole else self._coarse())))
        for prior in self.priors:
            self._climb(prior.name)
        for _ in range(MAX_EXTENSIONS if self.grid.extends and self.problem.plan.extends else 0):
            if not self._extend():
                break
        for prior in self.priors if self.problem.plan.short_margin else ():
            at = self._position(prior.name)
            self._evaluate(at._replace(length_scale=r) for r in self.scales if r > at.length_scale)

    def mix(self, start: Trial) -> None:
        """Evaluate a trial's values without the tangent kernel and with half of it, then go uphill from there.

        With half of it also at the ends and the middle of the force weights: the trial's own says little about the best
        one beside a tangent kernel, and the valley between them may have a rise.
        """
        grid = self.grid
        at = Point(
            0, grid.species_weights.index(start.species_weight), grid.force_weights.index(start.force_weight or 0.0)
        )
        half = at._replace(tangent_share=len(grid.tangent_shares) // 2)
        self._evaluate([at._replace(tangent_share=0), half])
        self._evaluate(half._replace(force_weight=k) for k in _every_other(len(grid.force_weights)))
        for prior in self.priors:
            self._climb(prior.name)

    def draw_in(self, prior: str, margin: float) -> None:
        """Look for trials of shorter reach that are not worse than the best by the margin.

        First the largest species weight, by bisection, then more and more of the tangent kernel, then shorter and
        shorter length scales, each also with one step more of the tangent kernel.
        """
        at = self._position(prior)
        enough = self._score(at, prior) - margin
        low, high = at.species_weight, len(self.grid.species_weights)
        while high - low > 1:
            middle = high - 1 if high == len(self.grid.species_weights) else (low + high) // 2
            fits = self._evaluated(at._replace(species_weight=middle), prior) > enough
            low, high = (middle, high) if fits else (low, middle)
        at = at._replace(species_weight=low)
        while (more := self._more_tangent(at)) != at and self._evaluated(more, prior) > enough:
            at = more
        for rung in sorted(r for r in self.scales if r > at.length_scale):
            shorter = at._replace(length_scale=rung)
            both = shorter, self._more_tangent(shorter)
            self._evaluate(both)
            at = max(both, key=lambda point: self._score(point, prior))
            if self._score(at, prior) <= enough:
                break

    def _more_tangent(self, at: Point) -> Point:
        return at._replace(tangent_share=min(at.tangent_share + 1, len(self.grid.tangent_shares) - 1))

    def trial(self, prior: str) -> Trial:
        """That of one prior where nothing but the ridge is left to choose."""
        self._evaluate([Point()])
        return next(trial for trial in self.trials if trial.prior == prior)

    def edges(self, best: Trial) -> list[str]:
        """Warnings when the best values lie where the range tried ends."""
        found = []
        smallest = self._smallest[best.length_scale, best.species_weight]
        if self.grid.ridge_fixed and best.ridges[0] < smallest:
            found.append(
                f"the ridge {best.ridges[0]:.1e} lies below the rounding of the kernel matrix ({smallest:.1e}); "
                "predictions may be dominated by rounding"
            )
        if len(best.ridges) > 1 and best.best == len(best.ridges) - 1:
            found.append(
                f"the best ridge ({best.ridge:.1e}) is the largest tried: the data look like noise to these features"
            )
        scales = sorted(self.scales.values())
        # a shorter scale than the best one may have been taken on purpose; what counts is where the optimum lies
        optimum = best_of([t for t in self.trials if t.prior == best.prior]).length_scale
        if self.grid.extends and optimum == best.length_scale and optimum in (scales[0], scales[-1]):
            found.append(
                f"the best length scale ({best.length_scale:.3g}) is on the edge of the range tried, "
                f"{scales[0]:.3g} to {scales[-1]:.3g}"
            )
        return found

    def _coarse(self) -> tuple[list[int], list[int], list[int]]:
        counts = len(self.scales), len(self.grid.species_weights), len(self.grid.force_weights)
        return tuple(_every_other(n) for n in counts)  # type: ignore[return-value]

    def _climb(self, prior: str) -> None:
        """Move to the best neighbour until none is better: in long steps first, then in short ones."""
        for step in (2, 1) if len(self.grid.species_weights) > FINE else (1,):
            while True:
                position = self._position(prior)
                self._evaluate(self._neighbours(position, step))
                if self._position(prior) == position:
                    break

    def _best(self, prior: str) -> Trial:
        return best_of([trial for trial in self.trials if trial.prior == prior])

    def _position(self, prior: str) -> Point:
        scored = {point: t.score for point, trials in self._done.items() for t in trials if t.prior == prior}
        return max(scored, key=scored.__getitem__)

    def _evaluated(self, at: Point, prior: str) -> float:
        self._evaluate([at])
        return self._score(at, prior)

    def _score(self, at: Point, prior: str) -> float:
        return next(trial.score for trial in self._done[at] if trial.prior == prior)

    def _neighbours(self, at: Point, step: int) -> list[Point]:
        """One axis at a time; `step` is that of the species weights."""
        moves = {"length_scale": 1, "species_weight": step, "force_weight": 1, "tangent_share": 1}
        points = [
            at._replace(**{name: getattr(at, name) + sign * length})
            for name, length in moves.items()
            for sign in (-1, 1)
        ]
        return [
            p
            for p in points
            if p.length_scale in self.scales
            and 0 <= p.species_weight < len(self.grid.species_weights)
            and 0 <= p.force_weight < len(self.grid.force_weights)
            and 0 <= p.tangent_share < len(self.grid.tangent_shares)
        ]

    def _extend(self) -> bool:
        """Add two length scales beyond the edge on which the best trial lies."""
        safe = {prior.name for prior in self.priors if prior.safe}
        prior = prefer_safe(self.trials, safe).prior
        first, last = min(self.scales), max(self.scales)
        end = self._position(prior).length_scale
        if end not in (first, last):
            return False
        beyond = (end - 2, end - 1) if end == first else (end + 1, end + 2)
        for rung in beyond:
            self.scales[rung] = self.scales[end] / 2 ** ((rung - end) / 2)
        self._load(beyond)
        self._climb(prior)
        return True

    def _load(self, rungs: Sequence[int]) -> None:
        """Designs of some length scales, in one pass where they form a ladder."""
        derivatives = [None if d is None else d.features for d in self.derivatives]
        grid, scales = self.grid, tuple(self.scales[rung] for rung in rungs)
        found = make_designs(
            self.x, derivatives, self.centres, grid.kernel, scales, grid.embedding, self.problem.progress
        )
        for rung, design in zip(rungs, found, strict=True):
            self._designs[rung] = design
            kernel = make_kernel(grid.kernel, design.length_scale)
            self._floors[rung] = self.problem.plan.floor(self.x, kernel, grid.embedding)

    def _evaluate(self, points: Iterable[Point]) -> None:
        """Those that are new, several at once: matrices are small, and points know nothing of each other."""
        new = [point for point in dict.fromkeys(points) if point not in self._done]
        if self.tangent is not None:
            side_by_side(self.tangent.whiten, sorted({self._species_weight(point) for point in new}), AT_ONCE)
        on_cpu = self.n_atoms.device.type == "cpu"
        for point, (smallest, trials) in zip(
            new, side_by_side(self._ridge_paths, new, AT_ONCE if on_cpu else 1), strict=True
        ):
            self.factorisations += 1
            self._smallest[self._designs[point.length_scale].length_scale, self._species_weight(point)] = smallest
            self._done[point] = trials
            self.trials += trials

    def _species_weight(self, point: Point) -> float:
        return self.grid.species_weights[point.species_weight]

    def _ridge_paths(self, point: Point) -> tuple[float, list[Trial]]:
        """The smallest ridge above the rounding of K, and all priors and ridges from one factorisation."""
        design, w = self._designs[point.length_scale], self._species_weight(point)
        weights = RowWeights(self.grid.force_weights[point.force_weight], self.problem.stress_weight)
        share = self.grid.tangent_shares[point.tangent_share]
        observations, K, amplitude = self._observations(design, w, share)
        factor = Factor.of(NormalEquations.of(observations, weights))
        floor = self._floors[point.length_scale]
        smallest = floor * ridge_unit(K, self.n_atoms, self.grid.embedding) if floor else 0.0
        ridges = self._ridges(smallest)
        coefficients = torch.stack([prior.coefficients for prior in self.priors])
        without = torch.stack([prior.without for prior in self.priors])
        found = leave_one_structure_out(factor, observations, weights, coefficients, without, ridges)
        noise = self.energy_noise / self.weights
        return smallest, make_trials(
            self.layers,
            self.priors,
            found,
            Judged.of(found, factor, coefficients, ridges, noise),
            self.n_atoms,
            ridges,
            self.grid.criterion,
            (design.length_scale, w, weights.force),
            (share, amplitude),
        )

    def _observations(
        self, design: Design, w: float, share: float
    ) -> tuple[list[Observation], Float[Tensor, "groups groups"], float]:
        """Of all structures, the covariance of the basis on features, and the tangent kernel's amplitude."""
        kernel = StructureKernel.weighted(make_kernel(self.grid.kernel, design.length_scale), w, self.grid.embedding)
        component = kernel.components[0]
        K = component.mix(design.gram)
        basis = Basis.of(self.centres, kernel, K, relative=self.problem.plan.jitter)
        rows = [component.mix(split) for split in design.rows]
        whitened: Sequence[Tensor] = basis.whiten(torch.cat(rows)).split([len(phi) for phi in rows])
        amplitude = 1.0
        if self.tangent is not None:
            whitened, amplitude = self.tangent.beside(whitened, self.derivatives, self.n_atoms, w, share)
        n_atoms, weights, noise = self.x.n_atoms.tolist(), self.weights.tolist(), self.energy_noise.tolist()
        parts = zip(whitened, self.columns, self.derivatives, n_atoms, weights, noise, strict=True)
        return [observation(*part) for part in parts], K, amplitude

    def _ridges(self, smallest: float) -> Float[Tensor, "ridges"]:
        """The user's, or those that stand above the rounding of K."""
        ridges = torch.tensor(self.grid.ridges, dtype=torch.float64, device=self.n_atoms.device)
        kept = ridges if self.grid.ridge_fixed else ridges[ridges >= smallest]
        if not len(kept):
            raise MekrrError(
                f"no ridge of those tried stands above the rounding of the kernel matrix ({smallest:.1e}); give a "
                "larger --ridge"
            )
        return kept


def ridge_unit(
    K: Float[Tensor, "structures structures"], n_atoms: Float[Tensor, "structures"], embedding: str
) -> float:
    """Mean variance of an energy over its mean noise at ridge 1: what a relative ridge is multiplied by."""
    if embedding == "mean":
        return float(K.diagonal().mean())  # n^2 K over n^2
    return float(K.diagonal().mean() / n_atoms.mean())


def centres_of(problem: SearchProblem, x: Environments, size: Size, seed: int) -> Environments:
    """What spans the basis: x itself, or inducing environments chosen from it."""
    groups = None if size.groups is None else min(size.groups, problem.groups or size.groups)
    rows = problem.plan.centres(x, groups, seed)
    if rows is None:
        return x
    return Environments(x.features[rows], x.species[rows], torch.ones_like(rows))


def _points(rungs: Iterable[int], species_weights: Iterable[int], force_weights: Iterable[int]) -> list[Point]:
    return [Point(*each) for each in itertools.product(rungs, species_weights, force_weights)]


def _every_other(n: int) -> list[int]:
    """Every other value of a short axis, the ends and the middle of a longer one, everything of two."""
    if n <= 2:
        return list(range(n))
    return list(range(1, n, 2)) if n <= FINE else sorted({0, n // 2, n - 1})
