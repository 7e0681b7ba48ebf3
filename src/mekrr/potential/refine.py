"""A refined network: the tangent kernel's ridge problem, solved again and again about the network as it then is.

Gauss-Newton on the weights, with the ridge pulling to the pretrained ones. A step too long for the linearisation is
shortened by a second ridge that pulls to the present weights (Levenberg, Q. Appl. Math. 2, 164, 1944; Marquardt,
SIAM J. Appl. Math. 11, 431, 1963), until the objective of all labels falls. Leave-one-out at a point that was found
with the structure left out among the data would be too good to be true, so that some structures are held out: they say
when to stop and how wide deviations are, and only the last step sees them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from mekrr.backbones import Backbone, changed
from mekrr.data import Structure
from mekrr.errors import DataError
from mekrr.features import Environments, TangentSpace
from mekrr.kernels import Basis
from mekrr.potential.fitted import Fitted
from mekrr.potential.held_out import COVERAGE, held_out
from mekrr.potential.linearised import Linearised, common
from mekrr.potential.model import TangentPart
from mekrr.potential.network import Answers, Errors
from mekrr.potential.options import AUTO, FitOptions
from mekrr.potential.record import RefinementRecord, Round, SolverRecord
from mekrr.potential.training import StageProgress
from mekrr.prior import Prior
from mekrr.solve import Factor, NormalEquations, RowWeights
from mekrr.typing import Float, Tensor

PRIOR = "backbone"
MOST_ROUNDS = 12  # of "auto"
GAIN = 0.01  # "auto" stops when the log of the held-out error falls by less
FEWEST = 20  # structures: some are held out
HELD_SHARE, FEWEST_HELD, MOST_HELD = 8, 5, 40
# Both in units of the largest eigenvalue of the rows' Gram matrix, below 1e-9 of which there is rounding.
DAMPINGS = tuple(10.0**k for k in range(-9, 1))
FIRST_DAMPING = 4  # index
RIDGES = tuple(10.0 ** (-9 + 0.5 * k) for k in range(16))
# Angstrom^2, of forces: with less, a step follows energies, whose linearisation holds least far.
FORCE_WEIGHTS = (1e-3, 1e-2, 1e-1)


@dataclass(frozen=True, eq=False)
class Network:
    """A network at a point.

    Attributes:
        w: the point.
        backbone: with the weights of the point.
        prior: the shifts that go with it.
        errors: on the structures that the shifts are fitted to.
    """

    w: Float[Tensor, "width"]
    backbone: Backbone
    prior: Prior
    errors: Errors

    def errors_on(self, structures: Sequence[Structure]) -> Errors:
        """On labelled structures that the shifts do not know."""
        return Answers.of(self.backbone, structures).errors(self.prior, structures)


@dataclass(frozen=True, eq=False)
class Refiner:
    """What stays the same from round to round.

    Attributes:
        backbone: the pretrained network.
        space: of the changes of its weights.
        options: of the fit.
        weights: of force and strain rows.
        ridge: chosen by leave-one-out at the pretrained weights.
    """

    backbone: Backbone
    space: TangentSpace
    options: FitOptions
    weights: RowWeights
    ridge: float

    def network(self, w: Float[Tensor, "width"], structures: Sequence[Structure]) -> Network:
        """At a point, with shifts fitted to structures."""
        there = self.backbone if not bool(w.any()) else changed(self.backbone, common(self.space, w))
        answers = Answers.of(there, structures)
        prior = answers.shifts(structures)
        return Network(w, there, prior, answers.errors(prior, structures))

    def linearise(self, network: Network, structures: Sequence[Structure], seed: int) -> Linearised:
        """Rows at a network's point, along other directions for another seed."""
        return Linearised.at(
            network.w, network.backbone, structures, self.space, self.options.probes, self.options.seed + seed
        )

    def objective(self, network: Network) -> float:
        """Of the ridge problem, with the network itself in place of its linearisation."""
        return network.errors.objective(self.weights) + self.ridge * float(network.w.square().sum())

    def round(self, network: Network, damping: float | None, held_out: Errors) -> Round:
        """For the record."""
        return Round(float(network.w.norm()), damping, self.objective(network), held_out.summary())

    def step(
        self, network: Network, here: Linearised, structures: Sequence[Structure], damping: int
    ) -> tuple[Network, int]:
        """The best step over dampings, from the last one downhill; the same network where none lowers the objective.

        Returns:
            The network, and the index of its damping.
        """
        factor = here.factor(self.weights)
        before = self.objective(network)
        unit = float(factor.eigenvalues.max()) / self.ridge
        tried: dict[int, tuple[float, Network]] = {}

        def attempt(i: int) -> float:
            if not 0 <= i < len(DAMPINGS):
                return torch.inf
            if i not in tried:
                w = here.solve(factor, self.weights, self.ridge, unit * DAMPINGS[i], PRIOR)
                there = self.network(w, structures)
                tried[i] = self.objective(there), there
            return tried[i][0]

        at = damping
        while attempt(at) >= before and at + 1 < len(DAMPINGS):
            at += 1
        way = min((-1, 1), key=lambda step: attempt(at + step))
        while attempt(at + way) < attempt(at):
            at += way
        found = tried[at][1] if attempt(at) < before else network
        return found, at


