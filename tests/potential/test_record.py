"""Where the training structures and the inducing environments of a model come from."""

import warnings

import ase.io
import pytest
import torch

from mekrr import KernelPotential, read_structures
from mekrr.data import as_structures
from mekrr.features import extract
from mekrr.pages.explain.known import Known
from mekrr.potential.data_record import DataRecord


def test_every_inducing_environment_is_the_atom_it_is_named_after(alloys, sevennet, tmp_path):
    files = [tmp_path / name for name in ("a.extxyz", "b.extxyz")]
    for file, frames in zip(files, (alloys[:4], alloys[4:9]), strict=True):
        ase.io.write(file, frames)
    structures = read_structures(files)
    chosen = {"layers": ("interaction_1",), "length_scale": 12.0, "species_weight": 0.5, "prior": "backbone"}
    chosen |= {"ridge": 1e-4, "inducing": 11, "tangent_share": 0.0, "force_weight": 1e-3, "exact_forces": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        potential = KernelPotential("sevennet-0", probes=2, **chosen).fit(structures)
    potential.save(tmp_path / "m.safetensors")
    fitted = KernelPotential.load(tmp_path / "m.safetensors").fitted_
    places = fitted.record.solver.inducing_atoms
    assert len(places) == 11
    features = [extract([s.atoms], sevennet, ("interaction_1",)).environments.features for s in structures]
    known = Known.of(fitted)
    for g, (t, atom) in enumerate(places):
        torch.testing.assert_close(fitted.model.raw.features[g], features[t][atom], rtol=1e-4, atol=1e-5)
        structure = structures[t]
        name = f"{'a' if t < 4 else 'b'}.extxyz, index {structure.index}, atom {atom}"
        assert known.name(g, fitted) == f"{name} ({structure.atoms.symbols[atom]})"


def test_an_update_keeps_where_structures_came_from(alloys, tmp_path):
    ase.io.write(tmp_path / "z.extxyz", alloys[:2])
    ase.io.write(tmp_path / "a.extxyz", alloys[2:3])
    first, later = (DataRecord.of(read_structures(tmp_path / name)) for name in ("z.extxyz", "a.extxyz"))
    memory = DataRecord.of(as_structures(alloys[3:4]))
    both = first + memory + later
    assert both.origin(1) == (str(tmp_path / "z.extxyz"), 1)
    assert both.origin(2) is None
    assert both.origin(3) == (str(tmp_path / "a.extxyz"), 0)
    assert both.origin(9) is None


@pytest.mark.parametrize("solver", ["exact", "sparse"])
def test_models_that_do_not_know_name_environments_by_number(exact_potential, forces_potential, solver):
    fitted = (exact_potential if solver == "exact" else forces_potential).fitted_
    name = Known.of(fitted).name(2, fitted)
    assert name.startswith("training structure 2 (" if solver == "exact" else "training structure ")
