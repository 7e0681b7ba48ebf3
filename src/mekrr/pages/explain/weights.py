"""How a prediction weighs what the potential remembers.

The terms c_g k_g(x) of a fitted expansion add up to the energy, but for smooth kernels they are many orders of
magnitude larger than their sum and of either sign, so that none of them means anything. With the matrix G that gave
c = G^-1 v,

    sum_g c_g k_g(x) = sum_g a_g(x) v_g,   a(x) = G^-1 k(x),

the same energy is a weighted sum of values that do mean something (the equivalent kernel: Rasmussen and Williams,
Gaussian Processes for Machine Learning, 2006, section 2.6).

| solver | g                      | G              | v_g                                          |
|--------|------------------------|----------------|----------------------------------------------|
| exact  | a training structure   | K + noise      | its DFT energy minus its prior               |
| sparse | an inducing environment| K_mm + jitter  | the kernel part of that environment's energy |
"""

from dataclasses import dataclass

import torch

from mekrr.kernels import energy_noise
from mekrr.linalg import invert_lower
from mekrr.potential import Fitted
from mekrr.typing import Float, Tensor


@dataclass(frozen=True, eq=False)
class Weighing:
    """Weights of a potential's remembered values.

    Attributes:
        root: R with R' R = G^-1.
        values: v, eV.
    """

    root: Float[Tensor, "groups groups"]
    values: Float[Tensor, "groups"]

    @staticmethod
    def of(fitted: Fitted) -> "Weighing":
        """That of a potential with the sum embedding."""
        model, L = fitted.model, fitted.model.basis.features.L
        if model.solver == "exact":
            # c = G^-1 v with G = K + ridge noise: the basis is the training structures, v what their labels say
            noise = energy_noise(fitted.labels.n_atoms.double(), model.embedding) / fitted.labels.weights
            L = torch.linalg.cholesky(L @ L.T + torch.diag(model.ridge * noise))
        return Weighing(invert_lower(L), L @ (L.T @ model.coefficients))

    def __call__(self, k: Float[Tensor, "rows groups"]) -> Float[Tensor, "rows groups"]:
        """a(x) for each row of kernels to the groups; the derivative of an energy with respect to each value."""
        return (k @ self.root.T) @ self.root
