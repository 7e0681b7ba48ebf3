import math

import pytest
import torch

from mekrr.solve import Residuals
from mekrr.tune import CRITERIA, CRITERION_NAMES, criterion_for, score
from mekrr.tune.criteria import ENERGIES_ONLY, WITH_FORCES, Judged, gaussian_log_density, student_log_density

N = 400


def judged(energy, variance=None, force=None, noise=None, evidence=None):
    """Residuals of (priors, ridges, structures) as criteria see them."""
    shape = energy.shape
    force = torch.full_like(energy, torch.nan) if force is None else force
    variance = torch.ones(shape[1:], dtype=torch.float64) if variance is None else variance
    noise = torch.ones(shape[-1], dtype=torch.float64) if noise is None else noise
    residuals = Residuals(
        energy,
        variance,
        torch.zeros(shape[-1]),
        force,
        torch.full_like(force, torch.nan),
        energy[..., 0],
        0.0,
        shape[-1],
    )
    return Judged(residuals, evidence, noise)


def drawn(distribution):
    generator = torch.Generator().manual_seed(0)
    variance = torch.rand(1, N, dtype=torch.float64, generator=generator) + 0.1
    torch.manual_seed(0)
    return distribution.sample((1, 1, N)).double() * variance.sqrt(), variance


def test_student_density_is_the_best_over_a_common_scale():
    energy, variance = drawn(torch.distributions.StudentT(4.0, 0.0, 3.0))
    found = float(student_log_density(judged(energy, variance)))
    scales = torch.linspace(1.0, 6.0, 400, dtype=torch.float64)
    best = max(
        float(torch.distributions.StudentT(4.0, 0.0, s * variance[0].sqrt()).log_prob(energy[0, 0]).mean())
        for s in scales
    )
    assert found == pytest.approx(best, abs=1e-4)


def test_gaussian_density_is_the_best_over_a_common_scale():
    energy, variance = drawn(torch.distributions.Normal(0.0, 2.0))
    found = float(gaussian_log_density(judged(energy, variance)))
    best = max(
        float(torch.distributions.Normal(0.0, s * variance[0].sqrt()).log_prob(energy[0, 0]).mean())
        for s in torch.linspace(1.0, 4.0, 300, dtype=torch.float64)
    )
    assert found == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("name", list(CRITERIA))
def test_every_score_is_minus_a_log_error(name):
    """Where all residuals and deviations grow by a factor, the score falls by its logarithm."""
    energy, variance = drawn(torch.distributions.StudentT(4.0, 0.0, 2.0))
    force = energy.abs() if name in WITH_FORCES else None
    evidence = torch.tensor([[-800.0]], dtype=torch.float64)
    factor = 7.0
    before = score(name, judged(energy, variance, force, evidence=evidence))
    larger = evidence - N * math.log(factor)  # the density of N labels, each in units larger by the factor
    after = score(
        name,
        judged(factor * energy, factor**2 * variance, None if force is None else factor * force, evidence=larger),
    )
    assert float(before - after) == pytest.approx(math.log(factor), rel=1e-9)


def test_errors_by_hand():
    """Energies over the root noise, and forces: the geometric mean of both where there are forces."""
    energy = torch.tensor([[[0.2, -0.4], [0.02, 0.04]]], dtype=torch.float64)
    force = torch.tensor([[[0.3, torch.nan], [0.03, torch.nan]]], dtype=torch.float64)
    noise = torch.tensor([4.0, 16.0], dtype=torch.float64)
    found = score("loo-mae", judged(energy, force=force, noise=noise))
    mae = (0.2 / 2 + 0.4 / 4) / 2
    assert float(found[0, 0]) == pytest.approx(-0.5 * math.log(mae * 0.3))
    assert float(found[0, 1] - found[0, 0]) == pytest.approx(math.log(10.0))
    assert float(score("loo-mae", judged(energy, noise=noise))[0, 0]) == pytest.approx(-math.log(mae))
    rmse = math.sqrt((0.04 / 4 + 0.16 / 16) / 2)
    assert float(score("loo-rmse", judged(energy, noise=noise))[0, 0]) == pytest.approx(-math.log(rmse))
    two = torch.tensor([[[0.3, 0.1]]], dtype=torch.float64)
    both = judged(energy[:, :1], force=two, noise=noise)
    assert float(score("loo-rmse", both)) == pytest.approx(-0.5 * math.log(rmse * math.sqrt(0.05)))
    assert float(score("loo-mae", both)) == pytest.approx(-0.5 * math.log(mae * 0.2))


def test_evidence_is_shared_by_the_structures():
    energy, variance = drawn(torch.distributions.Normal(0.0, 2.0))
    evidence = torch.tensor([[-800.0]], dtype=torch.float64)
    one = judged(energy, variance, evidence=evidence)
    assert float(score("evidence", one)) == -2.0
    expected = 0.5 * (float(student_log_density(one)) - 2.0)
    assert float(score("loo+evidence", one)) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["evidence", "loo+evidence"])
def test_evidence_is_refused_where_there_is_none(name):
    energy, variance = drawn(torch.distributions.Normal(0.0, 2.0))
    with pytest.raises(ValueError, match=r"derivatives are fitted beside them; take the criterion loo-mae or loo-rmse"):
        score(name, judged(energy, variance))


def test_what_is_not_finite_is_never_chosen():
    energy = torch.tensor([[[torch.inf, 1.0], [torch.nan, 1.0], [0.0, 0.0]]], dtype=torch.float64)
    broken, unknown, perfect = score("loo-mae", judged(energy))[0].tolist()
    assert broken < -1e300
    assert unknown < -1e300
    assert 0 < perfect < 100


@pytest.mark.parametrize(("of_structures", "name"), [(True, "loo+evidence"), (False, "loo-mae")])
def test_what_auto_stands_for(of_structures, name):
    assert criterion_for("auto", False, of_structures) == name
    assert all(criterion_for(each, False, of_structures) == each for each in CRITERION_NAMES if each != "auto")


@pytest.mark.parametrize("name", list(ENERGIES_ONLY))
def test_criteria_of_energies_are_refused_with_forces(name):
    with pytest.raises(
        ValueError, match=r"looks at energies only, but forces are fitted; take loo-mae or loo-rmse, or"
    ):
        criterion_for(name, True, False)
    assert [criterion_for(each, True, False) for each in ("auto", *WITH_FORCES)] == ["loo-mae", "loo-mae", "loo-rmse"]
