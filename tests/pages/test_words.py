import pytest

from mekrr.pages.words import behind, listed, number, plural, power, short_names, signed


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "\N{EN DASH}"),
        (float("nan"), "\N{EN DASH}"),
        (0.0, "0.00"),
        (0.9512, "0.951"),
        (12.345, "12.3"),
        (-130.4, "\N{MINUS SIGN}130"),
        (1234.5, "1\N{NARROW NO-BREAK SPACE}234"),
        (4.7e-11, "4.7 \N{MULTIPLICATION SIGN} 10⁻¹¹"),
    ],
)
def test_number(value, text):
    assert number(value) == text


def test_signed_numbers_carry_their_sign():
    assert (signed(2.0), signed(-2.0), signed(0.0)) == ("+2.00", "\N{MINUS SIGN}2.00", "0.00")


def test_power_of_a_negative_number():
    assert power(-3.2e5) == "\N{MINUS SIGN}3.2 \N{MULTIPLICATION SIGN} 10⁵"


def test_words():
    assert plural(1, "structure") == "1 structure"
    assert plural(2, "structure") == "2 structures"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert behind(1.0, 1.0) == "equal"


def test_short_names_stay_unique():
    assert short_names(["/x/a/train.xyz", "/x/b/train.xyz"]) == {
        "/x/a/train.xyz": "a/train.xyz",
        "/x/b/train.xyz": "b/train.xyz",
    }
    assert short_names(["/x/train.xyz", ""]) == {"/x/train.xyz": "train.xyz"}
    assert short_names(["/x/train.xyz", "here.xyz"]) == {"/x/train.xyz": "/x/train.xyz", "here.xyz": "here.xyz"}
