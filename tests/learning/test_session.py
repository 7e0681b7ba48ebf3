import pytest

from mekrr.learning.session import is_repeated

SAID = "labels.extxyz, index 3 (CHCu12O2): a net force of 0.013 eV/Angstrom per atom (2 more like it: index 4, 0); no"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SAID, True),
        ("labels.extxyz, index 31 (CO2): a net force of 0.02 eV/Angstrom per atom; no", True),
        ("labels.extxyz, index 31 (CO2): a net force of 0.04 eV/Angstrom per atom; no", False),
        ("labels.extxyz, index 3 (CHCu12O2): a force of 0.013 eV/Angstrom per atom; no", False),
    ],
)
def test_a_remark_is_said_again_where_it_is_another_or_twice_as_large(text, expected):
    assert is_repeated(text, SAID) is expected
