"""LAMMPS compiled with ML-IAP and Python: the potential as `pair_style mliap unified EXISTS`, also on several ranks.

LAMMPS hands over its own pairs and takes back forces on them. On one rank ghosts are folded onto the atoms that they
are images of. With KOKKOS, whose ML-IAP exchanges rows of atoms between ranks, ghosts stay, one cutoff deep, and the
network asks for their features before each convolution. No pickle is written: a Python script that drives LAMMPS hands
the potential over, on each rank.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols

from mekrr.backbones import Exchange
from mekrr.dynamics import UnstableError
from mekrr.engines.evaluator import Evaluator
from mekrr.errors import EngineError
from mekrr.graph import GraphBatch
from mekrr.potential import Evaluated, KernelPotential, evaluate_owned
from mekrr.threads import threads
from mekrr.typing import Float, Int, Tensor, ndarray

STYLE = "mliap unified EXISTS"

BUILD = (
    "build LAMMPS of 22 July 2025 or later with -D PKG_ML-IAP=yes -D PKG_PYTHON=yes -D MLIAP_ENABLE_PYTHON=yes, for "
    "several ranks with -D PKG_KOKKOS=yes too; or run it on one rank by `mekrr lammps`, which needs nothing compiled"
)


class RankExchange(Exchange):
    """The exchange of KOKKOS' ML-IAP.

    Args:
        data: what LAMMPS hands over at each step.
    """

    def __init__(self, data: Any) -> None:
        self._data = data
        self._device = torch.as_tensor(data.rij).device  # LAMMPS reads addresses

    def forward(self, rows: Float[Tensor, "atoms columns"]) -> Float[Tensor, "atoms columns"]:
        """See Exchange."""
        return self._exchanged(rows, self._data.forward_exchange)

    def reverse(self, rows: Float[Tensor, "atoms columns"]) -> Float[Tensor, "atoms columns"]:
        """See Exchange."""
        return self._exchanged(rows, self._data.reverse_exchange)

    def _exchanged(self, rows: Tensor, exchange: Callable[[Tensor, Tensor, int], Any]) -> Tensor:
        there = rows.detach().to(self._device).contiguous()
        found = torch.empty_like(there)
        exchange(there, found, rows.shape[1])
        return found.to(rows.device)


class MliapPotential:
    """What `pair_style mliap unified` calls at each step, with the attributes that it reads.

    Args:
        potential: a fitted potential, or the path of a model file.
        lmp: the instance that calls, `lammps.lammps`; it knows which atom a ghost is an image of.
        threads: see Evaluator.
        device: for a path: where the backbone computes.
        trust_checkpoint: for a path: see KernelPotential.

    Attributes:
        element_types: symbols that `pair_coeff * *` may name.
        rcutfac: half of the cutoff, Angstrom.
        n_evaluations: so far.
        energy: of this rank's atoms at the last step, eV.

    Raises:
        ValueError, FileNotFoundError, ModelFileError: see Evaluator.
    """

    ndescriptors = 1
    nparams = 1
    interface: Any = None  # set by LAMMPS

    def __init__(
        self,
        potential: KernelPotential | str | Path,
        lmp: Any = None,
        threads: int = 1,
        device: str = "auto",
        trust_checkpoint: bool = False,
    ) -> None:
        self._evaluator = Evaluator(potential, threads=threads, device=device, trust_checkpoint=trust_checkpoint)
        self._lmp, self._threads = lmp, threads
        numbers = sorted(self._evaluator.potential.fitted_.known_species)
        self.element_types = [chemical_symbols[z] for z in numbers]
        self._numbers = torch.tensor(numbers)
        self.rcutfac = 0.5 * self._evaluator.cutoff
        self.n_evaluations = 0
        self.energy = 0.0

    def compute_descriptors(self, data: Any) -> None:
        """Nothing: there are no descriptors apart from the network."""

    def compute_gradients(self, data: Any) -> None:
        """Nothing: everything is done by compute_forces."""

    def compute_forces(self, data: Any) -> None:
        """Write atomic energies, the energy and forces on pairs to what LAMMPS handed over.

        Raises:
            EngineError: on several ranks without an exchange, where nothing says whose images ghosts are, or for types
                without an element.
            UnstableError: for energies or forces that are no numbers.
        """
        n, centre, neighbour = int(data.nlistatoms), _indices(data.pair_i), _indices(data.jatoms)
        elements = _indices(data.elems)
        if bool((elements < 0).any()):
            raise EngineError("a type is mapped to NULL in pair_coeff; the potential needs every atom and its element")
        species = self._numbers[elements]
        vectors = torch.as_tensor(data.rij).detach().cpu().double()
        exchange = RankExchange(data) if hasattr(data, "forward_exchange") else None
        if exchange is None:
            neighbour, species = self._owners(data, n)[neighbour], species[:n]
        graph = GraphBatch.from_tensors(species, centre, neighbour, vectors)
        potential = self._evaluator.potential
        with threads(self._threads):
            found = evaluate_owned(potential.fitted_, potential.backbone, graph, n, exchange)
        self._hand_over(data, found)
        self.n_evaluations += 1

    def _hand_over(self, data: Any, found: Evaluated) -> None:
        assert found.edge_gradient is not None
        energies, gradient = found.atomic_energies.cpu().numpy(), found.edge_gradient.double().cpu().numpy()
        if not (np.isfinite(energies).all() and np.isfinite(gradient).all()):
            raise UnstableError("the potential gives energies or forces that are no numbers: atoms have come too close")
        _write(data, energies)
        self.energy = data.energy = float(energies.sum())
        if len(gradient):
            data.update_pair_forces(_like(data.rij, np.ascontiguousarray(gradient)))

    def _owners(self, data: Any, n: int) -> Int[Tensor, "all_atoms"]:
        """Of this rank's atoms and ghosts, the own atom that each is, or is an image of."""
        if self._lmp is None:
            raise EngineError(
                "nothing says whose images the ghosts are: hand the instance of LAMMPS over (couple(lmp, ...))"
            )
        tags = np.asarray(self._lmp.numpy.extract_atom("id", nelem=int(data.ntotal)))[: int(data.ntotal)]
        order = np.argsort(tags[:n], kind="stable")
        place = np.searchsorted(tags[:n], tags, sorter=order).clip(max=n - 1)
        if (tags[:n][order[place]] != tags).any():
            raise EngineError(
                "an atom here has a neighbour that another rank owns, and this ML-IAP exchanges nothing: run one rank, "
                "or several with KOKKOS (lmp -k on -sf kk)"
            )
        return torch.from_numpy(order[place])


