"""Structures held out, and what all force components are worth on them.

Leave-one-out and the deviations calibrated on it are those of probed equations, whose errors are larger than those of
the solution of all force components: by how much is seen on structures that neither has seen, and deviations follow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mekrr.data import Structure
from mekrr.prior import Compositions
from mekrr.solve import Observation
from mekrr.typing import Float, Tensor

COVERAGE = 0.6827  # of one standard deviation of a normal distribution
DOUBT = 10.0  # structures that a ratio of errors is held against


@dataclass(frozen=True)
class HeldOutErrors:
    """Errors on structures held out; forces None where they have none."""

    rmse_mev_per_atom: float
    mae_mev_per_atom: float
    forces_rmse_mev_per_angstrom: float | None

    @staticmethod
    def of(
        energy: Float[Tensor, "structures"],
        force: Float[Tensor, "structures"],
        n_atoms: Float[Tensor, "structures"],
    ) -> "HeldOutErrors":
        """Of errors of energies, eV, and mean squares over force components, (eV/Angstrom)^2, NaN without forces."""
        per_atom, mean = 1000 * energy / n_atoms, force.nanmean().sqrt()
        return HeldOutErrors(
            float(per_atom.square().mean().sqrt()),
            float(per_atom.abs().mean()),
            None if mean.isnan() else float(1000 * mean),
        )


@dataclass(frozen=True)
class Rehearsal:
    """Both solutions without some structures, tested on these; the potential is solved with them afterwards.

    Attributes:
        n_held_out: structures.
        probed: errors of the solution of probed forces.
        full: errors of the solution of all force components.
        energy_ratio: of the deviations of energies, full over probed.
        force_ratio: of those of forces; None without forces.
    """

    n_held_out: int
    probed: HeldOutErrors
    full: HeldOutErrors
    energy_ratio: float
    force_ratio: float | None

    @staticmethod
    def of(
        held: Sequence[Observation],
        prior: Float[Tensor, "columns"],
        deviations: Float[Tensor, "structures"],
        probed: Float[Tensor, "groups"],
        full: Float[Tensor, "groups"],
    ) -> "Rehearsal":
        """Of two solutions.

        Args:
            held: the structures neither has seen.
            prior: refitted without them.
            deviations: of their energies by leave-one-out, at any scale.
            probed: whitened coefficients of the solution of probed forces.
            full: of that of all force components.
        """
        (e, f), (e_full, f_full) = (_errors(held, prior, c) for c in (probed, full))
        n_atoms = e.new_tensor([one.n_atoms for one in held])
        known = f > 0
        energies = (e_full / deviations).abs(), (e / deviations).abs()
        return Rehearsal(
            len(held),
            HeldOutErrors.of(e, f, n_atoms),
            HeldOutErrors.of(e_full, f_full, n_atoms),
            _ratio(*energies),
            _ratio(f_full[known].sqrt(), f[known].sqrt()) if bool(known.any()) else None,
        )

    def sentence(self) -> str:
        """For the command line and the page."""
        energy = f"{self.full.rmse_mev_per_atom:.3g} meV/atom (from probes {self.probed.rmse_mev_per_atom:.3g})"
        text = f"all force components, solved without {self.n_held_out} structures and tested on them: {energy}"
        force, before = self.full.forces_rmse_mev_per_angstrom, self.probed.forces_rmse_mev_per_angstrom
        if force is not None and before is not None:
            text += f", {force:.3g} meV/Å ({before:.3g})"
        whose = "energies" if self.force_ratio is None else "energies and forces"
        ratios = " and ".join(f"{r:.2f}" for r in (self.energy_ratio, self.force_ratio) if r is not None)
        return f"{text}; deviations of {whose} are {ratios} times those of leave-one-out"


def _ratio(full: Float[Tensor, "structures"], probed: Float[Tensor, "structures"]) -> float:
    """Of means, drawn towards 1 as by structures on which nothing was gained: a few say little."""
    share = len(full) / (len(full) + DOUBT)
    return float(full.mean() / probed.mean().clamp_min(torch.finfo(full.dtype).tiny)) ** share


def _errors(
    held: Sequence[Observation], prior: Float[Tensor, "columns"], c: Float[Tensor, "groups"]
) -> tuple[Float[Tensor, "structures"], Float[Tensor, "structures"]]:
    """Of energies, and mean squares of forces by their probes; NaN without any."""
    energy, force = [], []
    for one in held:
        residual = one.columns @ prior - one.psi @ c
        forces = residual[1 : 1 + one.n_forces].square().sum() / (3 * one.n_atoms)
        energy.append(residual[0])
        force.append(forces if one.n_forces else residual.new_tensor(torch.nan))
    return torch.stack(energy), torch.stack(force)


def held_out(structures: Sequence[Structure], seed: int, count: int) -> list[int]:
    """Indices of so many, at random, or of fewer: every element is left among the others."""
    order = torch.randperm(len(structures), generator=torch.Generator().manual_seed(seed)).tolist()
    held: list[int] = []
    counts = Compositions.of(
        torch.cat([torch.as_tensor(s.species, dtype=torch.int64) for s in structures]),
        torch.tensor([len(s) for s in structures]),
    ).counts
    rest = (counts > 0).sum(0)
    for t in order:
        if len(held) == count:
            break
        without = rest - (counts[t] > 0).long()
        if bool((without > 0).all()):
            held.append(t)
            rest = without
    return sorted(held)
