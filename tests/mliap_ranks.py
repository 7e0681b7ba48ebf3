"""What LAMMPS' ML-IAP hands over, without LAMMPS: space divided between ranks, ghosts one cutoff deep.

Ranks are processes, as there, and the exchanges pass through torch.distributed. The semantics are those of LAMMPS'
KOKKOS package: forward, all rows are copied and ghosts' overwritten by their owners'; reverse, ghosts' rows are added
to their owners' and set to zero.
"""

import numpy as np
import torch
from ase.neighborlist import neighbor_list

from mekrr import KernelPotential
from mekrr.engines.lammps_mliap import MliapPotential


class Domain:
    """The data of one rank.

    Args:
        atoms: the whole structure.
        owner: rank of each atom.
        rank: this one.
        elements: symbols, as the potential names them.
        cutoff: Angstrom.
    """

    def __init__(self, atoms, owner, rank, elements, cutoff):
        i, j, shift, vectors = neighbor_list("ijSD", atoms, cutoff)
        self.own = np.flatnonzero(owner == rank)
        mine = owner[i] == rank
        i, j, shift, self.rij = i[mine], j[mine], shift[mine], vectors[mine]
        images = sorted({(int(a), *map(int, s)) for a, s in zip(j, shift, strict=True)})
        ghosts = [image for image in images if any(image[1:]) or owner[image[0]] != rank]
        self.whole = np.array([*self.own, *(image[0] for image in ghosts)], dtype=int)
        place = {(int(a), 0, 0, 0): k for k, a in enumerate(self.own)}
        place |= {image: len(self.own) + k for k, image in enumerate(ghosts)}
        self.pair_i = np.array([place[int(a), 0, 0, 0] for a in i], dtype=np.int32)
        self.jatoms = np.array([place[int(a), *map(int, s)] for a, s in zip(j, shift, strict=True)], dtype=np.int32)
        symbols = np.array(atoms.get_chemical_symbols())[self.whole]
        self.elems = np.array([elements.index(symbol) for symbol in symbols], dtype=np.int32)
        self.nlistatoms, self.ntotal, self.n_atoms = len(self.own), len(self.whole), len(atoms)
        self.eatoms, self.energy = np.zeros(len(self.own)), None
        self.forces, self.virial = np.zeros((len(atoms), 3)), np.zeros((3, 3))

    def update_pair_forces(self, pairs):
        """As LAMMPS does, and what its reverse communication of forces makes of it."""
        np.add.at(self.forces, self.whole[self.pair_i], pairs)
        np.add.at(self.forces, self.whole[self.jatoms], -pairs)
        self.virial -= self.rij.T @ pairs


class OneRank(Domain):
    """Without KOKKOS: atoms have tags, and nothing is exchanged."""

    @property
    def numpy(self):
        return self

    def extract_atom(self, name, nelem):
        assert (name, nelem) == ("id", self.ntotal)
        return self.whole + 1


class ManyRanks(Domain):
    """With KOKKOS: rows are exchanged by every rank at once."""

    def forward_exchange(self, rows, found, width):
        assert rows.shape == found.shape == (self.ntotal, width)
        everything = torch.zeros(self.n_atoms, width, dtype=rows.dtype)
        everything[self.own] = rows[: self.nlistatoms]
        torch.distributed.all_reduce(everything)
        found.copy_(everything[self.whole])

    def reverse_exchange(self, rows, found, width):
        assert rows.shape == found.shape == (self.ntotal, width)
        everything = torch.zeros(self.n_atoms, width, dtype=rows.dtype)
        everything.index_add_(0, torch.from_numpy(self.whole), rows)
        torch.distributed.all_reduce(everything)
        found.zero_()
        found[: self.nlistatoms] = everything[self.own]


def run_rank(rank, ranks, meeting, model, cases, answers):
    """One process: its share of each structure, to a file.

    Args:
        rank: this one.
        ranks: how many.
        meeting: a file at which the processes meet.
        model: a file of a potential.
        cases: structures with the rank of each atom.
        answers: a folder.
    """
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    coupled = MliapPotential(KernelPotential.load(model, "cpu"))
    found = []
    for atoms, owner in cases:
        domain = ManyRanks(atoms, owner, rank, coupled.element_types, 2 * coupled.rcutfac)
        coupled.compute_forces(domain)
        found.append((domain.energy, domain.own, np.array(domain.eatoms), domain.forces, domain.virial))
    torch.save(found, answers / f"{rank}.pt")
    torch.distributed.destroy_process_group()
