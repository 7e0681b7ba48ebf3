"""From the probed to the full solution: conjugate gradients on the normal equations of all force components.

One product with the full Gram matrix of forces takes a reverse product (forces of the current coefficients) and a
forward one (their transpose) a structure, whatever the number of atoms. The same equations with probed rows are the
preconditioner; started from zero, the first direction is their solution.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mekrr.backbones import Backbone, WeightChange
from mekrr.data import Structure
from mekrr.features import BATCH_ATOMS, Environments, Pass, Scaler, TangentSpace, batches, look
from mekrr.graph import GraphBatch, build_batch
from mekrr.kernels import JointBasis
from mekrr.linalg import add_diagonal, cholesky_with_jitter
from mekrr.potential.training import StageProgress
from mekrr.shards import HERE, Shards
from mekrr.solve import TOLERANCE, Iterations, NormalEquations, conjugate_gradients
from mekrr.typing import Float, Tensor

PRECONDITIONER_RIDGE = 0.3  # of the probed ridge: between it, which damps the iteration, and the full one
GRAPH_BYTES = 500_000_000  # of graphs kept from one iteration to the next


@dataclass(frozen=True, eq=False)
class Point:
    """Coefficients c as the product needs them.

    Attributes:
        coefficients: of the functions on features.
        change: of the weights, the tangent part; None without one.
    """

    coefficients: Float[Tensor, "groups"]
    change: WeightChange | None


@dataclass(frozen=True, eq=False)
class ForceProduct:
    """Sum over a shard of weight * sum_a (dpsi/dr_a) (dpsi/dr_a . c): the Gram matrix of all force components times c.

    Attributes:
        structures: all of them; a shard is indices of those with forces.
        backbone: of the features.
        layers: chosen.
        scaler: standardisation.
        basis: chosen.
        space: of the basis' tangent part; None without one.
        graphs: those built before, by their shard.
    """

    structures: Sequence[Structure]
    backbone: Backbone
    layers: tuple[str, ...]
    scaler: Scaler
    basis: JointBasis
    space: TangentSpace | None = None
    graphs: dict[tuple[int, ...], GraphBatch] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """What a worker needs: no labels, no graphs, and of the basis the functions on features."""
        bare = [Structure(s.atoms, weight=s.weight) for s in self.structures]
        return vars(self) | {"structures": bare, "basis": JointBasis(self.basis.features), "graphs": {}}

    def point(self, whitened: Float[Tensor, "groups"]) -> Point:
        """Whitened coefficients, made ready where the whole basis is."""
        weights = self.basis.weights(whitened)
        change = None if weights is None or self.space is None else self.space.change(weights)
        return Point(self.basis.coefficients(whitened), change)

    def __call__(self, shard: Sequence[int], point: Point) -> "Products":
        """Of its structures."""
        chosen = [self.structures[t] for t in shard]
        change, c = point.change, point.coefficients
        seen = look(
            self._graph(shard), self.backbone, self.layers, energies=change is not None, gradients=True, change=change
        )
        x = self.scaler(seen.environments.to(c.device))
        slopes = self.basis.features.function(c)(x).slopes
        assert slopes is not None
        # g = dE/dr of the function, then the derivative of every basis function along w g: sum_a dpsi_a (w dpsi_a . c)
        gradient = -seen.pull_back(seen.edge_gradient(self.scaler.pull_back(slopes))).forces
        weights = torch.tensor([s.weight for s in chosen], dtype=gradient.dtype, device=gradient.device)
        direction = gradient * weights.repeat_interleave(seen.graph.n_atoms)[:, None]
        features, T = self._along(seen, direction)
        moved = self.scaler.derivative(features.to(x.features.device))
        together = Environments(x.features, x.species, x.n_atoms.sum()[None])  # the derivative is a sum over atoms
        return Products(self.basis.features.rows(together, moved)[1], None if T is None else T.to(c))

    def _along(self, seen: Pass, direction: Tensor) -> tuple[Tensor, Tensor | None]:
        """Derivatives of the features along one direction, and of T, summed over structures."""
        if self.space is None:
            return seen.along(direction[None]), None
        graph = seen.graph
        (_, T, features), *_ = self.space.along(self.backbone, graph, direction[None], None, self.layers, 1)
        return features, T[0].sum(0)[:-1]

    def _graph(self, shard: Sequence[int]) -> GraphBatch:
        """Kept from one iteration to the next while there is room."""
        found = self.graphs.get(tuple(shard))
        if found is None:
            chosen = [self.structures[t].atoms for t in shard]
            found = build_batch(chosen, self.backbone.cutoff, self.backbone.max_neighbours)
            if sum(graph.nbytes for graph in self.graphs.values()) + found.nbytes < GRAPH_BYTES:
                self.graphs[tuple(shard)] = found
        return found


@dataclass(frozen=True, eq=False)
class Products:
    """Sums of derivative rows, those of the tangent kernel as T: products with its basis are made once, at the end.

    Attributes:
        features: whitened, of the basis on features.
        T: (elements, width); None without a tangent kernel.
    """

    features: Float[Tensor, "groups"]
    T: Float[Tensor, "elements width"] | None

    def __add__(self, other: "Products") -> "Products":
        T = None if self.T is None or other.T is None else self.T + other.T
        return Products(self.features + other.features, T)

    def whitened(self, basis: JointBasis) -> Float[Tensor, "all_groups"]:
        """In the coordinates of both bases."""
        return basis.join(self.features[None], None if self.T is None else self.T[None])[0]


@dataclass(frozen=True, eq=False)
class Subset:
    """What is solved instead of everything.

    Attributes:
        structures: indices of those to learn from.
        functions: of the basis that may be used, the first ones.
        tolerance: of the iteration.
    """

    structures: Sequence[int]
    functions: int
    tolerance: float


def full_solution(
    task: ForceProduct,
    equations: NormalEquations,
    force_weight: float,
    prior: Float[Tensor, "columns"],
    ridge: float,
    progress: StageProgress | None,
    who: Shards = HERE,
    subset: Subset | None = None,
) -> tuple[Float[Tensor, "groups"], Iterations]:
    """Whitened coefficients that solve the equations of all force components, and how the iteration went.

    A probed row stands for 1 / probed_share components and carries the noise of one, so leave-one-out, which sees
    probed rows, chooses a ridge that is larger by that factor than the equations of all force components want. Energies
    and strains are the same in both and keep their weight beside leave-one-out's ridge:

        (share A_e + A_f + share ridge) c = share b_e + b_f

    Args:
        task: the product with the Gram matrix of all force components.
        equations: the probed ones, of the same structures.
        force_weight: Angstrom^2.
        prior: combination of the columns that is fitted.
        ridge: of the probed equations.
        progress: called with the shards gone through.
        who: computes the products.
        subset: of structures and functions, whose equations are given; all by default.
    """
    structures, k = task.structures, None if subset is None else subset.functions
    share = equations.probed_share
    chosen = range(len(structures)) if subset is None else subset.structures
    labelled = [t for t in chosen if structures[t].forces is not None]
    groups = batches([len(structures[t]) for t in labelled], BATCH_ATOMS)
    shards = [[labelled[i] for i in group] for group in groups]
    before = 0

    def tell(done: int) -> None:
        if progress is not None:
            progress("exact forces" if subset is None else "rehearsal", before + done, 0)

    def product(c: Float[Tensor, "groups"]) -> Float[Tensor, "groups"]:
        nonlocal before
        total: Products = who.sum(task, shards, "exact forces", task.point(c), tell)
        before += len(shards)
        return share * (equations.gram @ c + ridge * c) + force_weight * total.whitened(task.basis)

    probed = (share * equations.gram + equations.gram_forces)[:k, :k]
    L, _ = cholesky_with_jitter(add_diagonal(probed, PRECONDITIONER_RIDGE * ridge), torch.finfo(probed.dtype).eps)

    def precondition(r: Float[Tensor, "groups"]) -> Float[Tensor, "groups"]:
        found = torch.zeros_like(r)  # zero but for the functions in use: so are all directions, and the solution
        found[:k] = torch.cholesky_solve(r[:k, None], L)[:, 0]
        return found

    b = (share * equations.moments + equations.moments_forces) @ prior
    tolerance = TOLERANCE if subset is None else subset.tolerance
    return conjugate_gradients(product, b, precondition, tolerance)
