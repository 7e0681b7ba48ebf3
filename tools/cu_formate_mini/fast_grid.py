"""Faster grid sums for GPAW's LCAO mode with a Gamma-centred k-point mesh.

GPAW sums the density and the potential part of the forces over the grid once
per k-point. On a mesh of N1 x N2 k-points, matrix elements between periodic
images depend on the image difference modulo the mesh only, so the k-sum can be
done first, on small real matrices, and the grid is passed once:

    P[r] = sum_k Re(rho_k exp(2 pi i k.r)),    V_k = sum_r U[r] exp(-2 pi i k.r).

``install`` replaces three methods of GPAW's ``BasisFunctions`` by this. The
numbers stay those of GPAW to rounding (``checks.py kernel`` compares); only the
time changes. Serial, spin-paired, splines up to l = 2. Written for GPAW 26.7.0.
"""

from __future__ import annotations

import ctypes
import itertools
import subprocess
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

PAD = 16  # functions of an atom, padded; as in fast_grid.c
KNOT_SPACING = 0.004  # Bohr, of the tables made from GPAW's splines
FLAGS = ["-O3", "-march=native", "-ffast-math", "-fno-finite-math-only", "-shared", "-fPIC"]


def compile_library() -> ctypes.CDLL:
    """Compile fast_grid.c in a temporary folder and load it."""
    source = Path(__file__).with_name("fast_grid.c")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "fast_grid.so"
        subprocess.run(["gcc", *FLAGS, "-o", str(target), str(source), "-lm"], check=True)
        library = ctypes.CDLL(str(target))
    library.grid_new.restype = ctypes.c_void_p
    return library


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    """Address of a contiguous array, which the caller must keep alive."""
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


def spline_table(spline: Any, tables: dict[tuple[float, ...], np.ndarray]) -> np.ndarray:
    """Value and derivative of a GPAW spline at evenly spaced knots, kept in ``tables``."""
    cutoff = spline.get_cutoff()
    key = (spline.get_angular_momentum_number(), cutoff, *(spline(part * cutoff) for part in (0.1, 0.3, 0.5, 0.7)))
    if key not in tables:
        radii = np.minimum(np.arange(int(cutoff / KNOT_SPACING) + 2) * KNOT_SPACING, cutoff * (1.0 - 1e-12))
        tables[key] = np.array([spline.get_value_and_derivative(radius) for radius in radii])
    return tables[key]


