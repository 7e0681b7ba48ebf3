"""A small random MatterSim through mekrr equals itself through mattersim."""

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from mekrr.backbones.derivatives import energy_forces_stress
from mekrr.backbones.mattersim import MATTERSIM_1M, MATTERSIM_5M
from mekrr.errors import BackboneUnavailableError
from mekrr.graph import build_batch

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    pytest.importorskip("mattersim", reason="mattersim is not installed")
    from mattersim.forcefield.m3gnet.m3gnet import M3Gnet

    torch.manual_seed(0)
    model = M3Gnet(num_blocks=2, units=16, cutoff=4.5, threebody_cutoff=3.6, device="cpu")
    with torch.no_grad():
        model.normalizer.scale.fill_(0.7)
        model.normalizer.shift.copy_(torch.linspace(-3.0, -1.0, len(model.normalizer.shift)))
    return model


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("mattersim") / "small.pth"
    content = {"model_name": "m3gnet", "model_args": model.model_args, "model": model.state_dict()}
    torch.save(content, path)
    return path


def test_energy_forces_stress_equal_their_calculator(model, checkpoint):
    from mattersim.forcefield import MatterSimCalculator
    from mattersim.forcefield.potential import Potential

    copper, water = bulk("Cu", cubic=True), molecule("H2O", vacuum=6.0, pbc=True)
    copper.rattle(0.1, seed=0)
    backbone = MATTERSIM_1M.load(checkpoint, CPU, torch.float32, False)
    assert backbone.layers == ("block_0", "block_1")
    ours = energy_forces_stress(backbone, build_batch([copper, water], backbone.cutoff))
    calculator = MatterSimCalculator(potential=Potential(model, device="cpu"), device="cpu")
    for index, (atoms, own) in enumerate([(copper, slice(0, 4)), (water, slice(4, 7))]):
        atoms.calc = calculator
        np.testing.assert_allclose(ours.energies[index], atoms.get_potential_energy(), atol=1e-4)
        np.testing.assert_allclose(ours.forces[own], atoms.get_forces(), atol=1e-4)
        np.testing.assert_allclose(ours.stress[index], atoms.get_stress(voigt=False), atol=1e-5)


def test_conforms(checkpoint):
    from mekrr.testing import check_backbone

    check_backbone(MATTERSIM_1M.load(checkpoint, CPU, torch.float64, False))


def test_what_is_no_checkpoint_is_refused(tmp_path, monkeypatch):
    class Stranger:
        def __reduce__(self):
            return (print, ("run",))

    path = tmp_path / "bad.pth"
    torch.save(Stranger(), path)
    with pytest.raises(BackboneUnavailableError, match="nothing in it was run"):
        MATTERSIM_1M.load(path, CPU, torch.float32, True)
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(BackboneUnavailableError, match="no model_args and model"):
        MATTERSIM_1M.load(path, CPU, torch.float32, False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(BackboneUnavailableError, match="mekrr backbones fetch mattersim-5m"):
        MATTERSIM_5M.load(None, CPU, torch.float32, False)


def test_weights_of_another_shape_are_refused(model, tmp_path):
    state = model.state_dict()
    path = tmp_path / "other.pth"
    torch.save({"model_args": model.model_args | {"units": 8}, "model": state}, path)
    with pytest.raises(BackboneUnavailableError, match="does not fit the M3GNet"):
        MATTERSIM_1M.load(path, CPU, torch.float32, False)
    del state["final.g.0.linear.weight"]
    torch.save({"model_args": model.model_args, "model": state}, path)
    with pytest.raises(BackboneUnavailableError, match=r"lacks weights.*final.g.0"):
        MATTERSIM_1M.load(path, CPU, torch.float32, False)
