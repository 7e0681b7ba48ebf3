import dataclasses

import numpy as np
import pytest
import torch

from mekrr.data import as_structures, read_structures
from mekrr.errors import DataError
from mekrr_comparison.method import Setup
from mekrr_comparison.peers.franken import Franken

needs_franken = pytest.mark.skipif(not Franken.available(), reason=f"franken is not installed: {Franken.requirement}")
QUICK = {"random_features": 128, "l2_penalty": (1e-8, 1e-6), "force_weight": (0.5,)}


@needs_franken
@pytest.mark.slow
def test_learns_alloys(alloys, capsys):
    structures = as_structures(alloys)
    dtype = torch.get_default_dtype()
    method = Franken(Setup(options=QUICK))
    method.fit(structures[:20], structures[20:24], None)
    predicted = method.predict([s.atoms for s in structures[24:]])
    errors = [(p.energy - s.energy) / len(s) for p, s in zip(predicted, structures[24:], strict=True)]
    assert np.sqrt(np.mean(np.square(errors))) < 0.5 * np.std([s.energy / len(s) for s in structures[24:]])
    assert method.chosen()["solver"]["force_weight"] == 0.5
    assert torch.get_default_dtype() == dtype
    assert capsys.readouterr().out == ""


@needs_franken
@pytest.mark.slow
def test_real_slice(real_data):
    frames = read_structures(real_data / "cu_formate" / "systematic.extxyz.gz")[200:214:2]
    method = Franken(Setup(options=QUICK))
    method.fit(frames[:3], frames[3:5], None)
    predicted = method.predict([s.atoms for s in frames[5:]])
    assert all(abs(p.energy - s.energy) / len(s) < 0.05 for p, s in zip(predicted, frames[5:], strict=True))


@needs_franken
def test_structures_without_forces_are_named(alloys):
    structures = as_structures(alloys[:4])
    structures[1] = dataclasses.replace(structures[1], forces=None)
    with pytest.raises(DataError, match=r"index 1 .*no forces"):
        Franken(Setup()).fit(structures[:3], structures[3:], None)


@needs_franken
def test_other_backbones_are_refused(alloys):
    structures = as_structures(alloys[:4])
    with pytest.raises(ValueError, match="received chgnet"):
        Franken(Setup(backbone="chgnet-0.3.0")).fit(structures[:3], structures[3:], None)
