import warnings

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr import KernelPotential
from mekrr.data import as_structures
from support import alloy

FIXED = {
    "layers": ("interaction_1",), "prior": "composition", "length_scale": 30.0, "species_weight": 0.5, "ridge": 1e-5,
    "tangent_share": 0.0,
}  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore::mekrr.potential.MekrrWarning")


def fitted(structures, **options):
    pytest.importorskip("sevenn")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return KernelPotential("sevennet-0", **(FIXED | {"solver": "sparse"} | options)).fit(structures)


def stripped(atoms, *labels):
    """A copy that keeps only some of its labels."""
    kept = {name: value for name, value in atoms.calc.results.items() if name in labels}
    bare = atoms.copy()
    bare.calc = SinglePointCalculator(bare, **kept)
    return bare


def with_stress(seed):
    atoms = alloy(seed)
    free = atoms.copy()
    free.calc = EMT()
    atoms.calc = SinglePointCalculator(atoms, **atoms.calc.results, stress=free.get_stress())
    return atoms


def force_rmse(potential, atoms):
    found = potential.predict(atoms, forces=True)
    return np.sqrt(np.mean([np.mean((p.forces - a.get_forces()) ** 2) for p, a in zip(found, atoms, strict=True)]))


def energies(potential, atoms):
    return np.array([p.energy for p in potential.predict(atoms)])


@pytest.fixture(scope="module")
def training(alloys):
    return alloys[:14]


@pytest.fixture(scope="module")
def test_set(alloys):
    return alloys[30:]


@pytest.fixture(scope="module")
def everything(training):
    """Trained on energies and all directions."""
    return fitted(training, probes="all")


def test_energies_alone_in_a_full_basis_equal_the_exact_solver(training, test_set):
    """More inducing environments are asked for than there are atoms: all atoms are taken."""
    sparse = fitted(training, forces=False, inducing=10_000)
    exact = fitted(training, solver="exact")
    assert len(sparse.fitted_.model.coefficients) == sum(map(len, training))
    np.testing.assert_allclose(energies(sparse, test_set), energies(exact, test_set), atol=2e-3)


def test_forces_of_some_structures_are_used_and_the_others_bring_their_energy(training, test_set):
    half = [stripped(a, "energy") if k % 4 > 1 else a for k, a in enumerate(training)]
    every, some = (fitted(structures, probes="all", ridge="auto") for structures in (training, half))
    none = fitted([stripped(a, "energy") for a in training], forces=False, ridge="auto")
    assert force_rmse(every, test_set) < force_rmse(some, test_set) < force_rmse(none, test_set)
    fewer = fitted([a for k, a in enumerate(half) if k % 4 < 2], probes="all", ridge="auto")
    assert np.abs(energies(fewer, test_set) - energies(some, test_set)).max() > 1e-3
    assert len(some.fitted_.labels.energies) == len(training)


def test_more_probes_than_directions_are_all_directions(training, test_set, everything):
    potential = fitted(training, probes=1000)
    np.testing.assert_allclose(energies(potential, test_set), energies(everything, test_set), atol=1e-5)
    assert potential.fitted_.record.solver.exact_forces is None


def test_stress_labels_teach_stress():
    training, test_set = [with_stress(seed) for seed in range(14)], [with_stress(seed) for seed in range(30, 36)]
    both = [fitted(training), fitted([stripped(a, "energy", "forces") for a in training])]
    rmse = []
    for potential in both:
        found = potential.predict(test_set, forces=True)
        wrong = [p.stress - a.get_stress(voigt=False) for p, a in zip(found, test_set, strict=True)]
        rmse.append(np.sqrt(np.mean(np.square(wrong))))
    assert rmse[0] < 0.8 * rmse[1]


def test_labels_of_the_backbone_itself_are_met_with_its_own_stress(training, test_set):
    """Energies, forces and stress of SevenNet-0: a wrong sign or unit of any of them could not be fitted together."""
    pytest.importorskip("sevenn")
    from mekrr.backbones import load_backbone
    from mekrr.backbones.derivatives import energy_forces_stress
    from mekrr.graph import build_batch

    backbone = load_backbone("sevennet-0")

    def labelled(atoms):
        found = energy_forces_stress(backbone, build_batch([atoms], backbone.cutoff))
        copy = atoms.copy()
        copy.calc = SinglePointCalculator(
            copy, energy=float(found.energies), forces=found.forces.numpy(), stress=_voigt(found.stress[0].numpy())
        )
        return copy

    own = fitted([labelled(a) for a in training], prior="backbone", ridge="auto")
    for atoms, predicted in zip(test_set, own.predict(test_set, forces=True), strict=True):
        wanted = labelled(atoms)
        assert predicted.energy == pytest.approx(wanted.get_potential_energy(), abs=1e-3)
        np.testing.assert_allclose(predicted.stress, wanted.get_stress(voigt=False), atol=1e-4)


def _voigt(stress):
    return np.array([stress[a, b] for a, b in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))])


def test_a_supercell_has_its_energy_and_its_forces(everything, test_set):
    atoms = test_set[0]
    one, many = everything.predict([atoms, atoms.repeat((2, 1, 1))], forces=True)
    assert many.energy == pytest.approx(2 * one.energy, abs=1e-4)
    np.testing.assert_allclose(many.forces, np.tile(one.forces, (2, 1)), atol=1e-4)


def test_forces_and_stress_are_derivatives_of_the_energy(everything, test_set):
    """By central differences along one random direction and one strain."""
    atoms, step, rng = test_set[1].copy(), 5e-3, np.random.default_rng(0)
    move, strain = rng.normal(size=(len(atoms), 3)), rng.normal(size=(3, 3))
    strain = (strain + strain.T) / 20
    (found,) = everything.predict([atoms], forces=True)
    moved, strained = [], []
    for sign in (1, -1):
        a, b = atoms.copy(), atoms.copy()
        a.positions += sign * step * move
        b.set_cell(b.cell @ (np.eye(3) + sign * step * strain), scale_atoms=True)
        moved.append(a)
        strained.append(b)
    up, down = energies(everything, moved)
    assert (up - down) / (2 * step) == pytest.approx(-np.sum(found.forces * move), rel=2e-2, abs=2e-2)
    up, down = energies(everything, strained)
    assert (up - down) / (2 * step) == pytest.approx(
        atoms.get_volume() * np.sum(found.stress * strain), rel=2e-2, abs=2e-2
    )


def test_structures_read_twice_are_the_same_fit(training, test_set, everything):
    again = fitted(as_structures(training), probes="all")
    np.testing.assert_array_equal(energies(again, test_set), energies(everything, test_set))
