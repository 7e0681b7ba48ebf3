"""The tangent kernel of a network, and a basis of it and a kernel on features together.

The gradient of a network's energy in its weights, described by one vector T_z for each element z of a structure
(features.tangent), makes a kernel mean embedding with the pointwise kernel (a . a')(g . g') at each linear map, under
the species weight as it stands:

    K_T(x, y) = (1 - w) (sum_z T_z(x)) . (sum_z T_z(y)) + w sum_z T_z(x) . T_z(y).

It is the neural tangent kernel (Jacot, Gabriel, Hongler, NeurIPS 2018, arXiv 1806.07572) of the linear maps, for
weights of which a share 1 - w is common to all elements. Derivatives along a direction have the same T, derived. Rows
of training structures are the basis: all of them, where they are not too many, because its spectrum falls slowly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from mekrr.features.environments import Environments
from mekrr.kernels.basis import Basis, whiten
from mekrr.kernels.embedding import Split
from mekrr.kernels.structure import StructureKernel
from mekrr.linalg import cholesky_with_jitter
from mekrr.typing import Float, Int, Tensor

# Rows carry float32 rounding of the network, relative to their own size: nothing below it means anything.
JITTER = 1e-9
LARGEST_JITTER = 1e-5
KEPT_BYTES = 1_000_000_000
STRIPS = 8  # of a symmetric product: each is multiplied out from the diagonal down


def tangent_dots(x: Float[Tensor, "rows elements width"], y: Float[Tensor, "columns known width"]) -> Split:
    """Products of T of all pairs, elements summed before (all pairs) and after (same species); float64."""
    return Split(_shared(x, y), _own(x, y))


def weighted_dots(
    x: Float[Tensor, "rows elements width"], y: Float[Tensor, "columns known width"], species_weight: float
) -> Float[Tensor, "rows columns"]:
    """The same, mixed: what has no weight is not multiplied out."""
    if species_weight == 0.0:
        return _shared(x, y)
    return _own(x, y) if species_weight == 1.0 else mix(tangent_dots(x, y), species_weight)


def _shared(x: Float[Tensor, "rows elements width"], y: Float[Tensor, "columns known width"]) -> Tensor:
    if x is y:
        return _gram(x.double().sum(1))
    return x.double().sum(1) @ y.double().sum(1).T


def _own(x: Float[Tensor, "rows elements width"], y: Float[Tensor, "columns known width"]) -> Tensor:
    elements = min(x.shape[1], y.shape[1])  # the last of x may stand for elements that y does not have
    if x is y:
        own = [_gram(x[:, z].double()) for z in range(elements)]
    else:
        own = [x[:, z].double() @ y[:, z].double().T for z in range(elements)]
    return sum(own[1:], own[0])


def _gram(x: Float[Tensor, "rows width"]) -> Float[Tensor, "rows rows"]:
    """The product x x', of which little more than half is multiplied out."""
    found = x.new_empty(len(x), len(x))
    step = -(-len(x) // STRIPS)
    for start in range(0, len(x), max(step, 1)):
        found[start:, start : start + step] = x[start:] @ x[start : start + step].T
    return found.tril() + found.tril(-1).T


@dataclass(frozen=True, eq=False)
class TangentBasis:
    """Rows of training structures as functions, and their whitening.

    Attributes:
        rows_of: T of energies or derivatives that span the basis, in half precision, each scaled to a largest entry
            of 1: what is spanned matters, not the size.
        amplitude: of the kernel.
        species_weight: w.
        L: Cholesky factor of the functions' covariance at amplitude 1.
    """

    rows_of: Float[Tensor, "functions known width"]
    amplitude: float
    species_weight: float
    L: Float[Tensor, "functions functions"]

    @staticmethod
    def of(
        rows: Float[Tensor, "functions known width"],
        species_weight: float,
        amplitude: float = 1.0,
        L: Tensor | None = None,
    ) -> "TangentBasis":
        """Factor the covariance.

        Raises:
            NotPositiveDefiniteError: when the rows are numerically dependent.
        """
        rows = rows / rows.abs().amax((1, 2), keepdim=True).clamp_min(1e-30)
        rows = rows.half().contiguous()
        if L is None:
            L = tangent_factor(weighted_dots(rows, rows, species_weight))
        return TangentBasis(rows, amplitude, species_weight, L)

    def __len__(self) -> int:
        return len(self.L)

    def rows(self, T: Float[Tensor, "rows elements width"]) -> Float[Tensor, "rows functions"]:
        """Whitened rows."""
        phi = weighted_dots(T, self._wide, self.species_weight)
        return self.amplitude**0.5 * whiten(phi, self.L)

    def own(self, T: Float[Tensor, "rows elements width"]) -> Float[Tensor, "rows"]:
        """The kernel of each row with itself."""
        shared, own = T.double().sum(1).square().sum(1), T.double().square().sum((1, 2))
        return self.amplitude * ((1 - self.species_weight) * shared + self.species_weight * own)

    def between(
        self, T: Float[Tensor, "rows elements width"], other: Float[Tensor, "columns elements width"]
    ) -> Float[Tensor, "rows columns"]:
        """The kernel between rows; the last element of both stands for all others, taken for one."""
        return self.amplitude * weighted_dots(T, other, self.species_weight)

    def weights(self, whitened: Float[Tensor, "functions"]) -> Float[Tensor, "elements width"]:
        """The function with these coefficients as weights of T_z, in the last row those of other elements."""
        return self._weights(whitened[:, None])[0]

    def draws(
        self, coefficients: Float[Tensor, "functions draws"], generator: torch.Generator
    ) -> Float[Tensor, "draws elements width"]:
        """Weights of draws whose part in the basis has these whitened coefficients, and the prior's beyond it."""
        elements, width = self.rows_of.shape[1:]
        w, shape = self.species_weight, (coefficients.shape[1], elements + 2, width)
        normal = torch.randn(shape, dtype=torch.float64, generator=generator).to(coefficients.device)
        drawn = (1 - w) ** 0.5 * normal[:, :1] + w**0.5 * normal[:, 1:]
        # psi . c of the prior's draw: what the basis already knows of it is taken out
        within = self._wide.double().flatten(1) @ drawn[:, :elements].flatten(1).T
        known = torch.linalg.solve_triangular(self.L, within, upper=False)
        return self.amplitude**0.5 * drawn + self._weights(coefficients - known)

    def _weights(self, whitened: Float[Tensor, "functions draws"]) -> Float[Tensor, "draws elements width"]:
        """From sums over the basis of each element to weights: a share of all for everyone."""
        c = torch.linalg.solve_triangular(self.L.T, whitened, upper=True)
        own = (c.T @ self._wide.double().flatten(1)).unflatten(1, self.rows_of.shape[1:])
        w = self.species_weight
        shared = (1 - w) * own.sum(1, keepdim=True)
        return self.amplitude**0.5 * torch.cat([shared + w * own, shared], dim=1)

    @cached_property
    def _wide(self) -> Float[Tensor, "functions known width"]:
        """In float64 where that is not too large to keep for deviations, in float32 otherwise: every bit is kept."""
        return self.rows_of.double() if 8 * self.rows_of.numel() < KEPT_BYTES else self.rows_of.float()


def tangent_factor(gram: Float[Tensor, "functions functions"]) -> Float[Tensor, "functions functions"]:
    """Cholesky factor of the functions' covariance at amplitude 1, laid out as a loaded one, for the same bits.

    Raises:
        NotPositiveDefiniteError: when the functions are numerically dependent.
    """
    return cholesky_with_jitter(gram, JITTER, LARGEST_JITTER)[0].contiguous()


def mix(split: Split, species_weight: float) -> Float[Tensor, "rows columns"]:
    """(1 - w) of all pairs and w of those of one element."""
    return (1 - species_weight) * split.all_pairs + species_weight * split.same_species


@dataclass(frozen=True, eq=False)
class JointBasis:
    """Bases of the kernel on features and of the tangent kernel, side by side: the basis of (1 - s) K + s K_T.

    Attributes:
        features: of the kernel on features.
        tangent: of the tangent kernel; None without it.
        share: s.
    """

    features: Basis
    tangent: TangentBasis | None = None
    share: float = 0.0

    def __len__(self) -> int:
        return len(self.features) + (0 if self.tangent is None else len(self.tangent))

    @property
    def features_share(self) -> float:
        """1 - s: what the kernel on features is multiplied by."""
        return 1.0 - self.share

    @property
    def kernel(self) -> StructureKernel:
        """The kernel on features, before its share."""
        return self.features.kernel

    def rows(
        self,
        x: Environments,
        derivatives: Float[Tensor, "directions atoms features"] | None,
        T: Float[Tensor, "rows elements width"] | None = None,
    ) -> Float[Tensor, "rows groups"]:
        """Whitened rows of one structure: its energy, then its derivatives."""
        return self.join(self.features.rows(x, derivatives), T)

    def join(
        self, psi: Float[Tensor, "rows groups"], T: Float[Tensor, "rows elements width"] | None
    ) -> Float[Tensor, "rows all_groups"]:
        """Whitened rows of the features' basis beside those of the tangent's."""
        if self.tangent is None:
            return psi
        if T is None:
            raise ValueError("this basis has a tangent part: its rows need T of each structure")
        return torch.cat([(1 - self.share) ** 0.5 * psi, self.share**0.5 * self.tangent.rows(T)], dim=1)

    def coefficients(self, whitened: Float[Tensor, "all_groups"]) -> Float[Tensor, "groups"]:
        """Of the functions on features themselves."""
        part = self.features.coefficients(whitened[: len(self.features)])
        return part if self.tangent is None else (1 - self.share) ** 0.5 * part

    def weights(self, whitened: Float[Tensor, "all_groups"]) -> Float[Tensor, "elements width"] | None:
        """Weights of T that the tangent part of the solution is; None without one."""
        if self.tangent is None:
            return None
        return self.share**0.5 * self.tangent.weights(whitened[len(self.features) :])


def joined(rows: Sequence[Float[Tensor, "_rows elements width"]], count: int, seed: int) -> Tensor:
    """Rows of many structures as a basis: all of them, or `count` drawn without replacement."""
    chosen = drawn([len(one) for one in rows], count, seed)
    return torch.cat([one[some] for one, some in zip(rows, chosen, strict=True)])


def drawn(counts: Sequence[int], count: int, seed: int) -> list[Int[Tensor, "chosen"]]:
    """Which rows of each structure are in the basis, so that only those need to be read.

    Args:
        counts: rows of each structure.
        count: in all, at most.
        seed: of the draw.
    """
    total = sum(counts)
    if total <= count:
        return [torch.arange(n) for n in counts]
    chosen = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count].sort().values
    starts = torch.tensor([0, *counts]).cumsum(0)
    edges = torch.searchsorted(chosen, starts).tolist()
    return [chosen[a:b] - start for a, b, start in zip(edges, edges[1:], starts.tolist(), strict=False)]