def couple(
    lmp: Any,
    potential: KernelPotential | str | Path,
    threads: int = 1,
    device: str = "auto",
    trust_checkpoint: bool = False,
) -> MliapPotential:
    """Hand a potential to an instance of LAMMPS, on each rank, before `pair_style mliap unified EXISTS`.

    Args:
        lmp: `lammps.lammps`, with units metal.
        potential: see MliapPotential.
        threads: see Evaluator.
        device: for a path: where the backbone computes.
        trust_checkpoint: for a path: see KernelPotential.

    Raises:
        EngineError: when this LAMMPS was built without what is needed, or has other units.
        ValueError, FileNotFoundError, ModelFileError: see Evaluator.
    """
    kokkos = _require_mliap(lmp)
    coupled = MliapPotential(potential, lmp, threads, device, trust_checkpoint)
    import lammps.mliap as mliap

    if kokkos:
        from lammps.mliap.loader import activate_mliappy_kokkos, load_unified_kokkos

        activate_mliappy_kokkos(lmp)
        load_unified_kokkos(coupled)
    else:
        mliap.activate_mliappy(lmp)
        mliap.load_unified(coupled)
    return coupled


def _require_mliap(lmp: Any) -> bool:
    """Whether KOKKOS is running.

    Raises:
        EngineError: see couple.
    """
    missing = [name for name in ("ML-IAP", "PYTHON") if name not in lmp.installed_packages]
    if missing:
        raise EngineError(f"this LAMMPS was built without {' and '.join(missing)}: {BUILD}")
    kokkos, ranks = bool(lmp.extract_setting("kokkos_active")), int(lmp.extract_setting("world_size"))
    if ranks > 1 and not kokkos:
        raise EngineError(
            f"LAMMPS runs on {ranks} ranks without KOKKOS, and ML-IAP exchanges features of atoms only with it: start "
            "it with -k on -sf kk, or on one rank"
        )
    units = lmp.extract_global("units")
    if units != "metal":
        raise EngineError(f"ML-IAP passes energies on as they are, in eV: set units metal; received units {units}")
    return kokkos


def _indices(values: Any) -> Int[Tensor, "values"]:
    return torch.as_tensor(values).detach().cpu().long()


def _write(data: Any, energies: Float[ndarray, "atoms"]) -> None:
    """Atomic energies: an array to fill with KOKKOS, a property to set without."""
    if hasattr(data, "forward_exchange"):
        torch.as_tensor(data.eatoms).copy_(torch.from_numpy(energies))
    else:
        data.eatoms = energies


def _like(given: Any, values: ndarray) -> Any:
    """On the device of what was given: LAMMPS reads the address."""
    device = torch.as_tensor(given).device
    return values if device.type == "cpu" else torch.from_numpy(values).to(device)
