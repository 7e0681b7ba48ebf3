import torch

from mekrr.features import Scaler


def test_moments_of_some_atoms_at_a_time_are_those_of_all(monkeypatch):
    """Also of channels far from zero, where a one-pass variance would cancel."""
    features = torch.randn(1000, 6, generator=torch.Generator().manual_seed(0)) * 0.1 + 30.0
    expected = Scaler.fit(features, (4, 2))
    monkeypatch.setattr("mekrr.features.scaling.AT_ONCE", 130)
    found = Scaler.fit(features, (4, 2))
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-14, atol=0)
    torch.testing.assert_close(found.scale, expected.scale, rtol=1e-12, atol=0)
