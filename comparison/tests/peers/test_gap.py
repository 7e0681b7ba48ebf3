import numpy as np
import pytest

from mekrr.data import as_structures, read_structures
from mekrr_comparison.method import Setup
from mekrr_comparison.peers.gap import Gap

needs_gap = pytest.mark.skipif(not Gap.available(), reason=f"gap_fit is not installed: {Gap.requirement}")
QUICK = {"n_max": 6, "l_max": 3, "cutoff": 5.0, "n_sparse": 100}


def errors(method, structures):
    predicted = method.predict([s.atoms for s in structures])
    energies = [(p.energy - s.energy) / len(s) for p, s in zip(predicted, structures, strict=True)]
    forces = [(p.forces - s.forces).ravel() for p, s in zip(predicted, structures, strict=True)]
    return np.sqrt(np.mean(np.square(energies))), np.sqrt(np.mean(np.concatenate(forces) ** 2))


@needs_gap
def test_forces_in_training_help_forces(alloys):
    structures = as_structures(alloys)
    found = {}
    for sigma in (0.0, 0.05):
        method = Gap(Setup(options=QUICK | {"force_sigma": sigma}))
        method.fit(structures[:30], [], None)
        found[sigma] = errors(method, structures[30:])
    spread = np.std([s.energy / len(s) for s in structures[30:]])
    assert found[0.05][0] < 0.5 * spread
    assert found[0.05][1] < found[0.0][1]


@needs_gap
def test_forces_and_stress_are_derivatives_of_the_energy(alloys):
    structures = as_structures(alloys)
    method = Gap(Setup(options=QUICK))
    method.fit(structures[:10], [], None)
    atoms, step = structures[0].atoms, 1e-4
    up, down, larger, smaller = (atoms.copy() for _ in range(4))
    up.positions[0, 2] += step
    down.positions[0, 2] -= step
    larger.set_cell(atoms.cell * (1 + step), scale_atoms=True)
    smaller.set_cell(atoms.cell * (1 - step), scale_atoms=True)
    here, e_up, e_down, e_large, e_small = method.predict([atoms, up, down, larger, smaller])
    assert here.forces[0, 2] == pytest.approx((e_down.energy - e_up.energy) / (2 * step), abs=1e-5)
    pressure_volume = (e_large.energy - e_small.energy) / (2 * step)
    assert np.trace(here.stress) * atoms.get_volume() == pytest.approx(pressure_volume, abs=1e-4)


@needs_gap
def test_failure_says_why(alloys):
    method = Gap(Setup(options=QUICK | {"sparse_method": "nonsense"}))
    with pytest.raises(RuntimeError, match=r"(?s)gap_fit ended with status.*nonsense"):
        method.fit(as_structures(alloys[:4]), [], None)


@needs_gap
def test_cap_is_an_error(alloys):
    method = Gap(Setup(options=QUICK | {"n_max": 10, "l_max": 8}))
    with pytest.raises(RuntimeError, match="keeps nothing unfinished"):
        method.fit(as_structures(alloys[:20]), [], 0.05)
    assert method.capped


def test_settings_are_those_of_the_paper():
    settings = Gap(Setup()).settings()
    assert (settings["n_max"], settings["l_max"], settings["cutoff"], settings["n_sparse"]) == (12, 6, 6.0, 1000)


@needs_gap
@pytest.mark.slow
def test_real_slice(real_data):
    frames = read_structures(real_data / "cu_formate" / "systematic.extxyz.gz")[200:230:3]
    method = Gap(Setup(options={"n_sparse": 100}))
    method.fit(frames[:8], [], None)
    energy, _ = errors(method, frames[8:])
    assert energy < 0.05
