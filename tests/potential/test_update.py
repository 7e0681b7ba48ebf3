import warnings
from copy import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from mekrr import KernelPotential
from mekrr.data import as_structures
from mekrr.errors import DataError, ModelFileError
from mekrr.features import probe
from mekrr.features.extraction import extract
from mekrr.potential.archive import save_fitted
from mekrr.prior import Compositions, column_coefficients, fit_prior
from support import labelled

pytest.importorskip("sevenn")

FIXED = {"layers": ("interaction_1",), "length_scale": 12.0, "species_weight": 0.5, "ridge": 1e-4, "prior": "backbone"}
FIXED |= {"tangent_share": 0.0}


def fit(structures, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen = FIXED | {"force_weight": 1e-3, "inducing": 40} | options
        return KernelPotential("sevennet-0", **chosen).fit(structures)


@pytest.fixture(scope="module")
def probed(alloys):
    return fit(alloys[:14], exact_forces=False)


def refit_energies(potential, everything, test):
    """The dense least-squares solution over all structures, in the basis that the potential has."""
    model, backbone = potential.fitted_.model, potential.backbone
    structures = as_structures(everything)
    extraction = extract([s.atoms for s in structures], backbone, potential.fitted_.layers)
    store = probe(structures, backbone, potential.fitted_.layers, potential.options.probes, potential.options.seed)
    x = model.scaler(extraction.environments)
    energies = torch.tensor([s.energy for s in structures], dtype=torch.float64)
    compositions = Compositions.of(x.species, x.n_atoms)
    _, linear, design = fit_prior("backbone", energies, compositions, extraction.energies)
    gamma = column_coefficients(design, linear.beta, compositions.elements)
    left, right = [], []
    for t, s in enumerate(structures):
        found = store(t)
        one = x[torch.tensor([t])]
        rows = model.basis.rows(one, found.features.double() / model.scaler.scale)
        columns = torch.cat([energies[t, None], extraction.energies[t, None], compositions.counts[t]])
        targets = torch.cat([(columns @ gamma)[None], found.dft * gamma[0] + found.own * gamma[1]])
        root = torch.full((len(targets),), model.weights.force, dtype=torch.float64).sqrt()
        root[0] = len(s) ** -0.5
        left.append(rows * root[:, None])
        right.append(targets * root)
    A, b = torch.cat(left), torch.cat(right)
    c = torch.linalg.solve(A.T @ A + model.ridge * torch.eye(A.shape[1], dtype=A.dtype), A.T @ b)
    own = extract(test, backbone, potential.fitted_.layers)
    y = model.scaler(own.environments)
    psi = torch.cat([model.basis.rows(y[torch.tensor([t])], None) for t in range(len(test))])
    counts = Compositions.of(y.species, y.n_atoms, compositions.elements).counts
    return (psi @ c + own.energies + counts @ linear.beta).numpy()


def test_update_equals_the_refit(alloys, tmp_path):
    potential = fit(alloys[:14], exact_forces=False)
    potential.save(tmp_path / "m.safetensors")
    loaded = KernelPotential.load(tmp_path / "m.safetensors")  # the old structures are not there
    before = loaded.fitted_.model.coefficients.clone()
    loaded.update(alloys[14:20])
    test = alloys[30:34]
    expected = refit_energies(loaded, alloys[:20], test)
    assert not torch.allclose(before, loaded.fitted_.model.coefficients)
    assert [p.energy for p in loaded.predict(test)] == pytest.approx(
        expected, abs=1e-5
    )  # features of another batch differ in float32


def test_two_updates_equal_one(alloys, probed, tmp_path):
    probed.save(tmp_path / "m.safetensors")
    once, twice = (KernelPotential.load(tmp_path / "m.safetensors") for _ in range(2))
    once.update(alloys[14:20])
    twice.update(alloys[14:17]).update(alloys[17:20])
    assert [p.energy for p in once.predict(alloys[30:])] == pytest.approx(
        [p.energy for p in twice.predict(alloys[30:])], abs=1e-5
    )
    assert once.fitted_.record.data.n_structures == 20
    assert len(twice.fitted_.record.updates) == 2
    once.save(tmp_path / "u.safetensors")
    again = KernelPotential.load(tmp_path / "u.safetensors")
    assert again.predict(alloys[30:31])[0].energy == once.predict(alloys[30:31])[0].energy


def test_one_more_structure_after_exact_forces_is_nearly_the_refit(alloys):
    """The moments kept are those whose probed solution is the full one; the probes' own would undo the iteration."""

    def forces(potential):
        return np.concatenate([p.forces.ravel() for p in potential.predict(alloys[26:30])])

    refit = forces(fit(alloys[:11], probes=4))
    updated = fit(alloys[:10], probes=4)
    before = forces(updated)
    probed = forces(fit(alloys[:11], probes=4, exact_forces=False))
    after = forces(updated.update(alloys[10:11]))
    assert np.linalg.norm(after - refit) < 0.5 * np.linalg.norm(probed - refit)
    assert np.linalg.norm(after - before) > 0


def test_structures_already_there_are_left_out(alloys, probed, tmp_path):
    probed.save(tmp_path / "m.safetensors")
    potential = KernelPotential.load(tmp_path / "m.safetensors").update([*alloys[:3], alloys[20]])
    assert potential.fitted_.record.data.n_structures == 15
    with pytest.raises(DataError, match="in the training set already"):
        potential.update([alloys[20]])


def test_strangers_are_refused(alloys, probed):
    other = alloys[0].copy()
    other.numbers[0] = 47
    other.calc = alloys[0].calc
    labelled = as_structures([alloys[0]])[0]
    atoms = labelled.atoms.copy()
    atoms.numbers[0] = 47
    stranger = type(labelled)(atoms=atoms, energy=labelled.energy, forces=labelled.forces)
    with pytest.raises(DataError, match="not in training"):
        probed.update([stranger])


def test_another_backbone_is_refused(alloys, probed, tmp_path):
    record = probed.fitted_.record
    strange = replace(record, backbone=replace(record.backbone, identity="other weights"))
    save_fitted(replace(probed.fitted_, record=strange), tmp_path / "m.safetensors")
    with pytest.raises(ModelFileError, match="fitted with other weights"):
        KernelPotential.load(tmp_path / "m.safetensors").update(alloys[20:22])


def test_the_exact_solver_cannot_be_updated(alloys):
    with pytest.raises(ValueError, match="only potentials of the sparse solver"):
        fit(alloys[:8], solver="exact", inducing="auto", force_weight="auto").update(alloys[8:10])


def test_what_is_new_twice_is_added_once(probed, alloys):
    once, twice = copy(probed), copy(probed)
    written = [alloys[t].copy() for t in (15, 2)]
    for atoms in written:
        atoms.positions = atoms.positions.round(5)
    rounded, known = (labelled(atoms) for atoms in written)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        once.update(alloys[14:16])
        twice.update([*alloys[14:16], rounded, known])
    assert twice.fitted_.record.data.n_structures == once.fitted_.record.data.n_structures == 16
    assert len(twice.fitted_.labels.sketches) == 16
    assert torch.equal(twice.fitted_.model.coefficients, once.fitted_.model.coefficients)
