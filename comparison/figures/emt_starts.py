"""What learning.py and mlneb.py begin from, with ASE alone: EMT in the place of DFT, and a count of its structures."""

import numpy as np
from ase.build import add_adsorbate, fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.optimize import BFGS


class Counted(EMT):
    """EMT that counts its structures."""

    calls = 0

    def calculate(self, *args, **kwargs):
        """One structure more."""
        self.calls += 1
        super().calculate(*args, **kwargs)


def rattled(seed):
    """A gold atom on a slab of copper with two palladium atoms, the lowest layer fixed, rattled by 0.1 Angstrom."""
    slab = fcc111("Cu", (2, 2, 2), vacuum=6.0, a=3.6)
    add_adsorbate(slab, "Au", 2.0, "bridge")
    slab.numbers[[5, 6]] = 46
    slab.pbc = True
    slab.set_constraint(FixAtoms([atom.index for atom in slab if atom.tag == 2]))
    slab.rattle(0.1, seed=seed)
    return slab


def hop(seed):
    """Both ends of a path, minima of EMT: an atom of a surface of copper moves into the vacancy beside it.

    Of the eight atoms of the top layer two, drawn by the seed, are palladium and one is gold.
    """
    slab = fcc111("Cu", (3, 3, 2), vacuum=6.0, a=3.6)
    slab.pbc = True
    top = [atom.index for atom in slab if atom.tag == 1]
    lowest = [atom.index for atom in slab if atom.tag == 2]
    empty, mover = top[4], top[5]
    chosen = np.random.default_rng(seed).permutation([i for i in top if i != empty])[:3]
    slab.numbers[chosen] = 46, 46, 79
    site = slab.positions[empty].copy()
    slab.set_constraint(FixAtoms(lowest))
    ends = [slab.copy(), slab.copy()]
    ends[1].positions[mover] = site
    for end in ends:
        del end[empty]
        end.calc = EMT()
        BFGS(end, logfile=None).run(0.01)
        end.calc = None
    return ends


def largest(atoms):
    """Force on an atom that is free, eV/Angstrom."""
    return float(np.linalg.norm(atoms.get_forces(), axis=1).max())
