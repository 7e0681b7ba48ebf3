"""What a fit would cost: one structure is tried, the rest is counted."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mekrr.data import Structure
from mekrr.features import BATCH_ATOMS, FeatureCache, TangentSpace, extract, look, probe
from mekrr.features.matrix import MEMORY_BYTES as MATRIX_BYTES
from mekrr.features.probes import MEMORY_BYTES, cache_key
from mekrr.graph import build_batch
from mekrr.potential.fit import FitJob, check_refine, solver_of, tangent_space_of, wanted_layers
from mekrr.potential.options import AUTO
from mekrr.potential.refine import MOST_ROUNDS
from mekrr.potential.rehearsal import to_hold_out
from mekrr.potential.rows import KEPT_BYTES, TANGENT_ROWS
from mekrr.potential.training import BESIDE_TANGENT
from mekrr.solve.inducing import AUTO_LIMIT, CANDIDATES

TRIED = 500  # rows of the matrix whose decomposition is timed
DECOMPOSITIONS = 12  # of the size of the solution: the search makes more, of smaller ones
SQUARES = 8  # matrices of the basis' size in memory at once
COPIES = 7  # of the rows that span the tangent kernel's basis, in units of single precision: several precisions at once
ITERATIONS = 6  # with all force components: five to eight on the sets at hand
REHEARSED = 3.2  # more where structures are held out first: four of four fifths
STRETCH = 2.0  # estimates of the time of dense algebra hold within such a factor


@dataclass(frozen=True)
class Estimate:
    """What a fit would cost.

    Attributes:
        n_structures: to fit to.
        n_atoms: in all.
        solver: "exact" or "sparse".
        forces: whether forces and stress would be fitted.
        cached: structures whose entries are in the cache already, by stage.
        seconds: by stage; those of `kernel and solve` within a factor of two, of `exact forces` for a usual number of
            iterations, of `refine` for all rounds that are allowed.
        memory_bytes: beside PyTorch and the network.
        disk_bytes: of new entries of the cache.
    """

    n_structures: int
    n_atoms: int
    solver: str
    forces: bool
    cached: dict[str, int]
    seconds: dict[str, float]
    memory_bytes: int
    disk_bytes: int


def estimate(job: FitJob) -> Estimate:
    """Try one structure of middle size, count the rest.

    The tangent space is made in full where the fit would need it: it is kept in the cache, if there is one.

    Raises:
        ValueError: for options that the fit would refuse.
        DataError: for too few structures to refine on.
    """
    structures, backbone, options = job.structures, job.backbone, job.options
    solver, forces = solver_of(options, structures)
    options.check_effect(solver, forces, any(s.stress is not None for s in structures))
    if options.refine != 0:
        check_refine(job)
    layers = wanted_layers(job)
    width = sum(backbone.layer_widths[name] for name in layers)
    space = tangent_space_of(job, forces, [])
    keys = {"features": _feature_keys(job, layers)}
    if forces:
        keys["derivatives"] = _derivative_keys(job, layers, space)
    cached = {stage: sum(found) for stage, found in keys.items()}
    n_atoms = sum(len(s) for s in structures)
    middle = sorted(structures, key=len)[len(structures) // 2]
    rows = _rows(job, middle) * len(structures) if forces else len(structures)
    groups, tangent_rows = _basis(job, solver, n_atoms, rows, space)
    per_atom = {"features": _seconds(lambda: extract([middle.atoms], backbone, layers)) / len(middle)}
    if forces:
        per_atom["derivatives"] = _seconds(
            lambda: probe([middle], backbone, layers, options.probes, options.seed, tangent=space)
        ) / len(middle)
    missing = {
        stage: sum(len(s) for s, is_there in zip(structures, found, strict=True) if not is_there)
        for stage, found in keys.items()
    }
    seconds = {stage: per_atom[stage] * missing[stage] for stage in keys}
    dense_seconds = _dense_seconds(groups + tangent_rows, rows)
    seconds["kernel and solve"] = dense_seconds
    labelled = sum(len(s) for s in structures if s.forces is not None)
    if options.refine != 0:
        rounds = MOST_ROUNDS if options.refine == AUTO else int(options.refine)
        seconds["refine"] = (rounds + 2) * (per_atom["derivatives"] * n_atoms + dense_seconds / DECOMPOSITIONS)
    elif forces and options.exact_forces and labelled and options.probes != "all":
        iterations = ITERATIONS + (REHEARSED if to_hold_out(structures, options.seed) else 0)
        seconds["exact forces"] = iterations * _product_seconds(job, middle, layers, space) * labelled
    bytes_of = {"features": 4 * width, "derivatives": 4 * width * _rows(job, middle)}
    T_row = 0 if space is None else 4 * space.width * len({int(z) for s in structures for z in s.species})
    T, features = rows * T_row, n_atoms * bytes_of["features"]
    derivatives = n_atoms * bytes_of["derivatives"] if forces else 0
    dense = 8 * (SQUARES * (groups + tangent_rows) ** 2) + min(KEPT_BYTES, 8 * rows * (groups + tangent_rows))
    return Estimate(
        len(structures),
        n_atoms,
        solver,
        forces,
        cached,
        seconds,
        _feature_memory(n_atoms, width) + min(MEMORY_BYTES, derivatives + T) + COPIES * tangent_rows * T_row + dense,
        sum(missing[stage] * bytes_of[stage] for stage in keys) + T + (features if features > MATRIX_BYTES else 0),
    )


def _product_seconds(job: FitJob, structure: Structure, layers: Sequence[str], space: TangentSpace | None) -> float:
    """What an atom takes in a product with the Gram matrix of all forces (`ForceProduct`), without the kernel."""
    backbone, copies = job.backbone, max(1, BATCH_ATOMS // len(structure))
    graph = build_batch([structure.atoms] * copies, backbone.cutoff, backbone.max_neighbours)
    change = None if space is None else space.change(torch.zeros(len(space.species) + 1, space.width))
    direction = torch.randn(1, copies * len(structure), 3, dtype=torch.float64)

    def product() -> None:
        seen = look(graph, backbone, layers, energies=change is not None, gradients=True, change=change)
        seen.edge_gradient(torch.zeros_like(seen.output.features))
        if space is None:
            seen.along(direction)
        else:
            list(space.along(backbone, seen.graph, direction, None, layers, 1))

    return _seconds(product) / (copies * len(structure))


def _feature_memory(n_atoms: int, width: int) -> int:
    """Of all layers and of the chosen ones, unless they lie in files, and of candidates for inducing environments."""
    size = 4 * n_atoms * width
    return (2 * size if size <= MATRIX_BYTES else 0) + 12 * min(CANDIDATES, n_atoms) * width


def _seconds(call: object) -> float:
    """The second of two calls: the first one warms up."""
    assert callable(call)
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _feature_keys(job: FitJob, layers: Sequence[str]) -> list[bool]:
    cache, backbone = job.feature_cache, job.backbone
    if cache is None:
        return [False] * len(job.structures)
    return [
        any(
            cache.has(cache.key(s.atoms, backbone.identity, tapped, backbone.dtype, "features"))
            for tapped in (layers, backbone.layers)
        )
        for s in job.structures
    ]


def _derivative_keys(job: FitJob, layers: Sequence[str], space: TangentSpace | None) -> list[bool]:
    cache, options = job.feature_cache, job.options
    if cache is None:
        return [False] * len(job.structures)
    return [_has(cache, job, s, layers, space, options.probes, options.seed) for s in job.structures]


def _has(
    cache: FeatureCache,
    job: FitJob,
    structure: Structure,
    layers: Sequence[str],
    space: TangentSpace | None,
    probes: int | str,
    seed: int,
) -> bool:
    found = [
        cache_key(cache, structure, job.backbone, tapped, probes, seed, space)
        for tapped in (layers, job.backbone.layers)
    ]
    return any(key is None or cache.has(key) for key in found)


def _rows(job: FitJob, structure: Structure) -> int:
    """Rows that a structure brings: its energy, the span of its forces, the probes, six strains."""
    components = 3 * len(structure)
    probes = job.options.probes
    moves = components if isinstance(probes, str) else min(components, probes + 2)
    return 1 + (moves if structure.forces is not None else 0) + (6 if structure.stress is not None else 0)


def _basis(job: FitJob, solver: str, n_atoms: int, rows: int, space: TangentSpace | None) -> tuple[int, int]:
    """Groups of the basis on features, and rows that span the tangent kernel's."""
    if solver == "exact":
        return len(job.structures), 0
    given = job.options.inducing
    most = BESIDE_TANGENT if space is not None else AUTO_LIMIT
    groups = int(given) if given != AUTO else min(most, max(100, n_atoms // 2), n_atoms)
    return groups, 0 if space is None else min(TANGENT_ROWS, rows)


def _dense_seconds(size: int, rows: int) -> float:
    """From the time of one decomposition here, by the cube of the size, and of the products that lead to it."""
    A = torch.randn(TRIED, TRIED, dtype=torch.float64)
    A = A @ A.T
    cube = _seconds(lambda: torch.linalg.eigh(A)) / TRIED**3
    product = _seconds(lambda: A @ A) / TRIED**3
    return DECOMPOSITIONS * cube * size**3 + STRETCH * 4 * product * rows * size**2
