"""The tangent kernel beside a kernel on features, for every share and species weight from one set of products."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from mekrr.features import Derivatives
from mekrr.kernels import Split, joined, mix, tangent_dots, tangent_factor, whiten
from mekrr.tune.problem import Observed
from mekrr.typing import Float, Tensor


@dataclass(frozen=True, eq=False)
class TangentDesign:
    """Products of the tangent rows of some structures, split so that every species weight is a mixture.

    Attributes:
        gram: of the functions that span the basis.
        rows: of all structures with the functions, one after another.
        counts: rows of each structure.
        whitened: of the species weights asked for so far.
    """

    gram: Split
    rows: Split
    counts: list[int]
    whitened: dict[float, list[Tensor]] = field(default_factory=dict)

    @staticmethod
    def of(observed: Observed, count: int, seed: int) -> "TangentDesign":
        """Of all structures, in a basis of at most `count` of their rows."""
        T = [d.tangent for d in observed.derivatives if d is not None and d.tangent is not None]
        functions, counts = joined(T, count, seed), [len(one) for one in T]
        gram = tangent_dots(functions, functions)
        rows = gram if len(functions) == sum(counts) else tangent_dots(torch.cat(T), functions)
        return TangentDesign(gram, rows, counts)

    def whiten(self, species_weight: float) -> list[Float[Tensor, "_rows functions"]]:
        """Rows of each structure under K_T with this species weight, made once."""
        found = self.whitened.get(species_weight)
        if found is None:
            L = tangent_factor(mix(self.gram, species_weight))
            found = list(whiten(mix(self.rows, species_weight), L).split(self.counts))
            self.whitened[species_weight] = found
        return found

    def beside(
        self,
        psi: Sequence[Float[Tensor, "_rows groups"]],
        derivatives: Sequence[Derivatives | None],
        n_atoms: Float[Tensor, "structures"],
        species_weight: float,
        share: float,
    ) -> tuple[list[Float[Tensor, "_rows all_groups"]], float]:
        """Whitened rows of (1 - s) K + s K_T, and the amplitude of K_T that makes force rows of both of one size."""
        found = self.whiten(species_weight)
        amplitude = _size(psi, derivatives, n_atoms) / max(_size(found, derivatives, n_atoms), 1e-300)
        if share == 0.0:
            return list(psi), amplitude
        a, b = (1 - share) ** 0.5, (share * amplitude) ** 0.5
        return [torch.cat([a * p, b * t], dim=1) for p, t in zip(psi, found, strict=True)], amplitude


def _size(
    psi: Sequence[Float[Tensor, "_rows groups"]],
    derivatives: Sequence[Derivatives | None],
    n_atoms: Float[Tensor, "structures"],
) -> float:
    """Mean square of force rows, a component; of energy rows, an atom, where there are none."""
    forces = [
        p[1 : 1 + d.n_forces].square().sum() / (3 * n)
        for p, d, n in zip(psi, derivatives, n_atoms, strict=True)
        if d is not None and d.n_forces
    ]
    energies = [p[0].square().sum() / n for p, n in zip(psi, n_atoms, strict=True)]
    return float(torch.stack(forces or energies).mean())
