"""A small random MACE through mekrr equals itself through mace-torch."""

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from mekrr.backbones import load_backbone
from mekrr.backbones import mace as mace_module
from mekrr.backbones.derivatives import energy_forces_stress
from mekrr.backbones.mace import MACE, MACE_MPA_0_MEDIUM, PublishedMACEEntry
from mekrr.errors import BackboneUnavailableError
from mekrr.graph import build_batch

CPU = torch.device("cpu")


# As in the models published first, and in those since mace-mp-0b: blocks normalised by density, distances transformed
# after Agnesi, and repulsion of Ziegler, Biersack and Littmark.
FIRST = {"interaction_cls": "RealAgnosticResidualInteractionBlock"}
LATER = {
    "interaction_cls": "RealAgnosticDensityResidualInteractionBlock",
    "interaction_cls_first": "RealAgnosticDensityInteractionBlock",
    "distance_transform": "Agnesi",
    "pair_repulsion": True,
}


@pytest.fixture(scope="module", params=[FIRST, LATER], ids=["mace-mp-0", "mace-mpa-0"])
def model_path(request, tmp_path_factory):
    pytest.importorskip("mace", reason="mace-torch is not installed (it cannot share an environment with sevenn)")
    from e3nn import o3
    from mace import modules

    torch.manual_seed(0)
    options = {"interaction_cls_first": request.param["interaction_cls"]} | request.param
    options |= {name: modules.interaction_classes[options[name]] for name in options if name.startswith("inter")}
    model = modules.ScaleShiftMACE(
        r_max=4.0,
        num_bessel=6,
        num_polynomial_cutoff=5,
        max_ell=2,
        num_interactions=2,
        num_elements=3,
        hidden_irreps=o3.Irreps("8x0e + 8x1o"),
        MLP_irreps=o3.Irreps("8x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=np.array([-1.0, -2.0, -3.0]),
        avg_num_neighbors=8.0,
        atomic_numbers=[1, 8, 29],
        correlation=2,
        atomic_inter_scale=1.3,
        atomic_inter_shift=0.2,
        **options,
    )
    path = tmp_path_factory.mktemp("mace") / "small.model"
    torch.save(model.double(), path)
    return path


def test_energy_forces_stress_equal_their_calculator(model_path):
    from mace.calculators import MACECalculator

    copper, water = bulk("Cu", cubic=True), molecule("H2O", vacuum=3.0, pbc=True)
    copper.rattle(0.1, seed=0)
    backbone = MACE.load(model_path, CPU, torch.float64, True)
    ours = energy_forces_stress(backbone, build_batch([copper, water], backbone.cutoff))
    calculator = MACECalculator(model_paths=str(model_path), device="cpu", default_dtype="float64")
    for index, (atoms, own) in enumerate([(copper, slice(0, 4)), (water, slice(4, 7))]):
        atoms.calc = calculator
        np.testing.assert_allclose(ours.energies[index], atoms.get_potential_energy(), atol=1e-8)
        np.testing.assert_allclose(ours.forces[own], atoms.get_forces(), atol=1e-8)
        np.testing.assert_allclose(ours.stress[index], atoms.get_stress(voigt=False), atol=1e-8)


def test_conforms(model_path):
    from mekrr.testing import check_backbone

    backbone = MACE.load(model_path, CPU, torch.float64, True)
    assert backbone.layer_widths == {"interaction_0": 8, "interaction_1": 8}
    assert {m.name.split("/")[0] for m in backbone.linear_maps} > {"interactions.1.linear_up", "products.1.linear"}
    check_backbone(backbone)


def test_needs_trust(model_path):
    with pytest.raises(BackboneUnavailableError, match="trust"):
        MACE.load(model_path, CPU, torch.float64, False)


def test_needs_a_path():
    with pytest.raises(BackboneUnavailableError, match="mace:path"):
        MACE.load(None, CPU, torch.float32, True)


def test_missing_package_is_named(tmp_path):
    if MACE.is_installed():
        pytest.skip("mace-torch is installed")
    (tmp_path / "some.model").touch()
    with pytest.raises(BackboneUnavailableError, match=r'pip install "mekrr\[mace\]"'):
        load_backbone(f"mace:{tmp_path / 'some.model'}")


def test_a_published_model_is_loaded_by_name_once_it_is_there(model_path, tmp_path, monkeypatch):
    monkeypatch.setattr(mace_module, "fetched_path", lambda card: model_path)
    backbone = MACE_MPA_0_MEDIUM.load(None, CPU, torch.float32, True)
    assert backbone.spec == "mace-mpa-0-medium"
    assert backbone.layers == MACE_MPA_0_MEDIUM.layers
    with pytest.raises(BackboneUnavailableError, match="trust"):
        MACE_MPA_0_MEDIUM.load(None, CPU, torch.float32, False)
    own = MACE_MPA_0_MEDIUM.load(model_path, CPU, torch.float32, True)
    assert own.spec == f"mace-mpa-0-medium:{model_path}"
    assert own.identity == backbone.identity


def test_a_published_model_says_how_to_fetch_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(BackboneUnavailableError, match="mekrr backbones fetch mace-mpa-0-medium"):
        MACE_MPA_0_MEDIUM.load(None, CPU, torch.float32, True)


def test_published_models_have_addresses_and_licences_of_their_own():
    entries = [entry for entry in vars(mace_module).values() if isinstance(entry, PublishedMACEEntry)]
    assert len({entry.card.url for entry in entries}) == len(entries) == 12
    assert {entry.card.licence for entry in entries} == {"MIT", "ASL (academic use only)"}
    assert all(entry.card.url.startswith("https://") for entry in entries)
