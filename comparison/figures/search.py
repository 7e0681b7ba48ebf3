"""The whole search against one Gram pass: 8 length scales x 11 species weights x 25 ridges, exact leave-one-out.

python comparison/figures/search.py [STRUCTURES]     default 1000, 52 atoms and 128 features each

Search time minus its eigendecompositions is compared with one pass at one length scale; coarse to fine is compared with
the full grid, in time and in what it finds.
"""

import sys
import time

import torch
from gram import environments

from mekrr.kernels import GaussianKernel, gram
from mekrr.solve import LinearPrior, RidgeFactor
from mekrr.tune import FeatureCandidate, Grid, PriorCandidate, Surface


def main(n_structures):
    """Search once over the full grid and once coarse to fine."""
    x = environments(n_structures, 128)
    x = x.with_features(x.features.double())
    n = x.n_atoms.double()
    K = gram(x, None, GaussianKernel(2 * 128**0.5), "sum").mix(0, 0.5)
    values, vectors = torch.linalg.eigh(K)
    y = vectors @ (values.clamp_min(0).sqrt() * torch.randn(n_structures, dtype=torch.float64))
    y += 0.05 * torch.randn(n_structures, dtype=torch.float64)
    prior = PriorCandidate("none", y, LinearPrior.fit(n[:, None], y, 1 / n))

    start = time.perf_counter()
    gram(x, None, GaussianKernel(8 * 128**0.5), "sum")
    one_pass = time.perf_counter() - start
    eigen = []
    original = RidgeFactor.of

    def timed(*arguments):
        begin = time.perf_counter()
        factor = original(*arguments)
        eigen.append(time.perf_counter() - begin)
        return factor

    RidgeFactor.of = staticmethod(timed)
    for exhaustive in (True, False):
        eigen.clear()
        surface = Surface(FeatureCandidate(("all",), x), [prior], n, n, Grid())
        start = time.perf_counter()
        best = surface.explore(exhaustive)
        took = time.perf_counter() - start
        rest = took - sum(eigen)
        print(
            f"{'full grid' if exhaustive else 'coarse to fine'}: {took:.1f} s, of which {len(eigen)} "
            f"eigendecompositions {sum(eigen):.1f} s; the rest is {rest / one_pass:.2f} Gram passes of {one_pass:.1f} s"
        )
        print(
            f"  best: length scale {best.length_scale:.2f}, species weight {best.species_weight}, "
            f"ridge {best.ridge:.1e}, score {best.score:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    print(f"{torch.get_num_threads()} threads")
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
