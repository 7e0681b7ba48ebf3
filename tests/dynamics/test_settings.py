import pytest

from mekrr.dynamics import Settings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"timestep": -1.0}, "timestep must be positive, in fs; received -1.0"),
        ({"timestep": float("nan")}, "timestep"),
        ({"steps": 0}, "number of steps"),
        ({"every": 0}, "interval of frames"),
        ({"friction": 0.0}, "friction"),
        ({"thermostat": -1.0}, "temperature"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Settings(**{"steps": 10, **wrong})
