"""Public conformance checks: what a new backbone and a new pointwise kernel must satisfy."""

from mekrr.testing.backbones import check_backbone
from mekrr.testing.kernels import check_pointwise_kernel

__all__ = ["check_backbone", "check_pointwise_kernel"]
