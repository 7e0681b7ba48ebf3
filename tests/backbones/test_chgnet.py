"""CHGNet through mekrr equals CHGNet through its own calculator."""

import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111

from mekrr.backbones import load_backbone
from mekrr.backbones.derivatives import energy_forces_stress
from mekrr.errors import BackboneUnavailableError
from mekrr.graph import build_batch

pytest.importorskip("chgnet", reason="mekrr[chgnet] is not installed")


def structures():
    """Rattled: with angles, across a vacuum, and one too sparse to have angles."""
    salt, slab, sparse = bulk("NaCl", "rocksalt", a=5.6), fcc111("Cu", (2, 2, 2), vacuum=6.0), bulk("Ne", "fcc", a=6.5)
    slab.pbc = True
    for atoms in (salt, slab, sparse):
        atoms.rattle(0.08, seed=3)
    return [salt, slab, sparse]


@pytest.fixture(params=["0.3.0", "r2scan"])
def version(request):
    return request.param


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_energy_forces_stress_equal_their_calculator(version):
    from chgnet.model import CHGNet
    from chgnet.model.dynamics import CHGNetCalculator

    backbone = load_backbone(f"chgnet-{version}")
    atoms_list = structures()
    ours = energy_forces_stress(backbone, build_batch(atoms_list, backbone.cutoff))
    model = CHGNet.load(model_name=version, use_device="cpu", verbose=False)
    calculator = CHGNetCalculator(model, use_device="cpu", return_site_energies=True)
    first = 0
    for index, atoms in enumerate(atoms_list):
        atoms.calc = calculator
        own = slice(first, first + len(atoms))
        np.testing.assert_allclose(ours.energies[index], atoms.get_potential_energy(), atol=2e-5)
        np.testing.assert_allclose(ours.atomic_energies[own], calculator.results["energies"], atol=1e-5)
        # The package rounds fractional coordinates to float32; mekrr takes differences before rounding.
        np.testing.assert_allclose(ours.forces[own], atoms.get_forces(), atol=1e-4)
        np.testing.assert_allclose(ours.stress[index], atoms.get_stress(voigt=False), atol=1e-5)
        first += len(atoms)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_features_are_theirs_before_the_last_convolution():
    from chgnet.model import CHGNet
    from pymatgen.io.ase import AseAtomsAdaptor

    backbone = load_backbone("chgnet-0.3.0")
    atoms = structures()[1]
    graph = build_batch([atoms], backbone.cutoff)
    features = backbone.forward(graph, graph.edge_vectors(), ["convolution_2"]).features
    model = CHGNet.load(use_device="cpu", verbose=False)
    theirs = model.predict_structure(AseAtomsAdaptor.get_structure(atoms), return_atom_feas=True)["atom_fea"]
    np.testing.assert_allclose(features, theirs, atol=2e-4)


def test_loading_prints_nothing(capfd):
    from mekrr.backbones.chgnet import CHGNET_0_3_0

    CHGNET_0_3_0.load(None, torch.device("cpu"), torch.float32, False)
    assert capfd.readouterr().out == ""


def test_elements_absent_from_the_training_data_are_refused():
    backbone = load_backbone("chgnet-0.3.0")
    assert len(backbone.known_species) == 89
    with pytest.raises(ValueError, match="not trained on Po"):
        backbone.check_species([84])


def test_takes_no_path(tmp_path):
    file = tmp_path / "own.pth"
    file.touch()
    with pytest.raises(BackboneUnavailableError, match="takes no path"):
        load_backbone(f"chgnet-0.3.0:{file}")
