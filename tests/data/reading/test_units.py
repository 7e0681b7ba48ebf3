import ase.units
import pytest

from mekrr.data.reading.units import energy_factor, force_factor, length_factor, stress_factor
from mekrr.errors import DataError


def test_energies_and_lengths():
    assert energy_factor("eV") == 1.0
    assert energy_factor("Hartree") == energy_factor("Ha") == ase.units.Hartree
    assert energy_factor("kcal/mol") == pytest.approx(0.0433641, rel=1e-5)
    assert length_factor("Å") == length_factor("Angstrom") == 1.0
    assert length_factor("bohr") == ase.units.Bohr


def test_forces():
    assert force_factor("eV/A") == 1.0
    assert force_factor("Ha/Bohr") == pytest.approx(51.42207, rel=1e-5)
    assert force_factor("kcal/mol/Angstrom") == energy_factor("kcal/mol")


@pytest.mark.parametrize("unit", ["eV/Angstrom^3", "eV/A**3", "eV/Å³", "eV / A3"])
def test_stress_spellings(unit):
    assert stress_factor(unit) == 1.0


def test_pressures():
    assert 1 / stress_factor("GPa") == pytest.approx(160.21766, rel=1e-6)
    assert stress_factor("kbar") == pytest.approx(0.1 * stress_factor("GPa"))


@pytest.mark.parametrize(
    ("function", "unit"),
    [
        (energy_factor, "erg"),
        (length_factor, "ft"),
        (force_factor, "eV"),
        (force_factor, "kcal/mol"),
        (stress_factor, "psi"),
    ],
)
def test_unknown_units_name_what_is_known(function, unit):
    with pytest.raises(DataError, match=f"(?i){unit}.*(ev|angstrom|gpa)"):
        function(unit)
