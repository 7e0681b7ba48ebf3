"""Units that are wrong for a whole data set are named, whatever the order; sound data stay without a word."""

from dataclasses import replace

import numpy as np
import pytest
from ase import units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from mekrr.data import (
    LabelKeys,
    Structure,
    load_dataset,
    read_structures,
    units_beside,
    validate,
)
from mekrr.data.checking.magnitudes import (
    ENERGIES,
    LENGTHS,
    per_atom,
    unit_of_derivatives,
    unit_of_energies,
    unit_of_lengths,
)


@pytest.fixture(scope="module")
def mini():
    """A shuffled sample of the embedded data set."""
    everything = load_dataset("cu-formate-mini")
    return [everything[i] for i in np.random.default_rng(0).permutation(len(everything))[:40]]


@pytest.fixture(scope="module")
def own(mini):
    """The default backbone's energies of them."""
    pytest.importorskip("sevenn")
    from mekrr.backbones import load_backbone
    from mekrr.features import extract

    backbone = load_backbone("sevennet-0", device="cpu")
    return extract([s.atoms for s in mini], backbone, [backbone.layers[0]], None).energies.numpy()


def scaled(structure: Structure, length: float = 1.0, energy: float = 1.0) -> Structure:
    atoms = structure.atoms.copy()
    atoms.set_cell(atoms.cell.array * length)
    atoms.positions *= length
    return replace(structure, atoms=atoms, energy=energy * structure.energy, forces=energy / length * structure.forces)


def test_sound_data_stay_without_a_word(mini, own):
    assert unit_of_lengths(mini) is None
    assert per_atom(mini) is None
    assert unit_of_energies(mini, own) is None
    assert "units" not in {issue.code for issue in validate(mini)}


@pytest.mark.parametrize("name", LENGTHS)
def test_lengths_name_their_unit_and_the_option(mini, name):
    changed = [scaled(s, 1 / LENGTHS[name]) for s in mini]
    (issue,) = [i for i in validate(changed) if i.code == "units"]
    assert f"give --length-unit {name}" in issue.message


def test_lengths_converted_twice_are_too_near(mini):
    (issue,) = [i for i in validate([scaled(s, units.Bohr) for s in mini]) if i.code == "units"]
    assert "too near for Angstrom" in issue.message


@pytest.mark.parametrize("name", ENERGIES)
def test_energies_name_their_unit_and_the_option_beside_a_backbone(mini, own, name):
    changed = [replace(s, energy=s.energy / ENERGIES[name]) for s in mini]
    assert f"give --energy-unit {name}" in unit_of_energies(changed, own)


@pytest.mark.parametrize("sizes", ["mixed", "one"])
def test_energies_per_atom(mini, own, sizes):
    keep = [k for k, s in enumerate(mini) if sizes == "mixed" or len(s) == 16]
    changed = [replace(mini[k], energy=mini[k].energy / len(mini[k])) for k in keep]
    assert (per_atom(changed) is not None) == (sizes == "mixed")
    assert "look like energies per atom" in unit_of_energies(changed, own[keep])


@pytest.mark.parametrize(
    ("factor", "words"),
    [(1.1, None), (-0.5, "opposite sign"), (27.2 / 0.529, "51.4 times"), (0.5 * 0.529 / 27.2, "0.00972 times")],
)
@pytest.mark.parametrize("label", ["forces", "stress"])
def test_derivatives_beside_a_backbone(label, factor, words):
    own, noise = np.random.default_rng(0).normal(size=(2, 600))
    found = unit_of_derivatives(label, factor * own, own)
    assert (found is None) if words is None else (words in found and f"the {label} labels" in found)
    assert unit_of_derivatives(label, 100 * noise, own) is None
    assert unit_of_derivatives(label, 0 * own, own) is None


@pytest.mark.parametrize(
    ("energy", "forces", "said"),
    [(1.0, 1.0, False), (2.0, 1.0, True), (1.0, 3.0, True), (1.0, 0.3, True), (1.3, 1.3, False), (0.8, 1.1, False)],
)
def test_energies_and_forces_that_do_not_belong_together(mini, own, energy, forces, said):
    """A factor of two between Ha and Ry, where neither alone says anything."""
    noise = np.random.default_rng(0).normal(size=2000)
    theirs = np.random.default_rng(1).normal(size=2000)
    changed = [replace(s, energy=energy * (e + 0.002 * len(s) * x)) for s, e, x in zip(mini, own, noise, strict=False)]
    found = units_beside(changed, own, {"forces": (forces * (theirs + 0.2 * noise), theirs)})
    assert ["not in units that belong together" in words for words in found] == [True] * said


def test_too_few_energies_and_unlike_ones_say_nothing_of_their_forces(mini, own):
    theirs = np.random.default_rng(1).normal(size=2000)
    doubled = [replace(s, energy=2 * e) for s, e in zip(mini, own, strict=True)]
    assert units_beside(doubled, own, {"forces": (theirs, theirs)})
    assert not units_beside(doubled[:9], own[:9], {"forces": (theirs, theirs)})
    assert not units_beside(doubled, own, {"forces": (np.random.default_rng(2).normal(size=2000), theirs)})
    assert not units_beside(doubled, own, {})


def test_noise_says_nothing(mini, own):
    noise = np.random.default_rng(1).normal(size=len(mini))
    assert unit_of_energies([replace(s, energy=100 * e) for s, e in zip(mini, noise, strict=True)], own) is None


def test_with_the_options_everything_is_as_in_electronvolts(tmp_path, mini):
    frames = []
    for s in mini:
        atoms = s.atoms.copy()
        atoms.set_cell(atoms.cell.array / units.Bohr)
        atoms.positions /= units.Bohr
        forces = s.forces * units.Bohr / units.Hartree
        atoms.calc = SinglePointCalculator(atoms, energy=s.energy / units.Hartree, forces=forces)
        frames.append(atoms)
    write(tmp_path / "a.traj", frames)
    read = read_structures(tmp_path / "a.traj", LabelKeys(energy_unit="Ha", length_unit="Bohr"))
    for one, other in zip(read, mini, strict=True):
        assert one.energy == pytest.approx(other.energy, rel=1e-13)
        np.testing.assert_allclose(one.forces, other.forces, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(one.atoms.positions, other.atoms.positions, rtol=1e-12, atol=1e-13)


def test_real_data_at_other_levels_of_theory(real_data):
    for folder in ("cu_formate", "ethanol", "mlearn_cu", "mlearn_mo", "oc20_relaxations", "oxide_polymorphs"):
        for path in sorted((real_data / folder).iterdir()):
            structures = read_structures(path, index="::5")
            assert (unit_of_lengths(structures), per_atom(structures)) == (None, None), path