def enough_to_refine(structures: Sequence[Structure]) -> None:
    """Some are held out.

    Raises:
        DataError: for too few structures.
    """
    if len(structures) < FEWEST:
        raise DataError(f"--refine holds some structures out and needs {FEWEST} at least; there are {len(structures)}")


def refine(
    structures: Sequence[Structure],
    fitted: Fitted,
    backbone: Backbone,
    space: TangentSpace,
    options: FitOptions,
    progress: StageProgress | None = None,
) -> Fitted:
    """The refined network as a potential without a kernel part, with the tangent kernel's posterior as deviations.

    Args:
        structures: labelled, as fitted.
        fitted: the potential on the pretrained network; its record is kept.
        backbone: the pretrained network.
        space: of the changes of its weights.
        options: of the fit.
        progress: called with rounds done and rounds in all.
    """
    count = min(MOST_HELD, max(FEWEST_HELD, len(structures) // HELD_SHARE))
    out = held_out(structures, options.seed, count)
    learning, held = [s for t, s in enumerate(structures) if t not in out], [structures[t] for t in out]
    refiner, start, here = _start(learning, backbone, space, options)
    automatic = options.refine == AUTO
    rounds = MOST_ROUNDS if automatic else int(options.refine)
    network, damping = start, FIRST_DAMPING
    errors = start.errors_on(held)
    done = [refiner.round(start, None, errors)]
    for k in range(rounds):
        if progress is not None:
            progress("refine", k, rounds + 1)
        here = here if k == 0 else refiner.linearise(network, learning, k)
        moved, damping = refiner.step(network, here, learning, damping)
        found = moved.errors_on(held)
        done.append(refiner.round(moved, DAMPINGS[damping], found))
        if moved is network or (automatic and found.score < errors.score):
            break
        gained, network, errors = found.score - errors.score, moved, found
        if automatic and gained < GAIN:
            break
    last = refiner.linearise(network, structures, rounds)
    final, _ = refiner.step(refiner.network(network.w, structures), last, structures, damping)
    here = refiner.linearise(final, structures, rounds + 1)  # deviations are of the network as it is in the end
    factor = here.factor(refiner.weights)
    if progress is not None:
        progress("refine", rounds + 1, rounds + 1)
    amplitudes = _amplitudes(here, factor, refiner.weights, refiner.ridge, out, errors)
    record = RefinementRecord(refiner.ridge, refiner.weights.force, tuple(done), len(held), errors.summary())
    return _as_fitted(fitted, final, refiner, here, factor, amplitudes, record)


def _start(
    learning: Sequence[Structure], backbone: Backbone, space: TangentSpace, options: FitOptions
) -> tuple[Refiner, Network, Linearised]:
    """Ridge and force weight by leave-one-out at the pretrained weights, where it is honest."""
    w = torch.zeros(space.width, dtype=torch.float64)
    here = Linearised.at(w, backbone, learning, space, options.probes, options.seed)
    given = options.force_weight != AUTO
    best: tuple[float, float, float] | None = None
    for force_weight in (float(options.force_weight),) if given else FORCE_WEIGHTS:
        weights = RowWeights(force_weight, options.stress_weight)
        factor = here.factor(weights)
        ridges = torch.tensor(RIDGES, dtype=torch.float64) * float(factor.eigenvalues.max())
        _, scores = here.left_out(factor, weights, ridges, PRIOR)
        at = int(scores.argmax())
        if best is None or float(scores[at]) > best[0]:
            best = float(scores[at]), force_weight, float(ridges[at])
    assert best is not None
    refiner = Refiner(backbone, space, options, RowWeights(best[1], options.stress_weight), best[2])
    return refiner, refiner.network(w, learning), here


def _amplitudes(
    here: Linearised, factor: Factor, weights: RowWeights, ridge: float, held: Sequence[int], errors: Errors
) -> tuple[float, float | None]:
    """Scales of the variances, so that 68% of the held-out errors lie within one deviation.

    The errors are those of the network that had not seen the held-out structures; the variances, of the rows at its
    weights, those of leaving each of them out.
    """
    chosen = torch.tensor(held)
    residuals, _ = here.left_out(factor, weights, torch.tensor([ridge], dtype=torch.float64), PRIOR)
    energy = (errors.energy.square() / residuals.energy_variance[0, chosen]).sqrt()
    # mean over probes of squared error over variance, the error of the rows replaced by that of all components
    force = residuals.force_ratio[0, 0, chosen] * errors.force / residuals.force[0, 0, chosen].square()
    known = force[torch.isfinite(force)]
    return float(torch.quantile(energy, COVERAGE)) ** 2, float(known.median()) if len(known) else None


def _as_fitted(
    fitted: Fitted,
    final: Network,
    refiner: Refiner,
    here: Linearised,
    factor: Factor,
    amplitudes: tuple[float, float | None],
    refinement: RefinementRecord,
) -> Fitted:
    """A potential of the tangent kernel alone, whose mean is in the network's weights already."""
    raw = _one_each(fitted.model.raw)
    features = Basis.of(fitted.scaler(raw), fitted.model.kernel)
    none = torch.zeros(len(refiner.space.species) + 1, refiner.space.width, dtype=torch.float64)
    model = replace(
        fitted.model,
        raw=raw,
        coefficients=torch.zeros(len(features), dtype=torch.float64),
        equations=_beside(factor.equations, len(features)),
        ridge=refiner.ridge,
        weights=refiner.weights,
        jitter=features.jitter,
        energy_amplitude=amplitudes[0],
        force_amplitude=amplitudes[1],
        tangent=TangentPart(refiner.space, here.basis, 1.0, none),
        anchors=None,
    )
    solver = SolverRecord.of_model(model, fitted.record.solver.forces)
    record = replace(fitted.record, solver=solver, refinement=refinement)
    assert here.data.extraction.energies is not None
    labels = replace(fitted.labels, backbone_energies=here.data.extraction.energies)
    # the baseline stays what it was: the pretrained network with shifts
    return replace(fitted, model=model, labels=labels, prior=final.prior, refined=final.w, record=record)


def _one_each(raw: Environments) -> Environments:
    """One environment of each element: the part on features has no share, and must have a basis."""
    first = [int((raw.species == z).nonzero()[0]) for z in torch.unique(raw.species)]
    return Environments(raw.features[first], raw.species[first], torch.ones(len(first), dtype=raw.n_atoms.dtype))


def _beside(equations: NormalEquations, features: int) -> NormalEquations:
    """The equations of the tangent kernel with zeros for the part on features, and nothing left to learn."""
    pad = (features, 0, features, 0)
    gram, gram_forces = (torch.nn.functional.pad(part, pad) for part in (equations.gram, equations.gram_forces))
    none = torch.zeros(features + len(equations.gram), equations.moments.shape[1], dtype=torch.float64)
    return NormalEquations(
        gram, gram_forces, none, none, equations.n_structures, equations.n_force_rows, equations.n_force_components
    )


def refined_network(pretrained: Backbone, fitted: Fitted) -> Backbone:
    """The network that a refined potential is on, from the pretrained one."""
    assert fitted.refined is not None
    assert fitted.model.tangent is not None
    return changed(pretrained, common(fitted.model.tangent.space, fitted.refined))
