"""Faster exchange-correlation energies inside the atomic spheres of GPAW.

GPAW evaluates a GGA functional on a radial grid for one of 50 directions after
the other. ``install`` replaces that loop by one evaluation of all directions at
once; the numbers stay the same to rounding. Spin-paired only. Written for GPAW
26.7.0.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np


def weighted_divergence(values: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Adjoint, up to the sign, of the finite-difference derivative along the last axis.

    Args:
        values: Function times the integration weight, at the knots.
        spacing: Derivative of the radius with respect to the knot number.

    Returns:
        The derivative that makes the potential the exact derivative of the energy.
    """
    scaled = values / spacing
    result = np.empty_like(scaled)
    result[..., 1:-1] = 0.5 * (scaled[..., 2:] - scaled[..., :-2])
    result[..., 0] = 0.5 * scaled[..., 1] + scaled[..., 0]
    result[..., 1] = 0.5 * scaled[..., 2] - scaled[..., 0]
    result[..., -2] = scaled[..., -1] - 0.5 * scaled[..., -3]
    result[..., -1] = -scaled[..., -1] - 0.5 * scaled[..., -2]
    return result


def radial_derivative(values: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Finite-difference derivative along the last axis."""
    result = np.empty_like(values)
    result[..., 0] = values[..., 1] - values[..., 0]
    result[..., 1:-1] = 0.5 * (values[..., 2:] - values[..., :-2])
    result[..., -1] = values[..., -1] - values[..., -2]
    return result / spacing


def install(gga: ModuleType) -> None:
    """Replace the loop over directions of ``gpaw.xc.gga.GGARadialExpansion``.

    Args:
        gga: The module ``gpaw.xc.gga``.
    """

    def expand(
        self: Any, rgd: Any, D_sLq: np.ndarray, n_qg: np.ndarray, nc0_sg: np.ndarray
    ) -> tuple[float, np.ndarray]:
        if len(D_sLq) != 1:
            raise ValueError("spin-paired calculations only")
        moments = D_sLq.shape[1]
        n_Lg = D_sLq[0] @ n_qg
        n_Lg[0] += nc0_sg[0]
        Y_nL, weights = gga.Y_nL[:, :moments], gga.weight_n
        gradient_vnL = gga.rnablaY_nLv[:, :moments].transpose(2, 0, 1)
        n_ng = Y_nL @ n_Lg
        radial_ng = Y_nL @ radial_derivative(n_Lg, rgd.dr_g)
        angular_vng = gradient_vnL @ n_Lg
        sigma_ng = (angular_vng**2).sum(axis=0)
        sigma_ng[:, 1:] /= rgd.r_g[1:] ** 2
        sigma_ng[:, 0] = sigma_ng[:, 1]
        sigma_ng += radial_ng**2
        e_g, dedn_g, dedsigma_g = (np.zeros(n_ng.size) for _ in range(3))
        self.rcalc.kernel.calculate(e_g, n_ng.reshape(1, -1), dedn_g[None], sigma_ng.reshape(1, -1), dedsigma_g[None])
        dedsigma_ng = dedsigma_g.reshape(n_ng.shape)
        correction = weighted_divergence(-2.0 * rgd.dv_g * dedsigma_ng * radial_ng, rgd.dr_g)
        correction[:, 1:] /= rgd.dv_g[1:]
        correction[:, 0] = correction[:, 1]
        potential_nq = (rgd.dv_g * (dedn_g.reshape(n_ng.shape) + correction)) @ n_qg.T
        angular_vnq = (rgd.dr_g * dedsigma_ng * angular_vng) @ n_qg.T
        dEdD_qL = potential_nq.T @ (weights[:, None] * Y_nL)
        weighted_vnL = weights[:, None] * gradient_vnL
        dEdD_qL += 8.0 * np.pi * np.einsum("vnq,vnL->qL", angular_vnq, weighted_vnL, optimize=True)
        return float(weights @ rgd.integrate(e_g.reshape(n_ng.shape))), dEdD_qL[None]

    gga.GGARadialExpansion.__call__ = expand
