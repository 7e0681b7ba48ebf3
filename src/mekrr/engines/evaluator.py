"""What every engine asks of a potential: structures, or the engine's own edges, to energies, forces and virials."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from mekrr.calculators import DEFAULT_SKIN, warn_of_jumps
from mekrr.data.reading.electrons import charge_and_spin
from mekrr.features import BATCH_ATOMS, batches
from mekrr.graph import GraphBatch, SkinnedGraph, assemble_batch
from mekrr.potential import Evaluated, KernelPotential, Wanted, evaluate_graph
from mekrr.threads import require_threads, threads
from mekrr.typing import Float, Tensor, ndarray


@dataclass(frozen=True, eq=False)
class Found:
    """What an engine gets for one structure; deviations are None unless they were asked for.

    Attributes:
        energy: eV.
        forces: eV/Angstrom.
        virial: minus the derivative of the energy with respect to strain, eV; for a molecule too.
        atomic_energies: eV, adding up to the energy.
        energy_std: calibrated standard deviation of the energy, eV.
        atomic_std: the same of each atom's energy, eV.
        forces_std: the same of each force component, eV/Angstrom.
    """

    energy: float
    forces: Float[ndarray, "atoms 3"]
    virial: Float[ndarray, "3 3"]
    atomic_energies: Float[ndarray, "atoms"]
    energy_std: float | None = None
    atomic_std: Float[ndarray, "atoms"] | None = None
    forces_std: Float[ndarray, "atoms 3"] | None = None

    @property
    def deviation(self) -> float | None:
        """Deviation of the energy, meV/atom."""
        return None if self.energy_std is None else 1000 * self.energy_std / len(self.forces)


class Evaluator:
    """A potential as engines use it: what it cannot do is refused before the first step.

    Not for several threads at once: it keeps neighbour lists from one call to the next.

    Args:
        potential: a fitted potential, or the path of a model file.
        wanted: deviations beside energy and forces, see `Wanted`.
        threads: PyTorch may use during an evaluation; one is fastest below some hundred atoms.
        skin: Angstrom; a neighbour list is made anew only when an atom has moved more than half of it.
        device: for a path: where the backbone computes.
        trust_checkpoint: for a path: see KernelPotential.

    Attributes:
        potential: the fitted potential.
        wanted: as given.

    Raises:
        FileNotFoundError, ModelFileError: see KernelPotential.load.
        BackboneUnavailableError: see KernelPotential.backbone.
        ValueError: for a potential with the mean embedding, deviations it does not have, or a number of threads that
            this process may not use.
    """

    def __init__(
        self,
        potential: KernelPotential | str | Path,
        wanted: Wanted = Wanted(),  # noqa: B008 (frozen)
        threads: int = 1,
        skin: float = DEFAULT_SKIN,
        device: str = "auto",
        trust_checkpoint: bool = False,
    ) -> None:
        require_threads(threads)
        if not isinstance(potential, KernelPotential):
            potential = KernelPotential.load(potential, device, trust_checkpoint)
        if potential.fitted_.embedding == "mean":
            raise ValueError(
                "this potential was fitted with the mean embedding: it is not size-extensive and its energy is no sum "
                "over atoms, which simulation programs rely on; fit with --embedding sum"
            )
        wanted.check(potential.fitted_)
        self.potential = potential
        self.wanted = wanted
        self._threads = threads
        self._skin = skin
        self._backbone = potential.backbone
        warn_of_jumps(self._backbone)
        self._graphs: list[SkinnedGraph] = []
        self._checked: set[bytes] = set()

    @property
    def cutoff(self) -> float:
        """Longest edge that is needed, Angstrom."""
        return self._backbone.cutoff

    def check_species(self, numbers: ndarray) -> None:
        """Refuse elements the potential cannot treat; warn of what only the prior covers, once for a composition.

        Args:
            numbers: atomic numbers of the atoms, in any order.

        Raises:
            DataError: see KernelPotential.check_species.
        """
        self.check(Atoms(numbers))

    def check(self, atoms: Atoms) -> None:
        """As `check_species`, and warn of a charge or spin that was never fitted and is not read.

        Raises:
            DataError: see KernelPotential.check_species.
        """
        key = np.sort(atoms.numbers).tobytes() + repr(charge_and_spin(atoms)).encode()
        if key not in self._checked:
            self.potential.check_species([atoms])
            self._checked.add(key)

    def __call__(self, structures: Sequence[Atoms]) -> list[Found]:
        """Evaluate structures, in one pass where they fit into one batch.

        Each place in the sequence keeps its neighbour list: give the beads or replicas of a simulation in one order.

        Args:
            structures: any periodicities, also cells smaller than the cutoff.

        Raises:
            DataError: for elements the potential cannot treat.
            ValueError: when a structure is unusable (atoms coincide, positions that are no numbers).
        """
        for atoms in structures:
            self.check(atoms)
        self._graphs += [self._new_graph() for _ in range(len(structures) - len(self._graphs))]
        found: list[Found] = []
        for batch in batches([len(atoms) for atoms in structures], BATCH_ATOMS):
            edges = [self._graphs[t].edges(structures[t]) for t in batch]
            found += _cut(self._evaluate(assemble_batch([structures[t] for t in batch], edges)))
        return found

    def graph(self, graph: GraphBatch) -> Evaluated:
        """Evaluate a graph that an engine has made, see `GraphBatch.from_tensors`; tensors come back.

        Raises:
            DataError: for elements the potential cannot treat.
            ValueError: when the backbone keeps the nearest neighbours only, which an engine's edges are not.
        """
        if self._backbone.max_neighbours is not None:
            raise ValueError(
                f"{self._backbone.name} keeps the {self._backbone.max_neighbours} nearest neighbours of an atom: it "
                "cannot take the edges of an engine; give it structures"
            )
        self.check_species(graph.species.cpu().numpy())
        return self._evaluate(graph)

    def _evaluate(self, graph: GraphBatch) -> Evaluated:
        with threads(self._threads):
            return evaluate_graph(self.potential.fitted_, self._backbone, graph, self.wanted)

    def _new_graph(self) -> SkinnedGraph:
        return SkinnedGraph(self._backbone.cutoff, self._skin, self._backbone.max_neighbours)


def _cut(found: Evaluated) -> list[Found]:
    """An evaluated batch as one `Found` a structure."""
    assert found.forces is not None
    assert found.strain_gradient is not None
    ends = np.cumsum(found.graph.n_atoms.cpu().numpy())[:-1]

    def cut(values: Tensor | None) -> list:
        return [None] * (len(ends) + 1) if values is None else np.split(values.cpu().numpy(), ends)

    columns = zip(
        cut(found.forces), cut(found.atomic_energies), cut(found.atomic_std), cut(found.forces_std), strict=True
    )
    return [
        Found(
            energy=float(energies.sum()),
            forces=forces,
            virial=-found.strain_gradient[t].cpu().numpy(),
            atomic_energies=energies,
            energy_std=None if found.energy_std is None else float(found.energy_std[t]),
            atomic_std=atomic_std,
            forces_std=forces_std,
        )
        for t, (forces, energies, atomic_std, forces_std) in enumerate(columns)
    ]
