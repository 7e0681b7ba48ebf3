"""Backbones are found by name, listed without being imported, and loaded once."""

import subprocess
import sys

import pytest
import torch

from mekrr.backbones import available_backbones, load_backbone
from mekrr.backbones.registry import find_entry, resolve_device
from mekrr.errors import BackboneUnavailableError


def test_listing_imports_no_network_package():
    code = (
        "import sys; from mekrr.backbones import available_backbones; available_backbones(); "
        "print([name for name in ('sevenn', 'chgnet', 'mace', 'e3nn') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_listing_says_what_is_needed():
    listed = {listing.name: listing for listing in available_backbones()}
    assert {"sevennet-0", "sevennet-l3i5", "sevennet-mf-0", "chgnet-0.3.0", "chgnet-r2scan", "schnet"} <= set(listed)
    assert listed["sevennet-0"].install == 'pip install "mekrr[sevennet]"'
    assert listed["sevennet-0"].layers[0] == "interaction_0"
    assert listed["schnet"].installed
    assert all(listing.card.licence and listing.card.citation and listing.weights for listing in listed.values())


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(BackboneUnavailableError, match="'sevenet-0'; did you mean sevennet-0"):
        load_backbone("sevenet-0")
    with pytest.raises(BackboneUnavailableError, match="known are chgnet"):
        load_backbone("@@@@")


def test_missing_package_names_the_line_to_type(monkeypatch):
    entry = find_entry("chgnet-0.3.0")
    monkeypatch.setattr("mekrr.backbones.base.find_spec", lambda name: None)
    assert not entry.is_installed()
    with pytest.raises(BackboneUnavailableError, match=r'pip install "mekrr\[chgnet\]"'):
        load_backbone("chgnet-0.3.0")


def test_loaded_once_until_the_file_changes(checkpoint):
    spec = f"schnet:{checkpoint}"
    first = load_backbone(spec)
    assert load_backbone(spec) is first
    assert load_backbone(spec, dtype=torch.float64) is not first
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["module.module.lin2.bias"] += 1
    torch.save(content, checkpoint)
    assert load_backbone(spec).weights_hash != first.weights_hash


def test_missing_file():
    with pytest.raises(BackboneUnavailableError, match="no checkpoint at"):
        load_backbone("schnet:/nowhere/weights.pt")


def test_devices():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in {"cpu", "cuda"}
    with pytest.raises(ValueError, match="received 'gpu'"):
        resolve_device("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_absent_gpu_is_named():
    with pytest.raises(ValueError, match="no GPU here"):
        load_backbone("schnet", device="cuda")
