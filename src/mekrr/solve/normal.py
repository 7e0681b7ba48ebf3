"""Normal equations of energies, forces and stress in a basis of inducing environments; they add up.

A structure contributes rows: its energy, derivatives along directions that stand for its forces, and six strains. What
is minimised is

    sum_t weight_t [ e_t^2 / n_t + force_weight |f_t|^2 + stress_weight |V s_t|^2 / n_t ] + ridge |L' c|^2

with e_t the energy error, f_t the force error (through its probes) and V s_t the error of the strain derivatives. Each
term grows with the number of atoms, so none depends on the size of the cell.
Rows are whitened before they are summed, psi = L^-1 phi with K_mm + jitter = L L', so that K_mm becomes the identity: a
Gram matrix of raw rows whitened afterwards has lost the digits that a small ridge needs.
Targets are kept as columns (DFT, backbone, atoms of each element): a prior is a combination of columns, so that the
equations serve every prior.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from mekrr.errors import MekrrError
from mekrr.linalg import symmetric_eigh
from mekrr.typing import Float, Int, Tensor

FIRST_JITTER = 1e-10  # relative to the mean diagonal of K_mm
LARGEST_JITTER = 1e-6
AT_ONCE = 4_000_000  # numbers in the largest intermediate of leave-one-out


class NotPositiveDefiniteError(MekrrError):
    """A matrix that must be positive definite is not, within rounding."""


@dataclass(frozen=True)
class RowWeights:
    """What a squared error counts, beside the structure's own weight.

    Attributes:
        force: Angstrom^2; of a force component, where an energy error counts 1/n.
        stress: of a strain derivative over sqrt(n), likewise.
    """

    force: float
    stress: float


@dataclass(frozen=True, eq=False)
class Block:
    """The rows of one structure.

    Attributes:
        phi: whitened design rows: energy, force directions, strains.
        columns: targets of each row: DFT, backbone, then atoms of each element (energy rows only).
        n_atoms: of the structure.
        n_forces: number of force directions.
        weight: of the structure.
    """

    phi: Float[Tensor, "rows inducing"]
    columns: Float[Tensor, "rows columns"]
    n_atoms: int
    n_forces: int
    weight: float

    def row_weights(self, weights: RowWeights) -> Float[Tensor, "rows"]:
        """Weight of each squared error."""
        w = torch.full((len(self.phi),), weights.stress / self.n_atoms, dtype=torch.float64)
        w[0] = 1.0 / self.n_atoms
        w[1 : 1 + self.n_forces] = weights.force
        return w * self.weight


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """Sums over structures; those of two sets add up to those of the union.

    Attributes:
        gram: sum of weight psi psi', energies and strains.
        gram_forces: the same of force rows.
        moments: sum of weight psi columns', all rows.
        n_structures: summed over.
        n_force_rows: force directions summed over.
        n_force_components: labels they stand for.
    """

    gram: Float[Tensor, "inducing inducing"]
    gram_forces: Float[Tensor, "inducing inducing"]
    moments: Float[Tensor, "inducing columns"]
    n_structures: int = 0
    n_force_rows: int = 0
    n_force_components: int = 0

    @staticmethod
    def empty(inducing: int, columns: int) -> "NormalEquations":
        """Nothing summed yet."""
        zeros = torch.zeros(inducing, inducing, dtype=torch.float64)
        moments = torch.zeros(inducing, columns, dtype=torch.float64)
        return NormalEquations(zeros, zeros.clone(), moments)

    def __add__(self, other: "NormalEquations") -> "NormalEquations":
        return NormalEquations(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @staticmethod
    def of(blocks: list[Block], weights: RowWeights) -> "NormalEquations":
        """Of a few structures; sums over shards keep the memory independent of the number of structures."""
        others, forces = [], []
        for block in blocks:
            root = block.row_weights(weights).sqrt()[:, None]
            phi, columns = block.phi * root, block.columns * root
            split = 1 + block.n_forces
            forces.append((phi[1:split], columns[1:split]))
            others.append((torch.cat([phi[:1], phi[split:]]), torch.cat([columns[:1], columns[split:]])))
        phi, columns = (torch.cat(parts) for parts in zip(*others, strict=True))
        phi_forces, columns_forces = (torch.cat(parts) for parts in zip(*forces, strict=True))
        return NormalEquations(
            phi.T @ phi,
            phi_forces.T @ phi_forces,
            phi.T @ columns + phi_forces.T @ columns_forces,
            len(blocks),
            len(phi_forces),
            sum(3 * block.n_atoms for block in blocks if block.n_forces),
        )

    @property
    def total(self) -> Float[Tensor, "inducing inducing"]:
        """The whole Gram matrix of the rows."""
        return self.gram + self.gram_forces

    @property
    def probed_share(self) -> float:
        """Force directions over force components: 1 when all are there."""
        return min(1.0, self.n_force_rows / self.n_force_components) if self.n_force_components else 1.0

    def with_moments(self, correction: Float[Tensor, "inducing"]) -> "NormalEquations":
        """The same with the correction added to the moments of the DFT column."""
        moments = self.moments.clone()
        moments[:, 0] += correction
        return replace(self, moments=moments)


@dataclass(frozen=True, eq=False)
class SparseFactor:
    """One eigendecomposition for all ridges: gram = V diag(eigenvalues) V', in whitened coordinates.

    Attributes:
        eigenvalues: ascending, clipped at 0.
        V: eigenvectors in columns.
    """

    eigenvalues: Float[Tensor, "inducing"]
    V: Float[Tensor, "inducing inducing"]

    @staticmethod
    def of(gram: Float[Tensor, "inducing inducing"]) -> "SparseFactor":
        """Factor.

        Raises:
            ValueError: when the Gram matrix is not finite.
        """
        eigenvalues, V = symmetric_eigh((gram + gram.T) / 2)
        return SparseFactor(eigenvalues.clamp_min(0.0), V)

    def solve(self, moments: Float[Tensor, "inducing columns"], ridge: float) -> Float[Tensor, "inducing columns"]:
        """(gram + ridge)^-1 moments."""
        return self.V @ ((self.V.T @ moments) / (self.eigenvalues + ridge)[:, None])


def whiten(
    rows: Float[Tensor, "rows inducing"], L: Float[Tensor, "inducing inducing"]
) -> Float[Tensor, "rows inducing"]:
    """Rows in coordinates in which K_mm is the identity."""
    return torch.linalg.solve_triangular(L, rows.T, upper=False).T


def cholesky_with_jitter(K: Float[Tensor, "inducing inducing"]) -> tuple[Float[Tensor, "inducing inducing"], float]:
    """Lower Cholesky factor of K with the smallest jitter of a ladder that succeeds, and that jitter.

    Raises:
        NotPositiveDefiniteError: when none does.
    """
    unit = float(K.diagonal().mean())
    relative = FIRST_JITTER
    while relative <= LARGEST_JITTER:
        L, info = torch.linalg.cholesky_ex(K + relative * unit * torch.eye(len(K), dtype=K.dtype))
        if int(info) == 0:
            return L, relative * unit
        relative *= 10
    raise NotPositiveDefiniteError(
        f"the {len(K)} inducing environments are numerically dependent (jitter up to {LARGEST_JITTER:g} of the "
        "diagonal did not help); take fewer with --inducing, or a shorter --length-scale"
    )


@dataclass(frozen=True, eq=False)
class BlockResiduals:
    """Leave-one-structure-out of several priors along a ridge path.

    Attributes:
        energy: DFT minus the prediction of the fit without that structure, eV.
        energy_variance: predictive variance at unit amplitude, noise included, eV^2.
        force: root mean square over the force components, eV/Angstrom; NaN without forces.
        force_ratio: mean over the probes of squared residual over variance; NaN without probes.
    """

    energy: Float[Tensor, "priors ridges structures"]
    energy_variance: Float[Tensor, "ridges structures"]
    force: Float[Tensor, "priors ridges structures"]
    force_ratio: Float[Tensor, "priors ridges structures"]

    @staticmethod
    def concatenate(parts: Sequence["BlockResiduals"]) -> "BlockResiduals":
        """Of all structures, from those of shards."""
        values = zip(*(vars(part).values() for part in parts), strict=True)
        return BlockResiduals(*(torch.cat(value, dim=-1) for value in values))


def leave_one_structure_out(
    factor: SparseFactor,
    moments: Float[Tensor, "inducing columns"],
    blocks: list[Block],
    weights: RowWeights,
    prior: Float[Tensor, "priors structures columns"],
    ridges: Float[Tensor, "ridges"],
) -> BlockResiduals:
    """All rows of a structure left out together, in closed form.

    With H_t = Z_t diag(1 / (eigenvalues + ridge)) Z_t' of the weighted rows of structure t, its residuals in the fit
    without it are (1 - H_t)^-1 times those in the fit with it; both with the prior refitted without t.

    Args:
        factor: of all structures, these ones among them.
        moments: of all structures.
        blocks: the structures to leave out, one at a time.
        weights: of rows, as in the factor.
        prior: combination of the columns that the kernel fits, refitted without each structure.
        ridges: to try.
    """
    shape = (len(prior), len(ridges), len(blocks))
    found = BlockResiduals(
        torch.full(shape, torch.nan, dtype=torch.float64),
        torch.full(shape[1:], torch.nan, dtype=torch.float64),
        torch.full(shape, torch.nan, dtype=torch.float64),
        torch.full(shape, torch.nan, dtype=torch.float64),
    )
    damped = 1.0 / (factor.eigenvalues + ridges[:, None])
    projected = factor.V.T @ moments
    for members in _same_shape(blocks, len(ridges)):
        chosen = [blocks[int(t)] for t in members]
        root = torch.stack([block.row_weights(weights) for block in chosen]).sqrt()
        Z = (torch.stack([block.phi for block in chosen]) @ factor.V) * root[:, :, None]
        Y = torch.stack([block.columns for block in chosen]) * root[:, :, None]
        inverse = torch.linalg.inv(torch.eye(Z.shape[1], dtype=Z.dtype) - _hats(Z, damped))
        fitted = torch.einsum("trm,lm,mc->ltrc", Z, damped, projected)
        residual = torch.einsum("ltrc,ptc->pltr", inverse @ (Y - fitted), prior[:, members]) / root
        variance = inverse.diagonal(dim1=2, dim2=3).clamp_min(1.0) * ridges[:, None, None] / root**2
        found.energy[:, :, members], found.energy_variance[:, members] = residual[..., 0], variance[..., 0]
        if n_forces := chosen[0].n_forces:
            squares = residual[..., 1 : 1 + n_forces].square()
            found.force[:, :, members] = (squares.sum(-1) / (3 * chosen[0].n_atoms)).sqrt()
            found.force_ratio[:, :, members] = (squares / variance[..., 1 : 1 + n_forces]).mean(-1)
    return found


def _hats(
    Z: Float[Tensor, "structures rows inducing"], damped: Float[Tensor, "ridges inducing"]
) -> Float[Tensor, "ridges structures rows rows"]:
    """Z diag(damped) Z' of each structure for each ridge, all ridges in one matrix product a row."""
    rows = Z.shape[1]
    found = Z.new_empty(len(Z), rows, rows, len(damped))
    for i in range(rows):
        products = (Z[:, i : i + 1] * Z[:, i:]) @ damped.T
        found[:, i, i:], found[:, i:, i] = products, products
    return found.permute(3, 0, 1, 2)


def _same_shape(blocks: list[Block], n_ridges: int) -> list[Int[Tensor, "members"]]:
    """Indices of structures with the same numbers of rows and atoms, treated together as far as memory goes."""
    kinds: dict[tuple[int, int, int], list[int]] = {}
    for t, block in enumerate(blocks):
        kinds.setdefault((len(block.phi), block.n_forces, block.n_atoms), []).append(t)
    found: list[Tensor] = []
    for (rows, _, _), members in kinds.items():
        size = rows * max(rows * n_ridges, blocks[members[0]].phi.shape[1])
        found += torch.tensor(members).split(max(1, AT_ONCE // size))
    return found
