import json
import warnings

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mekrr import KernelPotential
from mekrr.errors import ModelFileError


@pytest.fixture
def model(potential, tmp_path):
    path = tmp_path / "model.safetensors"
    potential.save(path)
    return path


def rewrite(path, change):
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["mekrr"])
    change(tensors, header)
    save_file(tensors, path, metadata={"mekrr": json.dumps(header)})


@pytest.mark.parametrize("keep", [0, 7, 500, -10])
def test_truncated_files_are_refused(model, keep):
    model.write_bytes(model.read_bytes()[:keep])
    with pytest.raises(ModelFileError, match="not a whole safetensors file"):
        KernelPotential.load(model)


def test_newer_formats_are_refused(model):
    rewrite(model, lambda tensors, header: header.update(format_version=99))
    with pytest.raises(ModelFileError, match="model format 99, but this mekrr reads formats 2 and 3; install"):
        KernelPotential.load(model)


def test_missing_tensors_are_named(model):
    rewrite(model, lambda tensors, header: tensors.pop("coefficients"))
    with pytest.raises(ModelFileError, match=r"damaged \(KeyError\('coefficients'\)\); fit again"):
        KernelPotential.load(model)


def test_other_safetensors_files_are_refused(tmp_path):
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelFileError, match="not a mekrr model"):
        KernelPotential.load(tmp_path / "other.safetensors")


def test_a_pickle_is_refused_and_not_executed(tmp_path):
    torch.save({"x": torch.zeros(2)}, tmp_path / "model.pt")
    with pytest.raises(ModelFileError, match="not a whole safetensors file"):
        KernelPotential.load(tmp_path / "model.pt")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors: no such model file"):
        KernelPotential.load(tmp_path / "nothing.safetensors")


def test_a_failed_write_leaves_the_old_file(potential, model, monkeypatch):
    """The disk fills up half way: the model that was there still loads, and no temporary file stays."""
    before = model.read_bytes()

    def full_disk(tensors, path, metadata=None):
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("mekrr.potential.archive.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        potential.save(model)
    assert model.read_bytes() == before
    assert [p.name for p in model.parent.iterdir()] == [model.name]


@pytest.mark.parametrize("options", [{"solver": "exact"}, {"embedding": "mean"}, {"forces": False}])
def test_fits_to_energies_are_saved_and_loaded(alloys, tmp_path, options):
    fixed = {"layers": "interaction_1", "prior": "backbone", "length_scale": 12.0, "species_weight": 0.5, "ridge": 1e-4}
    fixed |= {"tangent_share": 0.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        potential = KernelPotential("sevennet-0", **(fixed | options)).fit(alloys[:8])
    assert potential.fitted_.model.solver == "exact"
    potential.save(tmp_path / "exact.safetensors")
    loaded = KernelPotential.load(tmp_path / "exact.safetensors")
    before, after = (p.predict(alloys[8:9], uncertainty=True)[0] for p in (potential, loaded))
    assert before.energy == after.energy
    assert before.energy_std == pytest.approx(after.energy_std, rel=1e-10)  # products round by memory layout
