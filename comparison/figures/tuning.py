"""Choosing everything on real data: seconds against those of extraction, coarse to fine against the full grid.

    python comparison/figures/tuning.py TASK [--data FOLDER] [--grid]

TASK as in forces.py. Extraction is the features and the probed derivatives of all layers that may be chosen, computed
anew. With --grid, all 10 length scales x 11 species weights x 11 force weights x 23 ridges of each choice of layers
that survives the screening are tried as well, with every prior.
"""

import argparse
import os
import time
import warnings
from pathlib import Path

from forces import TASKS

from mekrr.backbones import load_backbone
from mekrr.features import structure_hash
from mekrr.potential.fit import FitJob, tangent_space_of, training_set, wanted_layers
from mekrr.potential.options import FitOptions
from mekrr.potential.training import Stopwatch, choose
from mekrr.tune import OF_ENVIRONMENTS, best_of


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MEKRR_DATA", "../shared/data")))
    parser.add_argument("--cache", type=Path, default=None, help="extraction is then not timed")
    parser.add_argument("--grid", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    train, _ = TASKS[arguments.task](arguments.data)
    train = list({structure_hash(s.atoms): s for s in train}.values())  # as a fit does
    options, watch = FitOptions(), Stopwatch()
    job = FitJob(train, load_backbone(options.backbone), options, arguments.cache, watch, None)
    data = training_set(job, wanted_layers(job), True, space=tangent_space_of(job, True, []))
    extraction = sum(watch.seconds.values())
    if arguments.cache is None:
        print(f"{arguments.task}, {len(train)} structures: extraction {extraction:.1f} s", flush=True)
    for whole in (False, True) if arguments.grid else (False,):
        start = time.perf_counter()
        choice = choose(data, options, job.backbone, OF_ENVIRONMENTS, whole=whole)
        seconds = time.perf_counter() - start
        best, chosen = best_of(choice.trials), choice.best
        share = "" if arguments.cache else f", {seconds / extraction:.2f} of extraction"
        print(
            f"{'full grid' if whole else 'coarse to fine'}: {seconds:.1f} s{share}, "
            f"{choice.factorisations} factorisations; best score {best.score:.4f}, chosen {chosen.score:.4f}: "
            f"{'+'.join(chosen.layers)}, {chosen.prior}, length scale {chosen.length_scale:.1f}, species weight "
            f"{chosen.species_weight}, force weight {chosen.force_weight:.1e}, ridge {chosen.ridge:.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
