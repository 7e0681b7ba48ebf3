import pytest
import torch

from mekrr.solve import LeaveOneOut
from mekrr.tune.criteria import gaussian_log_density, student_log_density

NOISE = torch.ones(400, dtype=torch.float64)


def test_student_density_is_the_best_over_a_common_scale():
    torch.manual_seed(0)
    variances = torch.rand(1, 400, dtype=torch.float64) + 0.1
    residuals = torch.distributions.StudentT(4.0).sample((1, 400)).double() * variances.sqrt() * 3.0
    found = float(student_log_density(LeaveOneOut(residuals, variances), NOISE))
    scales = torch.linspace(1.0, 6.0, 200, dtype=torch.float64)
    densities = [
        torch.distributions.StudentT(4.0, 0.0, s * variances[0].sqrt()).log_prob(residuals[0]).mean() for s in scales
    ]
    assert found == pytest.approx(float(max(densities)), abs=1e-4)


def test_gaussian_density_is_the_best_over_a_common_scale():
    torch.manual_seed(0)
    variances = torch.rand(1, 400, dtype=torch.float64) + 0.1
    residuals = torch.randn(1, 400, dtype=torch.float64) * variances.sqrt() * 2.0
    found = float(gaussian_log_density(LeaveOneOut(residuals, variances), NOISE))
    best = max(
        torch.distributions.Normal(0.0, s * variances[0].sqrt()).log_prob(residuals[0]).mean()
        for s in torch.linspace(1.0, 4.0, 300, dtype=torch.float64)
    )
    assert found == pytest.approx(float(best), abs=1e-4)
