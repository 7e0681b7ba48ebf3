"""What a fit does with a feature file is what it does with the network."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from ase.build import bulk

from mekrr import KernelPotential
from mekrr.data import as_structures
from mekrr.errors import DataError, FeatureFileError, ModelFileError
from mekrr.features import FeatureFile, RecordedBackbone, write_features
from mekrr.graph import build_batch

FIXED = {"layers": ("interaction_1",), "length_scale": 12.0, "species_weight": 0.5, "prior": "backbone"}
FIXED |= {"force_weight": 1e-3, "ridge": 1e-4, "inducing": 40}
PLAIN = FIXED | {"tangent_share": 0.0}

pytestmark = pytest.mark.filterwarnings("ignore::mekrr.errors.MekrrWarning")


@pytest.fixture(scope="module")
def training(alloys):
    return as_structures(alloys[:12:2])  # of four atoms each


@pytest.fixture(scope="module")
def path(training, alloys, sevennet, tmp_path_factory):
    path = tmp_path_factory.mktemp("features") / "alloys.safetensors"
    write_features(path, training, sevennet, probes=4)
    return path


@pytest.fixture(scope="module")
def unlabelled(alloys, sevennet, tmp_path_factory):
    path = tmp_path_factory.mktemp("features") / "new.safetensors"
    write_features(path, as_structures(alloys[30:33]), sevennet, probes=None)
    return path


@pytest.fixture(scope="module")
def without_network(path, training):
    return KernelPotential(features=path, **PLAIN).fit(training)


def test_the_fit_is_that_of_the_network(without_network, training):
    there = KernelPotential("sevennet-0", probes=4, exact_forces=False, **PLAIN).fit(training)
    assert torch.equal(there.fitted_.model.coefficients, without_network.fitted_.model.coefficients)
    assert without_network.fitted_.record.backbone == there.fitted_.record.backbone
    assert without_network.fitted_.record.options.probes == 4
    assert any("stops at these" in message for message in without_network.fitted_.record.warnings)


def test_rows_of_the_tangent_kernel_travel_too(path, training):
    here = KernelPotential(features=path, **FIXED, tangent_share=0.6).fit(training)
    plain = {"probes": 4, "exact_forces": False, "anchors": "none"}
    there = KernelPotential("sevennet-0", **plain, **FIXED, tangent_share=0.6).fit(training)
    assert torch.equal(there.fitted_.model.coefficients, here.fitted_.model.coefficients)


def test_all_directions_are_the_full_solution(training, sevennet, tmp_path):
    write_features(tmp_path / "all.safetensors", training[:4], sevennet, probes="all")
    options = PLAIN | {"inducing": 10}
    here = KernelPotential(features=tmp_path / "all.safetensors", **options).fit(training[:4])
    there = KernelPotential("sevennet-0", probes="all", **options).fit(training[:4])
    assert torch.equal(there.fitted_.model.coefficients, here.fitted_.model.coefficients)
    assert not any("stops at these" in message for message in here.fitted_.record.warnings)


def test_predictions_are_those_of_the_network(without_network, unlabelled, alloys, tmp_path):
    without_network.save(tmp_path / "model.safetensors")
    chosen = alloys[30:33]
    there = KernelPotential.load(tmp_path / "model.safetensors").predict(chosen, uncertainty=True)
    potential = KernelPotential.load(tmp_path / "model.safetensors", features=unlabelled)
    with pytest.warns(UserWarning, match=r"no forces and no stress.*sevennet-0"):
        here = potential.predict(chosen, uncertainty=True)
    for one, other in zip(here, there, strict=True):
        assert one.forces is None
        assert one.energy == pytest.approx(other.energy, abs=1e-9)
        assert one.energy_std == pytest.approx(other.energy_std, rel=1e-9)
        np.testing.assert_allclose(one.atomic_energies, other.atomic_energies, atol=1e-9)
        assert one.backbone_energy == pytest.approx(other.backbone_energy, abs=1e-9)


def test_a_fit_of_energies_alone(training, sevennet, tmp_path):
    write_features(tmp_path / "energies.safetensors", training, sevennet, probes=None)
    fit = KernelPotential(features=tmp_path / "energies.safetensors", layers=("interaction_1",), length_scale=12.0)
    assert any("energies alone" in message for message in fit.fit(training).fitted_.record.warnings)
    assert not fit.fitted_.record.solver.forces
    with pytest.raises(DataError, match="holds no derivatives"):
        KernelPotential(features=tmp_path / "energies.safetensors", forces=True).fit(training)


def test_a_potential_with_a_file_can_be_pickled(without_network, training):
    copy = pickle.loads(pickle.dumps(without_network))
    (one,), (other,) = (p.predict(training[:1], forces=False) for p in (copy, without_network))
    assert one.energy == other.energy


def test_structures_that_are_not_there_are_named(path, alloys, without_network):
    with pytest.raises(DataError, match=r"no features of 2 of 4 structures, first .*index 2.*mekrr features"):
        KernelPotential(features=path, **PLAIN).fit([*alloys[:4:2], *alloys[20:22]])
    with pytest.raises(DataError, match="no features of 1 of 1"):
        without_network.predict(alloys[20:21], forces=False)


def test_other_labels_than_the_file_was_made_with_are_refused(path, training):
    changed = [dataclasses.replace(s, forces=s.forces * 1.01) for s in training]
    with pytest.raises(DataError, match=r"along its forces: the labels were others"):
        KernelPotential(features=path, **PLAIN).fit(changed)


def test_what_the_file_was_not_made_for_is_refused(path, training, without_network, tmp_path):
    for options, message in (
        ({"backbone": "chgnet-0.3.0"}, "made with backbone sevennet-0, and backbone chgnet-0.3.0 was asked for"),
        ({"probes": 16}, "made with probes 4, and probes 16"),
        ({"seed": 3}, "made with seed 0, and seed 3"),
    ):
        with pytest.raises(ValueError, match=message):
            KernelPotential(**{"features": path, **PLAIN, **options}).fit(training)
    with pytest.raises(ValueError, match="deviation of forces needs the network"):
        without_network.predict(training[:1], force_uncertainty=True)
    with pytest.raises(ValueError, match="an update needs the network"):
        without_network.update(training[:1])


def test_a_subset_has_no_tangent_rows_and_that_is_said(path, training):
    with pytest.raises(ValueError, match="no rows of its tangent kernel for exactly this training set"):
        KernelPotential(features=path, **FIXED, tangent_share=0.5).fit(training[:5])
    potential = KernelPotential(features=path, **FIXED).fit(training[:5])
    assert any("for exactly this training set" in message for message in potential.fitted_.record.warnings)


def test_a_tangent_kernel_predicts_where_the_network_is(path, training):
    potential = KernelPotential(features=path, **FIXED, tangent_share=0.6).fit(training)
    with pytest.raises(ValueError, match=r"tangent kernel.*--tangent-share 0"):
        potential.predict(training[:1], forces=False)


def test_features_of_other_weights_are_refused(without_network, unlabelled, alloys, tmp_path):
    from safetensors.torch import load_file, save_file

    from mekrr.features.feature_file import HEADER, NetworkRecord, _opened

    made: NetworkRecord = _opened(unlabelled)[0]
    import msgspec

    other = msgspec.json.encode(dataclasses.replace(made, weights_hash="0" * 64)).decode()
    save_file(load_file(unlabelled), tmp_path / "other.safetensors", metadata={HEADER: other})
    without_network.save(tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match="features would not be comparable"):
        KernelPotential.load(tmp_path / "model.safetensors", features=tmp_path / "other.safetensors").predict(
            alloys[30:31], forces=False
        )


def test_no_feature_file(path, without_network, tmp_path):
    without_network.save(tmp_path / "model.safetensors")
    with pytest.raises(FeatureFileError, match="no feature file"):
        FeatureFile(tmp_path / "model.safetensors")
    (tmp_path / "cut").write_bytes(path.read_bytes()[:5000])
    with pytest.raises(FeatureFileError, match="truncated"):
        FeatureFile(tmp_path / "cut")
    with pytest.raises(FileNotFoundError):
        FeatureFile(tmp_path / "none")


def test_the_recorded_network_has_no_gradients(path, training):
    recorded = RecordedBackbone(FeatureFile(path))
    graph = build_batch([training[0].atoms], recorded.cutoff)
    with pytest.raises(FeatureFileError, match="it has no forces"):
        recorded.forward(graph, graph.edge_vectors().requires_grad_(True), recorded.layers)
    stranger = build_batch([bulk("Cu")], recorded.cutoff)
    with pytest.raises(FeatureFileError, match="no features of a structure of 1 atoms"):
        recorded.forward(stranger, stranger.edge_vectors(), recorded.layers)
