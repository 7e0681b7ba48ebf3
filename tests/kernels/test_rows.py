import pytest
import torch

from mekrr.features import Environments
from mekrr.kernels import Component, GaussianKernel, LinearKernel, StructureKernel, design_rows
from oracles import dense, total_energies


@pytest.fixture(params=["structures", "atoms"])
def centres(request, groups):
    return groups if request.param == "structures" else groups.singletons()


def test_rows_are_the_dense_kernel_and_its_derivatives(weighted, centres, x, derivatives):
    """Each column is the kernel to a group as a function of total energy: its value, and how it changes along J v."""
    one = x[torch.tensor([0])]
    component = weighted.components[0]
    rows = component.mix(design_rows(one, derivatives, centres, component.pointwise, 1, weighted.embedding)[0])
    scale = total_energies(weighted, one)[:, None]
    torch.testing.assert_close(rows[:1], scale * dense(one, centres, weighted), rtol=1e-11, atol=1e-12)
    step = 1e-4
    for row, move in zip(rows[1:], derivatives, strict=True):
        up, down = (dense(one.with_features(one.features + s * step * move), centres, weighted) for s in (1, -1))
        torch.testing.assert_close(row, (scale * (up - down) / (2 * step))[0], rtol=1e-6, atol=1e-7)


def test_rungs_equal_single_kernels(embedding, centres, x, derivatives):
    one = x[torch.tensor([0])]
    ladder = design_rows(one, derivatives, centres, GaussianKernel(4.0), 4, embedding)
    assert len(ladder) == 4
    for rung, rows in enumerate(ladder):
        scale = 4.0 / 2 ** (rung / 2)
        alone = design_rows(one, derivatives, centres, GaussianKernel(scale), 1, embedding)[0]
        torch.testing.assert_close(rows.all_pairs, alone.all_pairs, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(rows.same_species, alone.same_species, rtol=1e-12, atol=1e-14)


def test_strangers_share_no_pair_of_one_species(x, groups, derivatives):
    strangers = Environments(x.features[:6], torch.full((6,), 99), torch.tensor([6]))
    rows = design_rows(strangers, derivatives, groups, GaussianKernel(2.0))[0]
    assert not rows.same_species.any()
    assert Component(GaussianKernel(2.0), 0.25, 0.75).mix(rows).equal(0.25 * rows.all_pairs)


def test_energies_alone_are_one_row(x, groups):
    rows = design_rows(x[torch.tensor([1])], None, groups, LinearKernel(1.0))[0]
    assert rows.all_pairs.shape == rows.same_species.shape == (1, 4)


def test_derivatives_are_not_changed(x, groups, derivatives):
    before = derivatives.clone()
    design_rows(x[torch.tensor([0])], derivatives, groups, GaussianKernel(2.0), 3)
    assert torch.equal(derivatives, before)


def test_a_ladder_of_a_kernel_without_one_is_refused(x, groups):
    with pytest.raises(ValueError, match="the linear kernel has no ladder"):
        design_rows(x[torch.tensor([0])], None, groups, LinearKernel(1.0), 2)


def test_the_gram_matrix_of_atoms_is_their_energy_rows(groups):
    """With the sum embedding a row to single centres is a row of between_atoms."""
    kernel = StructureKernel.weighted(GaussianKernel(1.5), 0.4)
    atoms = groups.singletons()
    K = kernel.between_atoms(atoms, atoms)
    for m in range(atoms.n_structures):
        split = design_rows(atoms[torch.tensor([m])], None, atoms, kernel.components[0].pointwise)[0]
        torch.testing.assert_close(kernel.components[0].mix(split)[0], K[m], rtol=1e-12, atol=1e-13)
