import numpy as np
import pytest
from ase import Atoms

from mekrr.data import Structure
from mekrr.errors import DataError
from mekrr_comparison.peers.labels import fit_shift, fitted_and_held, hold_out


def structure(formula, energy):
    atoms = Atoms(formula, positions=np.arange(3.0 * len(Atoms(formula))).reshape(-1, 3))
    return Structure(atoms, energy=energy)


def test_shift_finds_element_energies():
    energies = {"H": -1.5, "O": 7.25}
    structures = [structure(f, sum(energies[s] for s in Atoms(f).symbols)) for f in ("H2O", "HO", "H4", "O3")]
    shift = fit_shift(structures)
    assert shift.energies() == pytest.approx(energies)
    assert shift.of([Atoms("H3O2")]) == pytest.approx([3 * -1.5 + 2 * 7.25])


def test_shift_is_relative_to_own_energies():
    shift = fit_shift([structure("H2", -6.0), structure("H4", -12.0)], np.array([-2.0, -4.0]))
    assert shift.energies() == pytest.approx({"H": -2.0})


def test_large_energies_keep_their_digits():
    structures = [structure("Cu40", -6.4e4 + 1e-4 * k) for k in range(5)]
    relative = np.array([s.energy for s in structures]) - fit_shift(structures).of(structures)
    assert np.diff(relative) == pytest.approx(1e-4, rel=1e-6)


def test_unfitted_element_is_refused():
    with pytest.raises(DataError, match="only H are known"):
        fit_shift([structure("H2", -6.0)]).of([Atoms("OH")])


def test_missing_energy_is_named():
    with pytest.raises(DataError, match="no energy to learn from"):
        fit_shift([structure("H2", -6.0), structure("H2", None)])


def test_hold_out_divides_without_overlap():
    structures = [structure("H2", float(k)) for k in range(20)]
    fitted, held = hold_out(structures, 0.1, seed=0)
    assert (len(fitted), len(held)) == (18, 2)
    assert sorted(s.energy for s in fitted + held) == [float(k) for k in range(20)]
    assert [s.energy for s in hold_out(structures, 0.1, seed=0)[1]] == [s.energy for s in held]
    assert len(hold_out(structures[:2], 0.01, seed=0)[1]) == 1


def test_given_validation_is_used():
    structures = [structure("H2", float(k)) for k in range(4)]
    assert fitted_and_held(structures[:3], structures[3:], 0.5, 0) == (structures[:3], structures[3:])
    with pytest.raises(ValueError, match="at least 2, or a validation set"):
        fitted_and_held(structures[:1], [], 0.5, 0)
