"""Threads against one after another: PyTorch keeps forward-mode levels once for the whole process."""

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from ase.mep import NEB

from mekrr import Calculator, KernelPotential
from mekrr.backbones.derivatives import directional_derivatives
from mekrr.backbones.process_state import deterministic
from mekrr.graph import build_batch
from mekrr.threads import idle_first, side_by_side, spinning, threads

pytest.importorskip("sevenn")

THREADS = 8
ROUNDS = 2


def at_once(work, items, rounds=ROUNDS):
    """What `work` gives for each item when eight threads do it together, several times over."""
    with ThreadPoolExecutor(THREADS) as pool:
        return [list(pool.map(work, items)) for _ in range(rounds)]


def numbers(potential, atoms, force_uncertainty=False):
    """What a pass gives, as one array; deviations of forces, which take sixteen passes, on request."""
    (found,) = potential.predict([atoms], uncertainty=True, force_uncertainty=force_uncertainty)
    parts = [found.forces, found.stress, found.atomic_energies, *([found.forces_std] if force_uncertainty else [])]
    return np.concatenate([[found.energy, found.energy_std], *(part.ravel() for part in parts)])


@pytest.fixture(scope="module", params=["shared", "one each"])
def potentials(request, potential, tmp_path_factory):
    """A potential a thread: the same one, or one each from a file."""
    if request.param == "shared":
        return [potential] * THREADS
    path = tmp_path_factory.mktemp("threads") / "m.safetensors"
    potential.save(path)
    return [KernelPotential.load(path) for _ in range(THREADS)]


def test_predictions_have_the_bits_of_one_thread(potentials, alloys):
    jobs = list(zip(potentials, alloys[20 : 20 + THREADS], strict=True))
    alone = [numbers(*job) for job in jobs]
    for together in at_once(lambda job: numbers(*job), jobs):
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one, other)


def test_deviations_of_forces_have_the_bits_of_one_thread(potential, alloys, tmp_path):
    """The first to ask for them makes what all need: on a potential that nobody has asked yet."""
    potential.save(tmp_path / "m.safetensors")
    asked, fresh = (KernelPotential.load(tmp_path / "m.safetensors") for _ in range(2))
    frames = alloys[20:22]
    (together,) = at_once(lambda atoms: numbers(fresh, atoms, force_uncertainty=True), frames, rounds=1)
    for atoms, found in zip(frames, together, strict=True):
        np.testing.assert_array_equal(found, numbers(asked, atoms, force_uncertainty=True))


def test_forward_and_reverse_mode_at_once(potential, alloys):
    """Half of the threads take directional derivatives of features, as a fit does, the others forces."""
    backbone = potential.backbone

    def work(k):
        if k % 2:
            return numbers(potential, alloys[20 + k])
        graph = build_batch([alloys[20 + k]], backbone.cutoff)
        directions = torch.ones(2, len(alloys[20 + k]), 3, dtype=torch.float64).cumsum(1)
        return directional_derivatives(backbone, graph, directions).numpy()

    alone = [work(k) for k in range(THREADS)]
    for together in at_once(work, range(THREADS)):
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one, other)


def test_threads_that_share_a_calculator(potential, alloys):
    calculator = Calculator(potential, uncertainty=True)

    def walk(atoms):
        atoms = atoms.copy()
        atoms.calc = calculator
        found = []
        for _ in range(2):
            atoms.positions[0, 0] += 0.01
            found.append([atoms.get_potential_energy(), *atoms.get_forces().ravel()])
        return found

    frames = alloys[20 : 20 + THREADS]
    alone = [walk(atoms) for atoms in frames]
    for together in at_once(walk, frames):
        assert together == alone


def test_a_band_of_images_in_parallel(potential, alloys):
    def band(parallel):
        images = [alloys[30].copy() for _ in range(6)]
        images[-1].positions[0] += 0.4
        neb = NEB(images, parallel=parallel, method="improvedtangent")
        neb.interpolate()
        for image in images:
            image.calc = Calculator(potential)
        return neb.get_forces(), neb.energies

    for one, other in zip(band(False), band(True), strict=True):
        np.testing.assert_array_equal(one, other)


def test_determinism_is_restored_by_the_last_that_leaves():
    before = torch.are_deterministic_algorithms_enabled()
    first, second = deterministic(), deterministic()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.are_deterministic_algorithms_enabled()
    second.__exit__(None, None, None)
    assert torch.are_deterministic_algorithms_enabled() == before


def test_side_by_side_keeps_the_order_and_gives_each_one_thread():
    """Two wait for each other, which a loop would do for ever; what PyTorch had before it has again."""
    meeting = threading.Barrier(2, timeout=30)

    def met(k):
        meeting.wait()
        return k, torch.get_num_threads(), threading.get_ident()

    def broken(k):
        raise ValueError(f"number {k}")

    with threads(2):
        found = side_by_side(met, range(4), 8)
        assert torch.get_num_threads() == 2
        with pytest.raises(ValueError, match="number 0"):
            side_by_side(broken, range(4), 8)
        assert torch.get_num_threads() == 2
    assert [each[:2] for each in found] == [(k, 1) for k in range(4)]
    assert threading.get_ident() not in {each[2] for each in found}


@pytest.mark.parametrize(("count", "given", "most"), [(1, [1, 2], 8), (2, [1], 8), (2, [1, 2], 1), (2, [], 8)])
def test_a_loop_where_nothing_can_be_side_by_side(count, given, most):
    with threads(count):
        found = side_by_side(lambda k: (k, torch.get_num_threads(), threading.get_ident()), given, most)
    assert found == [(k, count, threading.get_ident()) for k in given]


def test_a_fit_on_a_busy_machine_says_that_its_threads_spin(alloys, monkeypatch):
    """Where threads would not sleep and fewer cores were idle than there are threads, as long as it has so many."""
    chosen = {"layers": ("interaction_1",), "length_scale": 12.0, "prior": "backbone", "forces": False}

    def said(count, idle, policy):
        idle_first.cache_clear()
        monkeypatch.setattr("mekrr.threads.idle_cores", lambda: idle)
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
        with threads(count), warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            for _ in range(2):
                KernelPotential("sevennet-0", **chosen).fit(alloys[:4])
        return [str(w.message) for w in heard if "threads" in str(w.message)]

    (first, _) = said(2, 0.9, "")
    assert "PyTorch has 2 threads, and 0.9 cores were idle" in first
    with threads(1):
        assert spinning() is None  # the advice was taken
    assert not said(2, 1.9, "")
    assert not said(2, 0.9, "passive")
    assert not said(1, 0.1, "")
    idle_first.cache_clear()
