import numpy as np
import pytest
from ase.build import molecule

from mekrr.engines.boxes import Boxes


@pytest.mark.parametrize("box", [None, 30 * np.eye(3)])
def test_charge_and_spin_are_those_of_the_template(box):
    template = molecule("H2O")
    template.info = {"charge": 1, "spin": 2, "config_type": "left out"}
    structure = Boxes(template, 5.0, "a program").structure(template.positions, box)
    assert structure.info == {"charge": 1, "spin": 2}
