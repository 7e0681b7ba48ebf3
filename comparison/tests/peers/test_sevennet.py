import dataclasses

import numpy as np
import pytest

from mekrr.data import as_structures, read_structures
from mekrr.errors import DataError
from mekrr_comparison.method import Setup
from mekrr_comparison.peers.sevennet import SevenNetFinetuned, checkpoint_of, published_input

needs_sevenn = pytest.mark.skipif(
    not SevenNetFinetuned.available(), reason=f"sevenn is not installed: {SevenNetFinetuned.requirement}"
)


@pytest.fixture(scope="module")
def structures(alloys):
    return as_structures(alloys[:8])


def energy_error(method, structures):
    predicted = method.predict([s.atoms for s in structures])
    return np.mean([abs(p.energy - s.energy) / len(s) for p, s in zip(predicted, structures, strict=True)])


@needs_sevenn
@pytest.mark.slow
def test_training_lowers_the_error(structures):
    found = {}
    for epochs in (1, 8):
        method = SevenNetFinetuned(Setup(options={"epochs": epochs, "learning_rate": 1e-3}))
        method.fit(structures[:6], structures[6:], None)
        found[epochs] = energy_error(method, structures[:6])
    assert found[8] < found[1]
    assert 1 <= method.chosen()["epoch"] <= 8
    assert not method.capped
    prediction = method.predict([structures[0].atoms])[0]
    assert prediction.stress.shape == (3, 3)


@needs_sevenn
@pytest.mark.slow
def test_cap_keeps_the_best_epoch_so_far(structures, tmp_path):
    # How long sevenn takes to its first epoch depends on what else the machine does: the first cap in which one fits.
    for cap in (30.0, 90.0, 270.0):
        method = SevenNetFinetuned(Setup(options={"epochs": 100_000, "batch_size": 1}, folder=tmp_path / f"{cap:.0f}"))
        try:
            method.fit(structures[:3], structures[3:4], cap)
            break
        except RuntimeError as error:
            if "no epoch was done before the cap" not in str(error):
                raise
    assert method.capped
    assert 1 <= method.chosen()["epoch"] < 100_000
    assert np.isfinite(energy_error(method, structures[:2]))


@needs_sevenn
@pytest.mark.slow
def test_real_slice(real_data):
    frames = read_structures(real_data / "cu_formate" / "systematic.extxyz.gz")[200:212:3]
    method = SevenNetFinetuned(Setup(options={"epochs": 1}))
    method.fit(frames[:2], frames[2:3], None)
    assert energy_error(method, frames[3:]) < 0.05


@needs_sevenn
@pytest.mark.slow
def test_cap_before_the_first_epoch_is_an_error(structures):
    with pytest.raises(RuntimeError, match="no epoch was done before the cap"):
        SevenNetFinetuned(Setup()).fit(structures[:6], structures[6:], 0.5)


@needs_sevenn
def test_only_what_is_said_differs_from_the_published_input():
    ours, theirs = SevenNetFinetuned(Setup()).settings(), published_input()
    assert ours["model"] == theirs["model"]
    changed = {key for key in ours["train"] if ours["train"][key] != theirs["train"].get(key)}
    assert changed == {"is_train_stress", "error_record", "device"}


@needs_sevenn
def test_checkpoint_is_the_one_mekrr_uses():
    from mekrr.backbones import load_backbone
    from mekrr.files import sha256_of

    assert sha256_of(checkpoint_of("sevennet-0")) == load_backbone("sevennet-0").weights_hash
    with pytest.raises(ValueError, match="received mace"):
        checkpoint_of("mace")


@needs_sevenn
def test_structures_without_forces_are_named(structures):
    bad = [structures[0], dataclasses.replace(structures[1], forces=None), structures[2]]
    with pytest.raises(DataError, match=r"index 1 .*no forces"):
        SevenNetFinetuned(Setup()).fit(bad, structures[3:4], None)
