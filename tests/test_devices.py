"""Where tensors live: on a card if there is one, and on the meta device, whose tensors have a place but no values."""

import numpy as np
import pytest
import torch

from mekrr import KernelPotential
from mekrr.backbones import load_backbone
from mekrr.features import Environments, Scaler, look
from mekrr.graph import build_batch
from mekrr.kernels import Basis, GaussianKernel, StructureKernel, TangentBasis
from mekrr.solve import Factor, NormalEquations, Observation, RowWeights

with_a_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")
FLOAT32_ENERGY, FLOAT32_FORCE = 1e-3, 2e-3  # eV an atom and eV/Angstrom, of float32 networks on two devices


@pytest.fixture
def fake():
    """A device that is not the CPU; tensors of two devices in one operation are an error."""
    return torch.device("meta")


def on(device, *shape, dtype=torch.float64):
    return torch.empty(*shape, dtype=dtype, device=device)


def environments(device, atoms=6, features=5):
    species = torch.empty(atoms, dtype=torch.int64, device=device)
    return Environments(on(device, atoms, features), species, torch.empty(2, dtype=torch.int64, device=device))


def test_the_fixture_sees_a_tensor_that_stayed_behind(fake):
    with pytest.raises(RuntimeError, match=r"on the same device|meta"):
        on(fake, 3) + on("cpu", 3)


def test_features_are_standardised_where_they_are(fake):
    scaler = Scaler(on(fake, 5), on(fake, 5))
    assert scaler(environments(fake)).features.device.type == "meta"
    assert Scaler.fit(on(fake, 9, 5, dtype=torch.float32), (2, 3)).mean.device.type == "meta"


def test_rows_are_made_and_whitened_where_the_centres_are(fake):
    centres = Environments(on(fake, 4, 5), torch.empty(4, dtype=torch.int64, device=fake), on(fake, 4).long())
    centres = Environments(centres.features, centres.species, torch.ones_like(centres.species))
    basis = Basis(centres, StructureKernel.weighted(GaussianKernel(3.0), 0.4), on(fake, 4, 4), 0.0)
    one = Environments(on(fake, 6, 5), torch.empty(6, dtype=torch.int64, device=fake), centres.n_atoms[:1] * 6)
    found = basis.rows(one, on(fake, 7, 6, 5, dtype=torch.float32))
    assert (found.shape, found.device.type, found.dtype) == ((8, 4), "meta", torch.float64)


def test_tangent_rows_are_made_where_the_basis_is(fake):
    basis = TangentBasis(on(fake, 9, 2, 11, dtype=torch.float16), 1.5, 0.3, on(fake, 9, 9))
    assert basis.rows(on(fake, 4, 3, 11, dtype=torch.float32)).device.type == "meta"
    assert basis.weights(on(fake, 9)).device.type == "meta"


def test_equations_and_their_factor_stay_on_the_device(fake):
    observed = [Observation(on(fake, 6, 4), on(fake, 6, 3), 5, 5, 1.0, 5.0) for _ in range(3)]
    equations = NormalEquations.of(observed, RowWeights(0.1, 0.0))
    assert {t.device.type for t in (equations.gram, equations.gram_forces, equations.moments)} == {"meta"}
    factor = Factor(equations, on(fake, 4), on(fake, 4, 4))
    assert factor.solve(on(fake, 4), 0.1).device.type == "meta"
    assert factor.damped(on(fake, 2)).device.type == "meta"


@with_a_card
def test_a_card_gives_the_features_and_forces_of_the_cpu(alloys):
    """To what float32 sums in another order differ by."""
    pytest.importorskip("sevenn")
    seen = {}
    for device in ("cpu", "cuda"):
        backbone = load_backbone("sevennet-0", device=device)
        graph = build_batch(alloys[:3], backbone.cutoff)
        one = look(graph, backbone, backbone.layers, gradients=True)
        forces = one.pull_back(one.edge_gradient(factor=1.0)).forces
        seen[device] = one.environments.features.cpu(), forces.cpu()
    torch.testing.assert_close(seen["cuda"][0], seen["cpu"][0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(seen["cuda"][1], seen["cpu"][1], rtol=0, atol=FLOAT32_FORCE)


@with_a_card
@pytest.mark.slow
def test_a_fit_on_a_card_predicts_what_one_on_the_cpu_does(alloys):
    """Features, derivatives, tangent rows, exact forces, deviations."""
    pytest.importorskip("sevenn")
    chosen = {"layers": ("interaction_1",), "length_scale": 12.0, "species_weight": 0.5, "prior": "backbone"}
    chosen |= {"force_weight": 1e-3, "ridge": 1e-4, "inducing": 40, "tangent_share": 0.3, "probes": 4}
    found = {}
    for device in ("cpu", "cuda"):
        potential = KernelPotential("sevennet-0", device=device, **chosen).fit(alloys[:10])
        found[device] = potential.predict(alloys[10:14], uncertainty=True, force_uncertainty=True)
    for one, other in zip(found["cuda"], found["cpu"], strict=True):
        assert one.energy == pytest.approx(other.energy, abs=FLOAT32_ENERGY * len(one.forces))
        np.testing.assert_allclose(one.forces, other.forces, atol=10 * FLOAT32_FORCE)
        assert one.energy_std == pytest.approx(other.energy_std, rel=0.05)
