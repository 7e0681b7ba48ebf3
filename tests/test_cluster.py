"""A real scheduler and real workers, each a process of its own."""

import os
import signal

import numpy as np
import pytest
import torch
from published_schnet import published

from mekrr import KernelPotential
from mekrr.active import select
from mekrr.backbones import load_backbone
from mekrr.cluster import ClusterShards, connected
from mekrr.errors import BackboneUnavailableError, ClusterError
from mekrr.evaluation import evaluate
from mekrr.features import extract
from mekrr.potential.archive import _tensors
from mekrr.shards import FAN, HERE
from shards import divided, spelled, times_set

pytestmark = pytest.mark.slow  # processes that load the network; some of them are killed

OPTIONS = {
    "length_scale": 6.0, "species_weight": 0.5, "prior": "composition", "force_weight": 1e-3, "ridge": 1e-5,
    "inducing": 20, "tangent_share": 0.6, "probes": 2, "batch_atoms": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def two():
    """Two worker processes."""
    with connected("local:2") as shards:
        shards.client.wait_for_workers(2, timeout=120)
        yield shards


@pytest.fixture(scope="module")
def backbone(tmp_path_factory, network):
    """A small SchNet by its path, which workers load by themselves."""
    path = tmp_path_factory.mktemp("weights") / "schnet.pt"
    torch.save(published(network), path)
    return f"schnet:{path}"


def fitted_to(structures, backbone, cluster=None, progress=None, **options):
    """A fit with one thread, as workers have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return KernelPotential(backbone, cluster=cluster, **OPTIONS | options).fit(structures, progress=progress)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def alone(alloys, backbone):
    """What one process makes of it."""
    return fitted_to(alloys[:6], backbone)


def assert_same_model(found, expected):
    one, other = _tensors(found.fitted_), _tensors(expected.fitted_)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("kept", [True, False])
def test_two_workers_give_the_bits_of_one_process(two, alone, alloys, backbone, tmp_path, kept):
    """Whether features and derivatives stay in a cache or not."""
    two.client.wait_for_workers(2, timeout=120)
    found = fitted_to(alloys[:6], backbone, two, cache=tmp_path / "cache" if kept else None)
    assert_same_model(found, alone)
    work = found.fitted_.record.work
    assert {one.stage for one in work} == {"features", "derivatives", "exact forces"}
    # who gets what is the scheduler's affair: with so little to do, one may be done before the other begins
    assert {one.worker for one in work} <= set(two.client.scheduler_info()["workers"])
    assert sum(one.shards for one in work if one.stage == "features") >= 3
    assert all(one.seconds > 0 for one in work)
    if kept:
        assert not list((tmp_path / "cache").glob(".shared*"))
        again = fitted_to(alloys[:6], backbone, two, cache=tmp_path / "cache")
        assert {one.stage for one in again.fitted_.record.work} == {"exact forces"}


@pytest.mark.parametrize("stage", ["features", "derivatives", "exact forces"])
def test_a_worker_that_is_killed_is_replaced_and_the_model_is_the_same(two, alone, alloys, backbone, stage):
    """By SIGKILL, as soon as the stage has got anywhere."""
    two.client.wait_for_workers(2, timeout=120)
    before = two.client.run(os.getpid)
    pids = list(before.values())

    def kill(name, done, total):
        if name == stage and len(pids) == 2:
            os.kill(pids.pop(), signal.SIGKILL)

    found = fitted_to(alloys[:6], backbone, two, kill)
    assert len(pids) == 1
    assert_same_model(found, alone)
    two.client.wait_for_workers(2, timeout=120)  # Dask starts another one
    after = two.client.run(os.getpid)
    assert len(set(after.values()) - set(before.values())) == 1


def test_a_client_of_ones_own_and_predictions(two, alone, alloys, backbone):
    potential = fitted_to(alloys[:6], backbone)
    potential.shards = ClusterShards(client=two.client)
    there = evaluate(potential, alloys[10:13]).predictions
    here = evaluate(alone, alloys[10:13]).predictions
    for one, other in zip(there, here, strict=True):
        assert one.energy == pytest.approx(other.energy, abs=1e-6)
        np.testing.assert_allclose(one.forces, other.forces, atol=1e-5)
    assert {one.stage for one in potential.shards.work} == {"predict"}


def test_a_selection_is_that_of_one_process(two, alone, alloys):
    pool = alloys[10:15]
    expected = select(alone, pool, 2).indices
    alone.shards = two
    try:
        assert select(alone, pool, 2).indices == expected
    finally:
        alone.shards = HERE
    assert {"weight gradients", "features"} <= {one.stage for one in two.work}


def test_an_error_in_a_shard_is_the_same_error(two):
    with pytest.raises(ZeroDivisionError):
        list(two.map(divided, [1, 0, 2]))
    assert list(two.map(divided, [1, 2])) == [1.0, 0.5]


def test_workers_keep_freed_memory(two):
    """Against Dask's setting, with which they take twice as long."""
    assert set(two.map(times_set, range(4))) == {1}


def test_sums_are_made_in_the_same_tree(two):
    n = FAN**2 + FAN + 1
    found = two.sum(spelled, range(n))
    assert found == HERE.sum(spelled, range(n))
    with pytest.raises(ValueError, match="there are no structures to sum over"):
        two.sum(spelled, [])


def test_a_scheduler_that_does_not_answer_is_a_sentence(monkeypatch):
    monkeypatch.setattr("mekrr.cluster.starting.ANSWER", 1.0)
    with (
        pytest.raises(ClusterError, match=r"tcp://127\.0\.0\.1:9: no scheduler answers there within 1 s"),
        connected("tcp://127.0.0.1:9"),
    ):
        pass


def test_workers_with_another_version_are_refused(two, monkeypatch):
    monkeypatch.setattr("mekrr.cluster.computing.__version__", "0.0.1")
    with pytest.raises(ClusterError, match=r"worker tcp://.* \(and 1 more\) has mekrr .*, the one that asks 0\.0\.1"):
        ClusterShards(client=two.client)
    with pytest.raises(ClusterError, match=r"has mekrr 0\.1\.0, the one that asks 0\.0\.1"):
        list(two.map(divided, [1]))


def test_workers_with_other_weights_are_refused(two, backbone, alloys):
    """As where a file of one path differs from machine to machine."""
    other = object.__new__(type(load_backbone(backbone)))
    vars(other).update(vars(load_backbone(backbone)) | {"weights_hash": "0000"})
    with pytest.raises(BackboneUnavailableError, match=r"has the weights schnet:.*, but schnet:0000 is asked for"):
        extract(alloys[:2], other, other.layers[:1], shards=two)


@pytest.mark.parametrize("where", ["local:0", "local:two", "local", "somewhere", "local:-1"])
def test_what_is_no_cluster_is_refused(where):
    with pytest.raises(ValueError, match="--cluster"), connected(where):
        pass


def test_what_is_no_client_is_refused():
    with pytest.raises(TypeError, match=r"cluster must be a dask\.distributed\.Client; received str"):
        KernelPotential("sevennet-0", cluster="local:2")
