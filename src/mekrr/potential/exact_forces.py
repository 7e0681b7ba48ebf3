"""From the probed to the full solution: conjugate gradients on the normal equations of all force components.

One product with the full Gram matrix of forces takes a reverse product (forces of the current coefficients) and a
forward one (their transpose) a structure, whatever the number of atoms. The probed equations are the preconditioner;
started from zero, the first direction is the probed solution itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mekrr.backbones import Backbone
from mekrr.backbones.derivatives import directional_derivatives, edge_gradient, pull_back
from mekrr.data import Structure
from mekrr.features import Environments, Scaler, batches
from mekrr.features.extraction import BATCH_ATOMS
from mekrr.graph import GraphBatch, build_batch
from mekrr.kernels import Expansion, Inducing, PointwiseKernel, design_rows
from mekrr.typing import Float, Tensor

TOLERANCE = 0.15  # of the residual that the probed solution leaves; errors on real data hardly change below it
MAX_ITERATIONS = 8

Product = Callable[[Float[Tensor, "inducing"]], Float[Tensor, "inducing"]]


@dataclass(frozen=True)
class Iterations:
    """How the conjugate gradients went.

    Attributes:
        residuals: in the norm of the preconditioner, relative to the start, after each iteration.
        converged: whether the last is below the tolerance.
    """

    residuals: tuple[float, ...]
    converged: bool


@dataclass(frozen=True, eq=False)
class ForceGram:
    """The Gram matrix of all force components as a product with a vector.

    Attributes:
        structures: with forces; others are passed over.
        backbone: of the features.
        layers: chosen.
        scaler: standardisation.
        inducing: the basis.
        kernel: pointwise.
        species_weight: w.
        progress: called once a batch with the number of its structures.
    """

    structures: Sequence[Structure]
    backbone: Backbone
    layers: tuple[str, ...]
    scaler: Scaler
    inducing: Inducing
    kernel: PointwiseKernel
    species_weight: float
    progress: Callable[[int], None] | None = None

    def __call__(self, coefficients: Float[Tensor, "inducing"]) -> Float[Tensor, "inducing"]:
        """Sum over structures of weight * sum_a (dphi/dr_a) (dphi/dr_a . c)."""
        ones = torch.ones(len(coefficients), dtype=torch.float64)
        count = torch.arange(len(coefficients))
        u = self.inducing
        expansion = Expansion(
            u.features, u.species, count, coefficients, ones, ones, self.kernel, self.species_weight, "sum"
        )
        labelled = [s for s in self.structures if s.forces is not None]
        found = torch.zeros_like(coefficients)
        for batch in batches([len(s) for s in labelled], BATCH_ATOMS):
            found += self._batch([labelled[t] for t in batch], expansion)
            if self.progress is not None:
                self.progress(len(batch))
        return found

    def _batch(self, structures: list[Structure], expansion: Expansion) -> Float[Tensor, "inducing"]:
        backbone = self.backbone
        graph = build_batch([s.atoms for s in structures], backbone.cutoff, backbone.max_neighbours)
        graph = graph.to(backbone.device)
        x, gradient = self._gradient(graph, expansion)
        weights = torch.repeat_interleave(torch.tensor([s.weight for s in structures], dtype=torch.float64), x.n_atoms)
        direction = (gradient * weights.to(gradient)[:, None])[None]
        moved = directional_derivatives(backbone, graph, direction, None, self.layers).cpu().double()
        together = Environments(x.features, x.species, x.n_atoms.sum()[None])  # the derivative is a sum over atoms
        rows = design_rows(together, moved / self.scaler.scale, self.inducing, self.kernel)[0]
        return rows.mix(self.species_weight)[1]

    def _gradient(self, graph: GraphBatch, expansion: Expansion) -> tuple[Environments, Float[Tensor, "atoms 3"]]:
        """Standardised environments, and dE/dr of the expansion."""
        vectors = graph.edge_vectors().detach().requires_grad_(True)
        features = self.backbone.forward(graph, vectors, self.layers, energies=False).features
        x = self.scaler(Environments(features.detach().cpu(), graph.species.cpu(), graph.n_atoms.cpu()))
        slopes = expansion(x).slopes
        assert slopes is not None
        seed = self.scaler.pull_back(slopes).to(features)
        return x, -pull_back(graph, edge_gradient([features], [seed], vectors)).forces


def conjugate_gradients(
    product: Product,
    right_hand_side: Float[Tensor, "inducing"],
    precondition: Product,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
) -> tuple[Float[Tensor, "inducing"], Iterations]:
    """Preconditioned conjugate gradients from zero (Saad, Iterative Methods for Sparse Linear Systems, alg. 9.1).

    Args:
        product: with the symmetric positive definite matrix.
        right_hand_side: b.
        precondition: product with the inverse of the preconditioner.
        tolerance: of the residual in the preconditioner's norm, relative to that after the first iteration, which
            stands for the probed solution: the labels themselves are no measure, a large mean energy would rule it.
        max_iterations: at most.
    """
    x = torch.zeros_like(right_hand_side)
    r = right_hand_side.clone()
    z = precondition(r)
    p, rz = z.clone(), float(r @ z)
    start = rz
    residuals: list[float] = []
    while len(residuals) < max_iterations and rz > 0 and not _small(residuals, tolerance):
        Ap = product(p)
        step = rz / float(p @ Ap)
        x, r = x + step * p, r - step * Ap
        z = precondition(r)
        before, rz = rz, float(r @ z)
        p = z + (rz / before) * p
        residuals.append((max(rz, 0.0) / start) ** 0.5)
    return x, Iterations(tuple(residuals), rz <= 0 or _small(residuals, tolerance))


def _small(residuals: list[float], tolerance: float) -> bool:
    return len(residuals) > 1 and residuals[-1] <= tolerance * residuals[0]
