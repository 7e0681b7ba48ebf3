"""metatomic itself: its ASE calculator and i-PI's driver run an exported potential, and find what mekrr finds."""

import sys
import warnings

import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet

from ipi_runs import Ipi, needs_ipi
from mekrr import KernelPotential
from mekrr.cli.app import run
from mekrr.errors import EngineError
from support import copper_molecule

pytest.importorskip("sevenn")
metatomic = pytest.importorskip("metatomic.torch", reason='metatomic is not installed: pip install ".[metatomic]"')
metatomic_ase = pytest.importorskip("metatomic_ase", reason='metatomic is not installed: pip install ".[metatomic]"')

from mekrr.engines.metatomic import OUTPUTS, export_metatomic  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
SLOW = [pytest.param(f"{name}_potential", marks=pytest.mark.slow) for name in ("forces", "exact", "refined")]


@pytest.fixture(scope="module")
def refined_potential(alloys):
    """A network whose weights were changed, with nothing left to choose."""
    chosen = {"layers": ("interaction_1",), "length_scale": 12.0, "species_weight": 0.5, "prior": "backbone"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen |= {"force_weight": 1e-3, "ridge": 1e-4, "inducing": 40, "probes": 4, "anchors": "none"}
        return KernelPotential("sevennet-0", refine=1, **chosen).fit(alloys[:20])


@pytest.fixture(scope="module")
def exported(request, tmp_path_factory):
    """Potential, model file and its calculator by the name of the fixture, made once; compiling takes some seconds."""
    folder, written = tmp_path_factory.mktemp("metatomic"), {}

    def of(name):
        if name not in written:
            potential = request.getfixturevalue(name)
            export_metatomic(potential, folder / f"{name}.pt")
            path = folder / f"{name}.pt"
            written[name] = potential, path, calculator_of(path)
        return written[name]

    return of


def calculator_of(path):
    return metatomic_ase.MetatomicCalculator(path, device="cpu", check_consistency=True, uncertainty_threshold=None)


def frames_of(alloys):
    """A periodic, a triclinic and a molecular structure, and one that is periodic in two directions."""
    periodic = bulk("Cu", cubic=True, a=3.8)
    periodic.rattle(0.05, seed=3)
    slab = alloys[30].copy()
    slab.pbc = (True, True, False)
    slab.set_cell(slab.cell.array * [[1], [1], [0]])
    return {"periodic": periodic, "triclinic": alloys[31].copy(), "molecule": copper_molecule(), "slab": slab}


def ask(calculator, atoms, kind, names=tuple(OUTPUTS), **selected):
    """Values of outputs by name."""
    outputs = {name: metatomic.ModelOutput(unit="eV", sample_kind=kind) for name in names}
    found = calculator.run_model(atoms, outputs, **selected)
    return {name: found[name].block().values.detach().numpy() for name in names}


@pytest.mark.parametrize("name", ["tangent_potential", *SLOW])
def test_energies_forces_stress_and_deviations_are_ours(exported, alloys, name):
    potential, _, calculator = exported(name)
    for kind, atoms in frames_of(alloys).items():
        (expected,) = potential.predict([atoms], uncertainty=True, atomic_uncertainty=True)
        for _ in range(3):  # TorchScript compiles anew after the first passes
            atoms.calc = calculator
            calculator.reset()
            assert atoms.get_potential_energy() == pytest.approx(expected.energy, abs=1e-5 * len(atoms)), kind
            np.testing.assert_allclose(atoms.get_forces(), expected.forces, atol=1e-4)
        if kind in ("periodic", "triclinic"):
            np.testing.assert_allclose(atoms.get_stress(voigt=False), expected.stress, atol=1e-6)
        whole, each = ask(calculator, atoms, "system"), ask(calculator, atoms, "atom")
        assert whole["energy_uncertainty"][0, 0] == pytest.approx(expected.energy_std, rel=1e-4)
        np.testing.assert_allclose(each["energy"][:, 0], expected.atomic_energies, atol=1e-5)
        np.testing.assert_allclose(each["energy_uncertainty"][:, 0], expected.atomic_energies_std, rtol=1e-4)
        assert whole["energy_ensemble"].shape == (1, 32)
        assert whole["energy_ensemble"].mean() == pytest.approx(expected.energy, abs=1e-5 * len(atoms))
        np.testing.assert_allclose(each["energy_ensemble"].mean(1), expected.atomic_energies, atol=1e-5)


@pytest.mark.parametrize("name", ["forces_potential", "tangent_potential", "exact_potential"])
def test_the_spread_of_the_ensemble_is_the_deviation(exported, alloys, name):
    """Of 32 members: within three of its own deviations for each structure, and closer together."""
    potential, _, calculator = exported(name)
    frames = [*alloys[14:20], *alloys[30:36]]
    spread = [ask(calculator, a, "system", ["energy_ensemble"])["energy_ensemble"].std(ddof=1) for a in frames]
    ratio = np.array(spread) / [p.energy_std for p in potential.predict(frames, uncertainty=True)]
    assert ratio.min() > 0.6
    assert ratio.max() < 1.4
    assert np.sqrt(np.square(ratio).mean()) == pytest.approx(1.0, abs=0.25)


def test_forces_of_members_are_those_of_their_energies(exported, alloys):
    """An ensemble of functions: central differences of a member and its reverse pass."""
    _, path, calculator = exported("tangent_potential")
    atoms = alloys[30].copy()
    wanted = {"energy_ensemble": metatomic.ModelOutput(unit="eV", sample_kind="system")}
    model = metatomic.load_atomistic_model(str(path))
    (system,) = metatomic.systems_to_torch([atoms])
    system = metatomic.System(
        system.types, system.positions.double().requires_grad_(True), system.cell.double(), system.pbc
    )
    from vesin.metatomic import compute_requested_neighbors

    compute_requested_neighbors([system], "Angstrom", model)
    options = metatomic.ModelEvaluationOptions(length_unit="Angstrom", outputs=wanted)
    member = model([system], options, check_consistency=True)["energy_ensemble"].block().values[0, 3]
    (gradient,) = torch.autograd.grad(member, system.positions)
    ends = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[1, 2] += sign * 0.01
        ends.append(ask(calculator, moved, "system", ["energy_ensemble"])["energy_ensemble"][0, 3])
    assert float(gradient[1, 2]) == pytest.approx((ends[0] - ends[1]) / 0.02, abs=5e-3)


def test_parts_of_a_structure_add_up(exported, alloys):
    """As where every process has some atoms and all of their neighbours."""
    potential, _, calculator = exported("tangent_potential")
    atoms = alloys[31]
    (expected,) = potential.predict([atoms])
    total = 0.0
    for chosen in ([0, 3, 4], [7, 1, 2], [5, 6]):
        labels = metatomic_labels(chosen)
        part = ask(calculator, atoms, "system", selected_atoms=labels)
        each = ask(calculator, atoms, "atom", selected_atoms=labels)
        np.testing.assert_allclose(each["energy"][:, 0], expected.atomic_energies[chosen], atol=1e-5)
        assert part["energy"][0, 0] == pytest.approx(expected.atomic_energies[chosen].sum(), abs=1e-5)
        assert each["energy_uncertainty"].shape == (len(chosen), 1)
        total += part["energy"][0, 0]
    assert total == pytest.approx(expected.energy, abs=1e-5)
    everything = ask(calculator, atoms, "system", selected_atoms=metatomic_labels(range(8)))
    whole = ask(calculator, atoms, "system")
    for quantity in OUTPUTS:
        np.testing.assert_allclose(everything[quantity], whole[quantity], atol=1e-6)


def metatomic_labels(atoms):
    from metatensor.torch import Labels

    return Labels(["system", "atom"], torch.tensor([[0, i] for i in atoms], dtype=torch.int32))


def test_structures_together_are_those_one_by_one(exported, alloys):
    _, _, calculator = exported("tangent_potential")
    frames = [alloys[30], alloys[31], alloys[32]]
    for kind in ("system", "atom"):
        together = ask(calculator, frames, kind)
        apart = [ask(calculator, atoms, kind) for atoms in frames]
        for quantity in OUTPUTS:
            np.testing.assert_allclose(together[quantity], np.concatenate([a[quantity] for a in apart]), atol=2e-5)


@pytest.mark.parametrize("name", ["forces_potential", "tangent_potential"])
def test_an_atom_far_from_all_others_and_a_pass_without_gradients(exported, name):
    potential, _, calculator = exported(name)
    atoms = copper_molecule()[:2]
    atoms.positions[1] += 30.0
    with torch.no_grad():
        found = ask(calculator, atoms, "system")
    (expected,) = potential.predict([atoms], uncertainty=True)
    assert found["energy"][0, 0] == pytest.approx(expected.energy, abs=1e-5)
    assert found["energy_uncertainty"][0, 0] == pytest.approx(expected.energy_std, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["forces_potential", "tangent_potential"])
def test_energy_is_conserved_over_200_fs(exported, name):
    _, _, calculator = exported(name)
    atoms = bulk("Cu", cubic=True, a=3.7)
    atoms.calc = calculator
    MaxwellBoltzmannDistribution(atoms, temperature_K=600, rng=np.random.default_rng(0))
    dynamics, totals, kinetic = VelocityVerlet(atoms, 2 * units.fs), [], []
    dynamics.attach(lambda: totals.append(atoms.get_total_energy()))
    dynamics.attach(lambda: kinetic.append(atoms.get_kinetic_energy()))
    dynamics.run(100)
    assert np.ptp(totals) < 4e-3
    assert np.ptp(kinetic) > 10 * np.ptp(totals)


@pytest.mark.slow
@needs_ipi
def test_ipi_runs_it_by_its_own_driver(exported, alloys, tmp_path):
    potential, path, _ = exported("tangent_potential")
    forcefield = (
        "<ffdirect name='mekrr'> <pes>metatomic</pes> <parameters>{model: %s, template: start.extxyz, "  # noqa: UP031
        "energy_ensemble: True, uncertainty_threshold: 10.0}</parameters> </ffdirect>" % path
    )
    with Ipi(tmp_path, alloys[31], forcefield, steps=2, extra="committee_pot") as ipi:
        assert ipi.wait(120) == 0, ipi.log
        (*_, last), (*_, forces) = ipi.frames("pos"), ipi.frames("for")
    last.set_cell(ipi.frames("pos")[0].cell)
    (expected,) = potential.predict([last], uncertainty=True)
    np.testing.assert_allclose(forces.get_forces(), expected.forces, atol=1e-4)
    assert ipi.properties[-1, 1] == pytest.approx(expected.energy, abs=1e-4)
    (extras,) = tmp_path.glob("run.std_*0")
    members = units.Hartree * np.loadtxt(extras, ndmin=2)[-1]
    assert members.shape == (32,)
    assert members.mean() == pytest.approx(expected.energy, abs=1e-4)
    assert members.std(ddof=1) == pytest.approx(expected.energy_std, rel=0.4)


def test_the_command_writes_what_the_engine_reads(alloys, forces_potential, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    forces_potential.save("model.safetensors")
    assert run(["export", "model.safetensors", "--to", "metatomic", "-o", "model.pt"]) == 0
    assert "wrote model.pt: a model of metatomic for Cu Au" in capsys.readouterr().out
    atoms = alloys[30].copy()
    atoms.calc = calculator_of("model.pt")
    (expected,) = forces_potential.predict([atoms])
    assert atoms.get_potential_energy() == pytest.approx(expected.energy, abs=1e-4)
    atoms.numbers[0] = 78
    with pytest.raises(ValueError, match="does not support the atomic type '78'"):
        atoms.get_potential_energy()
    assert run(["export", "model.safetensors", "--to", "metatomic", "-o", "model.pth"]) == 1
    assert "must be one of .pt" in capsys.readouterr().err
    assert run(["export", "model.safetensors", "--to", "metatomic", "-o", "model.pt", "--device", "cuda"]) == 1
    assert "--device cuda has no effect with --to metatomic" in capsys.readouterr().err


def test_what_cannot_be_exported_is_refused(served_files, tmp_path, small_schnet, forces_potential):
    with pytest.raises(ValueError, match=r"mean embedding.*fit with --embedding sum"):
        export_metatomic(KernelPotential.load(served_files["mean"]), tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"schnet cannot be written as TorchScript; SevenNet can"):
        small_schnet.scripted(small_schnet.layers[:1])
    assert not (tmp_path / "x.pt").exists()


def test_metatomic_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "mekrr.engines.metatomic")
    monkeypatch.setitem(sys.modules, "metatomic.torch", None)
    with pytest.raises(EngineError, match=r"metatomic is not installed here.*pip install \"mekrr\[metatomic\]\""):
        import mekrr.engines.metatomic  # noqa: F401
