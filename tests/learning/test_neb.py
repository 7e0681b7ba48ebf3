from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixCartesian

from mekrr.errors import DataError
from mekrr.learning import learn
from mekrr.learning.neb import BEGIN, ROUGH, ROUNDS, TRUST, _imaginary, _settled
from mekrr.learning.options import NebOptions

from .conftest import FIXED


@pytest.mark.slow
def test_the_saddle_is_one_of_the_calculator(hop, emt, tmp_path):
    found = list(
        learn("neb", *hop, folder=tmp_path, calculator=emt, images=3, fmax=0.05, vibrations=True, labels=20, **FIXED)
    )
    assert found[-1].kind == "converged", found[-1].text
    path, numbers = found[-1].structures, found[-1].numbers
    saddle = path[2].copy()
    assert abs(saddle.positions[3, 2]) < 0.1
    saddle.calc, first = EMT(), hop[0].copy()
    first.calc = EMT()
    assert np.linalg.norm(saddle.get_forces(), axis=1).max() < 0.05
    barrier = saddle.get_potential_energy() - first.get_potential_energy()
    assert numbers["barrier_ev"] == pytest.approx(barrier, abs=1e-6)
    assert numbers["imaginary_frequencies"] == 1
    assert numbers["n_labels"] <= 15


def test_ends_that_do_not_go_together_are_refused(hop, emt, tmp_path):
    start, end = hop
    other, swapped, larger = end.copy(), end.copy(), end.copy()
    other.numbers[3] = 47
    swapped.numbers[[0, 3]] = swapped.numbers[[3, 0]]
    larger.set_cell([9, 9, 9])
    charged, displaced = end.copy(), end.copy()
    charged.info["charge"] = 1
    displaced.positions[1, 0] += 0.1
    for wrong, message in (
        (other, "other atoms than START"),
        (swapped, "another order"),
        (larger, "another cell"),
        (charged, "another charge or spin"),
        (displaced, "atom 1 is fixed in START and lies 0.10 Angstrom away"),
    ):
        with pytest.raises(DataError, match=message):
            learn("neb", start, wrong, folder=tmp_path / "run", calculator=emt)
    with pytest.raises(ValueError, match="a path needs an end"):
        learn("neb", start, folder=tmp_path / "run", calculator=emt)


def test_an_end_that_is_no_minimum_is_told(hop, emt, tmp_path):
    hop[1].positions[3, 2] -= 0.3
    running = learn("neb", *hop, folder=tmp_path, calculator=emt, images=3, labels=2, **FIXED)
    told = next(event.text for event in running if event.kind == "remark")
    running.close()
    assert "END is no minimum of DFT" in told


class _Valley(Calculator):
    """One along x at some distance from where the atom is, the same all along y."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (ASE declares it so)

    def __init__(self, distance):
        super().__init__()
        self.distance = distance

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        away = self.atoms.positions[0, 0] - self.distance
        self.results = {"energy": 0.5 * away**2, "forces": np.array([[-away, 0.0, 0.0]])}


def _session(surface, deviation, rounds):
    """A run at work on a surface; without a deviation it is the network's."""

    def predicted(structures, _):
        rounds.append(len(structures))
        return [{} if deviation is None else {"energy_std": deviation} for _ in structures]

    learner = SimpleNamespace(potential=None if deviation is None else object())
    return SimpleNamespace(surface=lambda: surface, learner=learner, predicted=predicted)


@pytest.mark.parametrize(("deviation", "expected"), [(1.0, 1), (0.2, ROUNDS), (0.0, ROUNDS)])
def test_on_a_potential_a_band_moves_within_a_trust_radius_and_on_only_while_it_is_certain(deviation, expected):
    """The surface leads images 50 Angstrom away."""
    path = [np.array([[0.0, y, 0.0]]) for y in np.linspace(0, 2, 5)]
    state, rounds = BEGIN | {"path": path}, []
    images, _ = _settled(_session(_Valley(50.0), deviation, rounds), state, Atoms("H"), None, NebOptions())
    moved = [np.linalg.norm(image.positions - begun) for image, begun in zip(images, path, strict=True)]
    assert moved[0] == moved[-1] == 0
    assert max(moved) == pytest.approx(expected * TRUST, abs=0.05 * expected)
    assert len(rounds) == expected
    np.testing.assert_array_equal(state["path"], [image.positions for image in images])


class _Slope(Calculator):
    """Up along x: a band along x is at rest, and an image that climbs goes on for ever."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (ASE declares it so)

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": self.atoms.positions[0, 0], "forces": np.array([[-1.0, 0.0, 0.0]])}


@pytest.mark.parametrize(("deviation", "expected"), [(0.2, 1), (0.0, ROUNDS)])
def test_an_image_climbs_on_only_where_the_path_is_certain(deviation, expected):
    path = [np.array([[x, 0.0, 0.0]]) for x in np.linspace(0, 20, 5)]
    rounds = []
    session = _session(_Slope(), deviation, rounds)
    images, _ = _settled(session, BEGIN | {"path": path}, Atoms("H"), None, NebOptions())
    assert len(rounds) == expected
    assert images[3].positions[0, 0] - 15 == pytest.approx(expected * TRUST, abs=0.1 * expected)


class _Circle(Calculator):
    """A valley around the origin."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (ASE declares it so)
    radius = 15.0

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        away = np.linalg.norm(self.atoms.positions) - self.radius
        outwards = self.atoms.positions / np.linalg.norm(self.atoms.positions)
        self.results = {"energy": 0.5 * away**2, "forces": -away * outwards}


def test_on_the_network_alone_a_band_comes_far_and_to_rest():
    """From a line across into the valley around: a hundred and forty steps of a tenth of an Angstrom at least."""
    path = [np.array([[x, 1.0 if abs(x) < 15 else 0.0, 0.0]]) for x in np.linspace(-15, 15, 7)]
    state = BEGIN | {"path": path}
    images, _ = _settled(_session(_Circle(), None, []), state, Atoms("H"), None, NebOptions())
    radii = [np.linalg.norm(image.positions) for image in images]
    np.testing.assert_allclose(radii, _Circle.radius, atol=ROUGH)
    assert images[3].positions[0, 1] > 14


@pytest.mark.parametrize(
    ("constraints", "expected"),
    [([], 1), ([FixCartesian(3, (True, False, False))], 1), ([FixCartesian(3, (False, False, True))], 0)],
)
def test_partly_constrained_atoms_vibrate_where_they_may_move(hop, tmp_path, constraints, expected):
    """The gold atom in the plane of the triangle: along z lies the path."""
    saddle = hop[0]
    saddle.positions[3, 2] = 0.0
    saddle.set_constraint([FixAtoms([0, 1, 2]), *constraints])
    session = SimpleNamespace(surface=EMT, journal=SimpleNamespace(folder=tmp_path))
    assert _imaginary(session, saddle)[0] == expected


def test_no_free_atom_has_no_vibrations(hop, tmp_path):
    hop[0].set_constraint(FixAtoms(range(4)))
    session = SimpleNamespace(surface=EMT, journal=SimpleNamespace(folder=tmp_path))
    assert _imaginary(session, hop[0]) is None
