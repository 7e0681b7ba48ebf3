from dataclasses import replace

import pytest
import torch

from mekrr.solve import NormalEquations, Observation


def test_equations_are_the_weighted_sums(case):
    """Written out row by row, with the weights of the objective."""
    size = case.observations[0].psi.shape[1]
    gram = torch.zeros(size, size, dtype=torch.float64)
    forces, moments = torch.zeros_like(gram), torch.zeros(size, 4, dtype=torch.float64)
    moments_forces = torch.zeros_like(moments)
    for one in case.observations:
        for row, (psi, columns) in enumerate(zip(one.psi, one.columns, strict=True)):
            is_force = 1 <= row <= one.n_forces
            energy_or_strain = (case.weights.stress if row else 1.0) / one.n_atoms
            weight = one.weight * (case.weights.force if is_force else energy_or_strain)
            (forces if is_force else gram).add_(weight * torch.outer(psi, psi))
            (moments_forces if is_force else moments).add_(weight * torch.outer(psi, columns))
    found = NormalEquations.of(case.observations, case.weights)
    torch.testing.assert_close(found.gram, gram)
    torch.testing.assert_close(found.gram_forces, forces)
    torch.testing.assert_close(found.moments, moments)
    torch.testing.assert_close(found.moments_forces, moments_forces)
    torch.testing.assert_close(found.total, gram + forces)
    torch.testing.assert_close(found.total_moments, moments + moments_forces)
    assert found.n_structures == 8
    assert found.n_force_rows == 2 * 5 + 2 * 3
    assert found.n_force_components == 3 * sum(one.n_atoms for one in case.observations if one.n_forces)


def test_an_energy_counts_by_its_own_noise(case):
    """The mean embedding has n^2 under a squared energy error; strains keep n."""
    one = replace(case.observations[0], energy_noise=49.0)
    weights = one.row_weights(case.weights)
    n_forces, n = one.n_forces, one.n_atoms
    expected = [1 / 49, *[case.weights.force] * n_forces, *[case.weights.stress / n] * 6]
    assert weights.tolist() == pytest.approx([one.weight * w for w in expected])


def test_a_supercell_counts_as_often_as_it_holds_the_cell(case):
    """Twice the cell: twice the energy and strain derivatives, and every force component twice."""
    one = case.observations[0]
    forces, strains = slice(1, 1 + one.n_forces), slice(1 + one.n_forces, None)

    def doubled(rows):
        return torch.cat([2 * rows[:1], rows[forces], rows[forces], 2 * rows[strains]])

    n = 2 * one.n_atoms
    double = Observation(doubled(one.psi), doubled(one.columns), n, 2 * one.n_forces, one.weight, float(n))
    small, large = (NormalEquations.of([each], case.weights) for each in (one, double))
    for name in ("gram", "gram_forces", "moments", "moments_forces"):
        torch.testing.assert_close(getattr(large, name), 2 * getattr(small, name), rtol=1e-12, atol=1e-13)


def test_a_weight_counts_a_structure_as_often(case):
    one = case.observations[0]
    thrice = NormalEquations.of([replace(one, weight=1.0)] * 3, case.weights)
    weighed = NormalEquations.of([replace(one, weight=3.0)], case.weights)
    for name in ("gram", "gram_forces", "moments", "moments_forces"):
        torch.testing.assert_close(getattr(weighed, name), getattr(thrice, name), rtol=1e-12, atol=1e-13)


def test_pinned_rows_enter_but_are_no_structures(case):
    pinned = replace(case.observations[0], columns=torch.zeros_like(case.observations[0].columns), labelled=False)
    both = NormalEquations.of([*case.observations[1:], pinned], case.weights)
    rest = NormalEquations.of(case.observations[1:], case.weights)
    alone = NormalEquations.of(case.observations[:1], case.weights)
    torch.testing.assert_close(both.total, rest.total + alone.total, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(both.total_moments, rest.total_moments, rtol=1e-12, atol=1e-13)
    assert both.n_structures == rest.n_structures == 7


def test_probed_share(case):
    energies_only, full = case.observations[2:4], replace(case.observations[0], n_forces=11, n_atoms=3)
    assert NormalEquations.of(energies_only, case.weights).probed_share == 1.0
    # more directions than components never count as more than all
    assert NormalEquations.of([full], case.weights).probed_share == 1.0
    share = NormalEquations.of(case.observations[:1], case.weights).probed_share
    assert share == pytest.approx(5 / (3 * case.observations[0].n_atoms))


def test_correction_goes_to_the_moments_of_the_labels(case):
    equations = NormalEquations.of(case.observations, case.weights)
    correction = torch.arange(len(equations.gram), dtype=torch.float64)
    changed = equations.with_moments(correction)
    torch.testing.assert_close(changed.moments[:, 0], equations.moments[:, 0] + correction)
    assert torch.equal(changed.moments[:, 1:], equations.moments[:, 1:])
    assert torch.equal(changed.total, equations.total)
