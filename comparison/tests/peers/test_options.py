from dataclasses import dataclass

import pytest

from mekrr_comparison.peers.options import with_options


@dataclass(frozen=True)
class Example:
    rate: float = 0.1
    steps: int = 5
    kind: str = "plain"
    grid: tuple[float, ...] | None = None


def test_given_options_take_the_place_of_recommended_ones():
    assert with_options(Example(), {"rate": 1, "grid": [1, 2]}, "it") == Example(rate=1, grid=[1, 2])
    assert with_options(Example(), {}, "it") == Example()


def test_unknown_option_lists_the_known():
    with pytest.raises(ValueError, match="it has no option ratio; its options are rate, steps, kind, grid"):
        with_options(Example(), {"ratio": 1}, "it")


@pytest.mark.parametrize(
    ("name", "value"), [("rate", "fast"), ("rate", -1.0), ("steps", 2.5), ("steps", True), ("kind", 3)]
)
def test_other_types_are_refused(name, value):
    with pytest.raises(ValueError, match=f"it: {name} is one like .* received {value!r}"):
        with_options(Example(), {name: value}, "it")
