"""Axes of the pages."""

import math

import pytest

from mekrr.pages.figures import log_axis


@pytest.mark.parametrize(
    ("low", "high", "among"),
    [
        (30.0, 400.0, ["50", "100", "200"]),
        (1.0, 10.0, ["1", "2", "5", "10"]),
        (210.0, 480.0, ["300", "400"]),
        (0.11, 0.19, ["0.12", "0.15"]),
        (1.2e6, 6e6, ["2000000", "5000000"]),
    ],
)
def test_few_decades_have_numbers_written_out(low, high, among):
    axis = log_axis("eV", low, high)
    assert set(among) <= set(axis["ticktext"])
    assert all(low * 0.999 <= tick <= high * 1.001 for tick in axis["tickvals"])
    assert [float(text) for text in axis["ticktext"]] == pytest.approx(axis["tickvals"])


def test_many_decades_have_powers_of_ten():
    axis = log_axis("eV", 1e-3, 10.0)
    assert (axis["dtick"], axis["range"]) == (1, [pytest.approx(-3), pytest.approx(math.log10(10.0))])
