"""Slabs that effective medium theory labels in no time, and a text that no page must take for its own."""

import numpy as np
from ase.build import add_adsorbate, fcc111
from ase.calculators.emt import EMT

from mekrr.data import Structure

HOSTILE = '<script>window.pwned = 1</script><b>bold</b> & "quoted"'


def slab(index: int, source: str, info: dict | None = None) -> Structure:
    """A rattled Cu slab with an oxygen or hydrogen atom on it."""
    generator = np.random.default_rng(index)
    atoms = fcc111("Cu", (1, 2, 2), vacuum=5.0)
    atoms.pbc = True
    add_adsorbate(atoms, "OH"[index % 2], 1.0 + 0.4 * generator.random(), "fcc")
    atoms.positions += generator.normal(0, 0.08, atoms.positions.shape)
    atoms.calc = EMT()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = None
    return Structure(atoms, energy, forces, info=info or {}, source=source, index=index)
