"""The piece that engines share equals predictions, for structures and for an engine's own edges."""

import os
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from ase import Atoms

from mekrr import DataError, KernelPotential
from mekrr.engines import Evaluator, Watch, WatchOptions, threads
from mekrr.engines.ipi import Provider
from mekrr.engines.openmm import Interaction
from mekrr.errors import MekrrWarning
from mekrr.graph import GraphBatch, build_batch
from mekrr.potential import Wanted
from support import copper_molecule

pytest.importorskip("sevenn")


def numerical_virial(potential, atoms, step=1e-3):
    """Minus the derivative of the energy with respect to a symmetric strain, by central differences."""
    virial = np.zeros((3, 3))
    for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)):
        energies = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[i, j] += sign * step / 2
            strain[j, i] += sign * step / 2
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ (np.eye(3) + strain))
            moved.positions = atoms.positions @ (np.eye(3) + strain)
            energies.append(potential.predict([moved], forces=False)[0].energy)
        virial[i, j] = virial[j, i] = -(energies[0] - energies[1]) / (2 * step)
    return virial


def test_structures_of_all_kinds_equal_predictions(forces_potential, alloys):
    structures = [alloys[30].copy(), copper_molecule(), alloys[31].copy()]
    wanted = Wanted(energy_std=True, atomic_std=True, forces_std=True)
    found = Evaluator(forces_potential, wanted)(structures)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = forces_potential.predict(
            structures, uncertainty=True, atomic_uncertainty=True, force_uncertainty=True
        )
    for atoms, f, e in zip(structures, found, expected, strict=True):
        assert f.energy == pytest.approx(e.energy, abs=1e-6)
        assert f.energy_std == pytest.approx(e.energy_std, rel=1e-6)
        assert f.deviation == pytest.approx(1000 * e.energy_std / len(atoms))
        np.testing.assert_allclose(f.forces, e.forces, atol=1e-6)
        np.testing.assert_allclose(f.atomic_energies, e.atomic_energies, atol=1e-6)
        np.testing.assert_allclose(f.atomic_std, e.atomic_energies_std, rtol=1e-6)
        np.testing.assert_allclose(f.forces_std, e.forces_std, rtol=1e-4)
        if e.stress is not None:
            np.testing.assert_allclose(f.virial, -atoms.get_volume() * e.stress, atol=1e-6)


@pytest.mark.parametrize("kind", ["cell smaller than the cutoff", "molecule"])
def test_the_virial_is_minus_the_strain_derivative(potential, alloys, kind):
    atoms = copper_molecule() if kind == "molecule" else alloys[30].copy()
    (found,) = Evaluator(potential)([atoms])
    expected = numerical_virial(potential, atoms)
    np.testing.assert_allclose(found.virial, expected, atol=2e-3 * np.abs(expected).max() + 1e-3)


def test_beads_keep_their_neighbour_lists(potential, alloys):
    beads = [alloys[30].copy(), alloys[30].copy(), alloys[31].copy()]
    evaluator = Evaluator(potential)
    evaluator(beads)
    for atoms in beads:
        atoms.positions += 0.02
    found = evaluator(beads)
    assert [graph.n_searches for graph in evaluator._graphs] == [1, 1, 1]
    for f, e in zip(found, potential.predict(beads), strict=True):
        np.testing.assert_allclose(f.forces, e.forces, atol=1e-5)


def test_edges_of_an_engine_in_any_order(potential, alloys):
    atoms = alloys[31]
    graph = build_batch([atoms], Evaluator(potential).cutoff)
    shuffle = torch.randperm(len(graph.centre), generator=torch.Generator().manual_seed(0))
    given = GraphBatch.from_tensors(
        graph.species, graph.centre[shuffle], graph.neighbour[shuffle], graph.edge_vectors()[shuffle], cells=graph.cells
    )
    found = Evaluator(potential).graph(given)
    (expected,) = potential.predict([atoms])
    assert float(found.energies[0]) == pytest.approx(expected.energy, abs=1e-5)
    np.testing.assert_allclose(found.forces.numpy(), expected.forces, atol=1e-5)
    np.testing.assert_allclose(found.stress[0].numpy(), expected.stress, atol=1e-7)


def test_wrong_elements_are_named_for_structures_and_edges(potential):
    strange = Atoms("Cu2No", positions=np.arange(9).reshape(3, 3))
    with pytest.raises(DataError, match="No"):
        Evaluator(potential)([strange])
    graph = build_batch([strange], 5.0)
    with pytest.raises(DataError, match="No"):
        Evaluator(potential).graph(graph)


def test_the_mean_embedding_is_refused(alloys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mean = KernelPotential(embedding="mean", layers=("interaction_1",), prior="backbone", length_scale=12.0).fit(
            alloys[:6]
        )
    with pytest.raises(ValueError, match="--embedding sum"):
        Evaluator(mean)


def test_deviations_that_the_potential_lacks_are_refused(exact_potential, alloys):
    assert Evaluator(exact_potential)([alloys[30]])[0].energy_std is None
    with pytest.raises(ValueError, match="trained without forces"):
        Evaluator(exact_potential, Wanted(forces_std=True))


def test_edges_are_refused_by_a_backbone_with_a_cap(potential, alloys, monkeypatch):
    evaluator = Evaluator(potential)
    monkeypatch.setattr(type(evaluator._backbone), "max_neighbours", 8, raising=False)
    with pytest.raises(ValueError, match="8 nearest neighbours"):
        evaluator.graph(build_batch([alloys[30]], 5.0))


def test_threads_are_those_given_and_restored(potential):
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    for wrong in (0, len(os.sched_getaffinity(0)) + 1):
        with pytest.raises(ValueError, match=f"threads must be from 1 to .*received {wrong}"):
            Evaluator(potential, threads=wrong)


def test_an_evaluation_takes_the_threads_it_was_given(potential, alloys, monkeypatch):
    seen = []
    backbone = potential.backbone
    forward = type(backbone).forward

    def spied(self, *arguments, **named):
        seen.append(torch.get_num_threads())
        return forward(self, *arguments, **named)

    monkeypatch.setattr(type(backbone), "forward", spied)
    with threads(2):
        Evaluator(potential, threads=1)([alloys[30]])
        assert torch.get_num_threads() == 2
    assert seen == [1]


@pytest.mark.parametrize("program", ["i-PI", "OpenMM"])
def test_a_template_with_a_charge_that_was_never_fitted_is_remarked_upon(forces_potential, program):
    """Simulation programs tell no charge: what is known of it is in the template."""
    template = copper_molecule()
    template.info["charge"] = 2
    if program == "OpenMM":
        pytest.importorskip("openmm", reason='OpenMM is not installed: pip install ".[openmm]"')
        begin = partial(Interaction, forces_potential, template)
    else:
        begin = partial(
            Provider, Evaluator(forces_potential), template, Watch(WatchOptions(), forces_potential.fitted_.record)
        )
    with pytest.warns(MekrrWarning, match="charge 2: training structures have 0"):
        begin()
