"""torch-sim itself: its own checks of a model pass, and systems in a batch are those of ASE one by one."""

import sys

import ase.io
import numpy as np
import pytest
import torch
from ase.build import molecule

from mekrr import Calculator, DataError
from mekrr.engines import WatchOptions
from mekrr.errors import EngineError, MekrrWarning, ThresholdPassedError

pytest.importorskip("sevenn")
ts = pytest.importorskip("torch_sim", reason='torch-sim is not installed: pip install ".[torch-sim]"')

from torch_sim.models.interface import validate_model_outputs  # noqa: E402

from mekrr.engines.torch_sim import MekrrModel  # noqa: E402

CPU = torch.device("cpu")
NO_WATCH = WatchOptions(threshold="none")
pytestmark = pytest.mark.filterwarnings("ignore")


def state_of(frames, dtype=torch.float64):
    return ts.io.atoms_to_state(frames, CPU, dtype)


def trimer(cell):
    atoms = molecule("H2O")
    atoms.numbers[:] = (79, 29, 29)
    atoms.positions *= 2.5
    if cell:
        atoms.center(vacuum=cell)
    return atoms


def assert_same(model, frames, dtype=torch.float64, atol=1e-4):
    """Energy, forces, stress and atomic energies of each system are those of ASE's calculator."""
    out = model(state_of(frames, dtype))
    ends = np.cumsum([len(a) for a in frames])[:-1]
    forces, energies = np.split(out["forces"].numpy(), ends), np.split(out["energies"].numpy(), ends)
    calculator = Calculator(model._evaluator.potential, uncertainty=True)
    for t, atoms in enumerate(frames):
        single = atoms.copy()
        single.calc = calculator
        assert float(out["energy"][t]) == pytest.approx(single.get_potential_energy(), abs=1e-4)
        np.testing.assert_allclose(forces[t], single.get_forces(), atol=atol)
        np.testing.assert_allclose(energies[t], single.get_potential_energies(), atol=atol)
        if atoms.pbc.all():
            np.testing.assert_allclose(out["stress"][t].numpy(), single.get_stress(voigt=False), atol=1e-6)
        if "energy_std" in out:
            assert float(out["energy_std"][t]) == pytest.approx(calculator.results["energy_std"], rel=1e-3)
    return out


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_checks_of_torch_sim_pass(forces_potential, dtype):
    """They are made of silicon and iron, which this potential leaves to its prior."""
    validate_model_outputs(MekrrModel(forces_potential, dtype=dtype), CPU, dtype)


@pytest.mark.parametrize("name", ["casio3", "ga", "osn2", "rattled_sio2", "rattled_ar_supercell_stretched"])
def test_the_comparison_of_torch_sim_with_a_calculator_passes(forces_potential, name):
    testing = pytest.importorskip("torch_sim.testing", reason="this torch-sim has no such comparison")
    state = getattr(testing, f"make_{name}_sim_state")(device=CPU, dtype=torch.float64)
    testing.assert_model_calculator_consistency(
        model=MekrrModel(forces_potential), calculator=Calculator(forces_potential), sim_state=state
    )


def test_periodic_and_triclinic_systems_of_several_sizes_in_a_batch(potential, alloys):
    frames = [alloys[30].copy(), alloys[31].copy(), alloys[32].copy()]
    out = assert_same(MekrrModel(potential), frames)
    assert set(out) == {"energy", "forces", "energies", "stress", "energy_std"}
    assert (out["energy"].shape, out["forces"].shape, out["stress"].shape) == ((3,), (16, 3), (3, 3, 3))
    half = assert_same(MekrrModel(potential, NO_WATCH, dtype=torch.float32), frames, torch.float32)
    assert {v.dtype for v in half.values()} == {torch.float32}
    assert "energy_std" not in half


@pytest.mark.parametrize("cell", [None, 4.0])
def test_molecules_with_and_without_a_cell(potential, cell):
    out = assert_same(MekrrModel(potential), [trimer(cell), trimer(cell)])
    if cell is None:
        assert out["stress"].isnan().all()


def test_a_potential_of_energies_alone(exact_potential, alloys):
    assert_same(MekrrModel(exact_potential), [alloys[30], alloys[31]])