class FastGrid:
    """Grid sums for one set of atomic positions.

    Args:
        basis: GPAW's ``BasisFunctions`` with positions set.
        library: The compiled library.
        tables: Cache of spline tables, shared by all structures.
    """

    def __init__(self, basis: Any, library: ctypes.CDLL, tables: dict[tuple[float, ...], np.ndarray]) -> None:
        self.library = library
        self.kpoints = basis.ibzk_qc
        self.mesh = np.array(basis.kd.N_c)
        if not np.allclose(self.kpoints * self.mesh, np.round(self.kpoints * self.mesh)):
            raise ValueError("the k-point mesh must be Gamma-centred")
        if len(basis.kd.symmetry.op_scc) > 1:
            raise ValueError("point-group symmetry must be off")
        self.images = np.array(list(itertools.product(*(range(n) for n in self.mesh))))
        self.shape = tuple(basis.gd.n_c)
        self.volume = basis.gd.dv
        self.natoms = len(basis.sphere_a)
        self._functions(basis, tables)
        self._sites(basis)
        gd = basis.gd
        keep = [np.ascontiguousarray(gd.h_cv), np.array(gd.n_c, np.intc), np.array(gd.beg_c, np.intc)]
        addresses = (ctypes.c_void_p * len(self.tables))(*(table.ctypes.data for table in self.tables))
        self.handle = ctypes.c_void_p(
            library.grid_new(
                *(pointer(array) for array in keep),
                len(self.site_atom),
                pointer(self.site_atom),
                pointer(self.site_r),
                pointer(self.site_pos),
                self.natoms,
                pointer(self.radial_start),
                len(self.tables),
                *(pointer(array) for array in self.radial_arrays),
                addresses,
                ctypes.c_double(KNOT_SPACING),
                len(self.images),
                pointer(self.differences),
            )
        )
        self.density_matrix = np.zeros((len(self.images), basis.Mmax, basis.Mmax))

    def __del__(self) -> None:
        """Free the tables of the library."""
        if hasattr(self, "handle"):
            self.library.grid_free(self.handle)

    def _functions(self, basis: Any, tables: dict[tuple[float, ...], np.ndarray]) -> None:
        """Order the functions of every atom by reach and note where GPAW's go."""
        self.tables, starts, momenta, firsts, cutoffs = [], [0], [], [], []
        padded = []
        for atom, sphere in enumerate(basis.sphere_a):
            splines = sphere.spline_j
            first, offset = {}, 0
            for j in sorted(range(len(splines)), key=lambda j: -splines[j].get_cutoff()):
                first[j] = offset
                offset += 2 * splines[j].get_angular_momentum_number() + 1
            if offset > PAD:
                raise ValueError(f"an atom with {offset} functions; at most {PAD} fit")
            for j, spline in enumerate(splines):
                momentum = spline.get_angular_momentum_number()
                if momentum > 2:
                    raise ValueError("splines with l > 2 are not handled")
                self.tables.append(spline_table(spline, tables))
                momenta.append(momentum)
                firsts.append(first[j])
                cutoffs.append(spline.get_cutoff())
                padded.extend(atom * PAD + first[j] + m for m in range(2 * momentum + 1))
            starts.append(len(self.tables))
        self.padded = np.array(padded)
        self.radial_start = np.array(starts, np.intc)
        counts = np.array([len(table) for table in self.tables], np.intc)
        self.radial_arrays = [np.array(momenta, np.intc), np.array(firsts, np.intc), counts, np.array(cutoffs)]

    def _sites(self, basis: Any) -> None:
        """List the periodic images of the atoms that may reach the cell."""
        gd = basis.gd
        reach = max(spline.get_cutoff() for sphere in basis.sphere_a for spline in sphere.spline_j)
        heights = 1.0 / np.linalg.norm(np.linalg.inv(gd.cell_cv), axis=0)
        number = np.where(gd.pbc_c, np.ceil(reach / heights).astype(int) + 1, 0)
        spos = np.array([sphere.spos_c for sphere in basis.sphere_a])
        shifts = np.array(list(itertools.product(*(range(-n, n + 1) for n in number))))
        lower = -reach / heights
        atoms, indices, positions = [], [], []
        strides = np.array([self.mesh[1] * self.mesh[2], self.mesh[2], 1])
        for shift in shifts:
            for atom, scaled in enumerate(spos - shift):
                if np.all(scaled > lower) and np.all(scaled < 1.0 - lower):
                    atoms.append(atom)
                    indices.append(int((shift % self.mesh) @ strides))
                    positions.append(scaled @ gd.cell_cv)
        self.site_atom, self.site_r = np.array(atoms, np.intc), np.array(indices, np.intc)
        self.site_pos = np.array(positions)
        differences = (self.images[:, None] - self.images[None]) % self.mesh
        self.differences = np.ascontiguousarray(differences @ strides, np.intc)

    def pad(self, matrices: np.ndarray) -> np.ndarray:
        """Spread matrices over the padded functions."""
        size = self.natoms * PAD
        result = np.zeros((len(self.images), size, size))
        result[:, self.padded[:, None], self.padded] = matrices
        return result

    def add_density_matrix(self, rho: np.ndarray, q: int, total: np.ndarray) -> None:
        """Add the density matrix of one k-point to the matrices by image."""
        phases = np.exp(2j * np.pi * self.images @ self.kpoints[q])
        total += phases.real[:, None, None] * rho.real - phases.imag[:, None, None] * rho.imag

    def density(self, total: np.ndarray, density: np.ndarray) -> None:
        """Add the density of the matrices to a grid array."""
        padded = self.pad(total)
        self.library.grid_density(self.handle, pointer(padded), pointer(density))

    def potential(self, potential: np.ndarray) -> np.ndarray:
        """Potential matrices by image."""
        size = self.natoms * PAD
        padded = np.zeros((len(self.images), size, size))
        contiguous = np.ascontiguousarray(potential)
        self.library.grid_potential(self.handle, pointer(contiguous), ctypes.c_double(self.volume), pointer(padded))
        half = padded[:, self.padded[:, None], self.padded]
        return half + half[self.differences[0]].transpose(0, 2, 1)

    def forces(self, total: np.ndarray, potential: np.ndarray) -> np.ndarray:
        """Potential part of the forces."""
        forces = np.zeros((self.natoms, 3))
        contiguous, padded = np.ascontiguousarray(potential), self.pad(total)
        self.library.grid_forces(
            self.handle, pointer(contiguous), ctypes.c_double(self.volume), pointer(padded), pointer(forces)
        )
        return forces


def install(lfc: ModuleType) -> None:
    """Replace the slow methods of ``gpaw.lfc.BasisFunctions``.

    Args:
        lfc: The module ``gpaw.lfc``.
    """
    library, tables = compile_library(), {}
    original = lfc.BasisFunctions._update

    def update(self: Any, spos_ac: np.ndarray) -> np.ndarray:
        result = original(self, spos_ac)
        self.fast = FastGrid(self, library, tables)
        self.sdisp_xc = self.fast.images
        return result

    def construct_density(self: Any, rho_MM: np.ndarray, nt_G: np.ndarray, q: int) -> None:
        fast = self.fast
        if q == 0:
            fast.density_matrix[:] = 0.0
        fast.add_density_matrix(rho_MM, q, fast.density_matrix)
        if q == len(fast.kpoints) - 1:
            fast.density(fast.density_matrix, nt_G)

    def calculate_potential_matrices(self: Any, vt_G: np.ndarray) -> np.ndarray:
        matrices = self.fast.potential(vt_G)
        matrices[1:] *= 0.5  # GPAW doubles all but the first
        return matrices

    def calculate_force_contribution(self: Any, vt_G: np.ndarray, rhoT_MM: np.ndarray, q: int) -> np.ndarray:
        fast = self.fast
        if q == 0:
            fast.density_matrix[:] = 0.0
        fast.add_density_matrix(rhoT_MM.conj(), q, fast.density_matrix)
        if q < len(fast.kpoints) - 1:
            return np.zeros((fast.natoms, 3))
        return fast.forces(fast.density_matrix, vt_G)

    lfc.BasisFunctions._update = update
    lfc.BasisFunctions.construct_density = construct_density
    lfc.BasisFunctions.calculate_potential_matrices = calculate_potential_matrices
    lfc.BasisFunctions.calculate_force_contribution = calculate_force_contribution
