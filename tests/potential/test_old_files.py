"""Model files of format 2 predict what the version that wrote them predicted (files/make_format_2.py)."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mekrr import KernelPotential
from mekrr.features import Environments
from mekrr.potential.archive import load_fitted
from support import alloy

FILES = Path(__file__).parent / "files"
NAMES = ("exact_sum", "exact_mean", "sparse_forces")


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def test_the_kernel_part_is_the_old_one(name):
    """Features are given, so that no backbone rounds them."""
    fitted, old = load_fitted(FILES / f"{name}.safetensors"), load_file(FILES / f"{name}_kernel.safetensors")
    x = fitted.scaler(Environments(old["features"], old["species"], old["n_atoms"]))
    found = fitted.function(x, rows=True)
    for new, expected in ((found.atomic_energies, old["atomic_energies"]), (found.slopes, old["slopes"])):
        torch.testing.assert_close(new, expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max()))
    deviation = fitted.energy_deviation(x, found.rows)
    torch.testing.assert_close(deviation, old["energy_std"], rtol=1e-4, atol=0)


def test_predictions_are_the_old_ones(name):
    """Through the backbone, whose features another processor rounds otherwise in float32."""
    pytest.importorskip("sevenn")
    potential, old = (
        KernelPotential.load(FILES / f"{name}.safetensors"),
        json.loads((FILES / f"{name}.json").read_text()),
    )
    found = potential.predict([alloy(5), alloy(20)], uncertainty=True)
    for quantity, expected, rtol, atol in (
        ("energy", old["energy"], 1e-8, 1e-5),
        ("forces", old["forces"], 1e-8, 2e-4),
        ("stress", old["stress"], 1e-8, 1e-5),
        ("energy_std", old["energy_std"], 1e-4, 1e-5),
    ):
        for one, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(getattr(one, quantity), wanted, rtol=rtol, atol=atol)


def test_an_old_default_does_not_stand_in_the_way_of_a_new_fit():
    potential = KernelPotential.load(FILES / "sparse_forces.safetensors")
    assert potential.options.criterion == "auto"


def test_an_old_sparse_potential_is_updated_and_saved_anew(tmp_path):
    pytest.importorskip("sevenn")
    potential = KernelPotential.load(FILES / "sparse_forces.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        potential.update([alloy(7), alloy(8)])
    potential.save(tmp_path / "m.safetensors")
    again = KernelPotential.load(tmp_path / "m.safetensors")
    assert again.predict([alloy(9)])[0].energy == potential.predict([alloy(9)])[0].energy
    assert again.fitted_.record.data.n_structures == 8


def test_what_old_files_say_of_themselves(name):
    fitted = load_fitted(FILES / f"{name}.safetensors")
    assert (fitted.layers, fitted.length_scale, fitted.species_weight) == (("interaction_0",), 12.0, 0.4)
    assert fitted.embedding == ("mean" if name == "exact_mean" else "sum")
    assert fitted.model.equations.n_structures == 6
    assert fitted.labels.weights.tolist() == [1.0, 2.0, 0.5, 1.0, 3.0, 1.0]
    assert not [path for path in FILES.iterdir() if path.stat().st_size > 100_000]