def test_systems_in_another_order_are_not_mistaken(potential, alloys):
    model = MekrrModel(potential, NO_WATCH)
    frames = [alloys[30].copy(), alloys[32].copy(), alloys[31].copy()]
    assert_same(model, frames)
    assert_same(model, frames[::-1])
    assert_same(model, frames[1:2])


def test_a_mapping_will_do(potential, alloys):
    state = state_of([alloys[31]])
    fields = {name: getattr(state, name) for name in ("positions", "cell", "atomic_numbers", "system_idx", "pbc")}
    model = MekrrModel(potential, NO_WATCH)
    assert torch.equal(model(fields)["forces"], model(state)["forces"])


def test_stress_is_the_derivative_of_the_energy(potential, alloys):
    model, step = MekrrModel(potential, NO_WATCH), 1e-3
    atoms = alloys[31]
    volume = atoms.get_volume()
    stress = model(state_of([atoms]))["stress"][0].numpy()
    strained = []
    for i, j in ((0, 0), (1, 2)):
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += sign * step / 2
            strain[j, i] += sign * step / 2
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            strained.append(moved)
    energy = model(state_of(strained))["energy"].numpy()
    assert stress[0, 0] == pytest.approx((energy[0] - energy[1]) / (2 * step * volume), abs=2e-4)
    assert stress[1, 2] == pytest.approx((energy[2] - energy[3]) / (2 * step * volume), abs=2e-4)


def test_energy_of_a_batch_is_conserved_over_200_fs(potential, alloys):
    """torch-sim integrates two systems at once; its own units of time are converted by it."""
    frames = [alloys[30].copy(), alloys[32].copy()]
    for atoms in frames:
        atoms.set_cell(0.97 * atoms.cell, scale_atoms=True)
    model = MekrrModel(potential, NO_WATCH)
    relaxed = ts.optimize(system=frames, model=model, optimizer=optimizer(), max_steps=40)
    totals = []
    state = ts.integrate(
        system=relaxed, model=model, integrator=integrator(), n_steps=10, temperature=300, timestep=0.002
    )
    for _ in range(9):
        state = ts.integrate(
            system=state, model=model, integrator=integrator(), n_steps=10, temperature=300, timestep=0.002
        )
        kinetic = ts.calc_kinetic_energy(masses=state.masses, momenta=state.momenta, system_idx=state.system_idx)
        totals.append((state.energy + kinetic).numpy())
    assert np.ptp(np.array(totals), axis=0).max() < 2e-3


def integrator():
    """Its name since 0.4, and before."""
    return ts.Integrator.nve if hasattr(ts, "Integrator") else ts.nve


def optimizer():
    return ts.Optimizer.fire if hasattr(ts, "Optimizer") else ts.optimizers.fire


def test_the_watch_counts_each_system_and_stops_by_an_exception(potential, alloys, tmp_path):
    label = tmp_path / "label.extxyz"
    frames = [alloys[30].copy(), alloys[31].copy()]
    model = MekrrModel(potential, WatchOptions(threshold=1e-6, label_to=str(label), label_every=3))
    with pytest.warns(MekrrWarning, match="step 0: the deviation"):
        model(state_of(frames))
    model(state_of(frames))
    assert model.watch.figures.past == 4
    assert [len(a) for a in ase.io.read(label, ":")] == [len(frames[0]), len(frames[1])]
    with pytest.raises(ThresholdPassedError, match=r"step 0: .*at which the run was to stop"):
        MekrrModel(potential, WatchOptions(threshold=1e-6, on_threshold="stop"))(state_of(frames))


def test_wrong_elements_and_models_are_refused(potential, alloys):
    strange = alloys[30].copy()
    strange.numbers[0] = 102
    with pytest.raises(DataError, match="No"):
        MekrrModel(potential)(state_of([strange]))


def test_torch_sim_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "mekrr.engines.torch_sim")
    monkeypatch.setitem(sys.modules, "torch_sim.models.interface", None)
    with pytest.raises(EngineError, match=r"torch-sim is not installed here.*pip install \"mekrr\[torch-sim\]\""):
        import mekrr.engines.torch_sim  # noqa: F401
