"""The whole search against one Gram pass: 8 length scales x 11 species weights x 29 ridges, leave-one-out of energies.

python comparison/figures/search.py [STRUCTURES]     default 1000, 52 atoms and 128 features each

Search time minus its eigendecompositions is compared with one pass at one length scale; coarse to fine is compared with
the full grid, in time and in what it finds.
"""

import sys
import time
from unittest.mock import patch

import torch
from gram import environments

from mekrr.kernels import GaussianKernel, StructureKernel, gram
from mekrr.prior import Compositions, PriorColumns, target_columns
from mekrr.solve import Factor
from mekrr.tune import OF_STRUCTURES, Grid, Observed, SearchProblem, Size, Surface, best_of


def problem_of(x):
    """Energies drawn from the kernel itself, one prior, one choice of features."""
    K = StructureKernel.weighted(GaussianKernel(2 * 128**0.5), 0.5).gram(x)
    values, vectors = torch.linalg.eigh(K)
    y = vectors @ (values.clamp_min(0).sqrt() * torch.randn(len(K), dtype=torch.float64))
    y += 0.05 * torch.randn(len(K), dtype=torch.float64)
    compositions = Compositions.of(x.species, x.n_atoms)
    prior = PriorColumns.fit("none", y, compositions, None, compositions.elements)
    return SearchProblem(
        OF_STRUCTURES,
        [("all",)],
        lambda layers, chosen: Observed(x, [None] * x.n_structures),
        lambda chosen: [prior],
        target_columns(y, None, compositions),
        torch.ones_like(y),
        Grid(),
    )


def main(n_structures):
    """Search once over the full grid and once coarse to fine."""
    x = environments(n_structures, 128)
    x = x.with_features(x.features.double())
    problem = problem_of(x)
    start = time.perf_counter()
    gram(x, None, GaussianKernel(8 * 128**0.5), "sum")
    one_pass = time.perf_counter() - start
    eigen = []
    original = Factor.of

    def timed(*arguments):
        begin = time.perf_counter()
        factor = original(*arguments)
        eigen.append(time.perf_counter() - begin)
        return factor

    for whole in (True, False):
        eigen.clear()
        start = time.perf_counter()
        with patch.object(Factor, "of", staticmethod(timed)):
            surface = Surface(problem, ("all",), torch.arange(n_structures), Size(n_structures), 0)
            surface.explore(whole)
        took, best = time.perf_counter() - start, best_of(surface.trials)
        rest = took - sum(eigen)
        print(
            f"{'full grid' if whole else 'coarse to fine'}: {took:.1f} s, of which {len(eigen)} "
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
