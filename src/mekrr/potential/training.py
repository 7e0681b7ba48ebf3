"""A training set as a fit sees it: features, derivatives, labels, and the candidates to choose from."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from mekrr.backbones import Backbone
from mekrr.features import Derivatives, DerivativeStore, Environments, Extraction, Scaler, TangentSpace
from mekrr.kernels import energy_noise
from mekrr.potential.options import AUTO, FitOptions
from mekrr.prior import NEEDS_BACKBONE, PRIORS, Compositions, Prior, PriorColumns, fit_prior, target_columns
from mekrr.solve import default_count
from mekrr.tune import (
    FORCE_WEIGHTS,
    MEDIAN,
    OF_ENVIRONMENTS,
    OF_STRUCTURES,
    TANGENT_SHARES,
    Choice,
    Grid,
    Observed,
    Plan,
    SearchProblem,
    criterion_for,
    search,
)
from mekrr.typing import Float, Int, Tensor

BESIDE_TANGENT = 1000  # inducing environments beside a tangent kernel, at most

StageProgress = Callable[[str, int, int], None]


@dataclass
class Stopwatch:
    """Seconds spent in each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Labels beside features.

    Attributes:
        extraction: features of every layer that may be chosen, and backbone energies.
        store: derivatives; None when forces and stress are left out.
        energies: DFT, eV.
        weights: of the structures.
        columns: energy targets: DFT, backbone, atoms of each element.
        elements: of the columns.
        references: energies of isolated atoms, eV, that the composition prior keeps; None for none.
        space: of the tangent rows in the store; None without them.
    """

    extraction: Extraction
    store: DerivativeStore | None
    energies: Float[Tensor, "structures"]
    weights: Float[Tensor, "structures"]
    columns: Float[Tensor, "structures columns"]
    elements: tuple[int, ...]
    references: Mapping[int, float] | None
    space: TangentSpace | None = None

    @staticmethod
    def of(
        extraction: Extraction,
        store: DerivativeStore | None,
        energies: Float[Tensor, "structures"],
        weights: Float[Tensor, "structures"],
        references: Mapping[int, float] | None = None,
        elements: Sequence[int] | None = None,
        space: TangentSpace | None = None,
    ) -> "TrainingSet":
        """With the columns that follow; the elements are those of the data unless given."""
        x = extraction.environments
        compositions = Compositions.of(x.species, x.n_atoms, elements)
        columns = target_columns(energies, extraction.energies, compositions)
        return TrainingSet(extraction, store, energies, weights, columns, compositions.elements, references, space)

    def __len__(self) -> int:
        return len(self.energies)

    @cached_property
    def n_atoms(self) -> Float[Tensor, "structures"]:
        """Atoms of each structure."""
        return self.extraction.environments.n_atoms.double()

    def noise(self, embedding: str) -> Float[Tensor, "structures"]:
        """What the ridge is multiplied by: variance of an energy label, in total energies."""
        return energy_noise(self.n_atoms, embedding) / self.weights

    @property
    def has_forces(self) -> bool:
        """Whether any structure brings force rows."""
        store = self.store
        return store is not None and any(
            (found := store(t)) is not None and found.n_forces for t in range(len(store.keys))
        )

    def derivatives(self, t: int, layers: tuple[str, ...], scaler: Scaler) -> Derivatives | None:
        """Of structure t, with standardised features."""
        found = None if self.store is None else self.store(t, layers)
        return None if found is None else replace(found, features=scaler.derivative(found.features))

    def observe(self, layers: tuple[str, ...], chosen: Int[Tensor, "chosen"]) -> Observed:
        """Chosen structures, standardised on themselves."""
        part = self.extraction[chosen].select(layers)  # few rows first: all columns of all atoms are large
        scaler = Scaler.fit(part.environments.features, part.widths)
        return Observed(scaler(part.environments), [self.derivatives(int(t), layers, scaler) for t in chosen])

    def compositions(self, chosen: Int[Tensor, "chosen"] | None = None) -> Compositions:
        """Of chosen structures, or all."""
        x = self.extraction.environments
        everything = Compositions.of(x.species, x.n_atoms)
        if chosen is None:
            return everything
        counts = everything.counts[chosen]
        there = counts.any(0)
        elements = tuple(z for z, is_there in zip(everything.elements, there.tolist(), strict=True) if is_there)
        return Compositions(counts[:, there], elements)

    def prior(self, name: str) -> Prior:
        """A prior fitted to all structures."""
        return fit_prior(
            name, self.energies, self.compositions(), self.extraction.energies, self.weights, self.references
        )[0]

    def prior_columns(self, name: str, chosen: Int[Tensor, "chosen"] | None = None) -> PriorColumns:
        """A prior on chosen structures, or all, as a combination of the target columns."""
        everything = torch.arange(len(self)) if chosen is None else chosen
        own = self.extraction.energies
        return PriorColumns.fit(
            name,
            self.energies[everything],
            self.compositions(everything),
            None if own is None else own[everything],
            self.elements,
            self.weights[everything],
            self.references,
        )


def layer_candidates(options: FitOptions, backbone: Backbone) -> list[tuple[str, ...]]:
    """Sets of layers to choose from: each inner layer by itself, and all layers up to a depth.

    Raises:
        ValueError: for a layer the backbone does not have.
    """
    if options.layers != AUTO:
        unknown = [name for name in options.layers if name not in backbone.layers]
        if unknown:
            raise ValueError(
                f"{backbone.name} has no layer {', '.join(unknown)}; choose from {', '.join(backbone.layers)}"
            )
        return [tuple(options.layers)]
    depth = len(backbone.layers)
    if depth == 1:
        return [backbone.layers]
    singles = [(name,) for name in backbone.layers[1 : max(2, depth - 1)]]
    prefixes = [backbone.layers[: k + 1] for k in range(1, depth)]
    return list(dict.fromkeys([*singles, *prefixes]))


def prior_candidates(options: FitOptions, data: TrainingSet) -> list[str]:
    """Names of the priors to choose from; with one composition only, "none" is the same as "composition".

    Energies of isolated atoms leave the one that has them.
    """
    if options.prior != AUTO:
        return [options.prior]
    if options.isolated_atoms:
        return ["composition"]
    names = [name for name in PRIORS if data.extraction.energies is not None or name not in NEEDS_BACKBONE]
    return [name for name in names if name != "none" or data.compositions().rank > 1]


def plan_of(solver: str) -> Plan:
    """How a solver's choices are made."""
    return OF_STRUCTURES if solver == "exact" else OF_ENVIRONMENTS


def group_count(options: FitOptions, environments: Environments, tangent_share: float = 0.0) -> int:
    """Number of inducing environments; fewer where a tangent kernel does most of the work."""
    if options.inducing != AUTO:
        return int(options.inducing)
    return min(default_count(environments), BESIDE_TANGENT if tangent_share else len(environments.species))


def search_problem(
    data: TrainingSet, options: FitOptions, backbone: Backbone, plan: Plan, progress: StageProgress | None
) -> SearchProblem:
    """The choice to be made, for any subset of the data."""
    names = prior_candidates(options, data)
    return SearchProblem(
        plan,
        layer_candidates(options, backbone),
        data.observe,
        lambda chosen: [data.prior_columns(name, chosen) for name in names],
        data.columns,
        data.weights,
        grid_of(options, plan, data.has_forces, data.space is not None),
        options.stress_weight,
        None if plan.of_structures else group_count(options, data.extraction.environments),
        None if progress is None else lambda done, total: progress("kernel", done, total),
    )


def choose(
    data: TrainingSet,
    options: FitOptions,
    backbone: Backbone,
    plan: Plan,
    progress: StageProgress | None = None,
    whole: bool = False,
) -> Choice:
    """Leave-one-out's choice of everything left to it, coarse to fine unless the whole grid is asked for."""
    return search(search_problem(data, options, backbone, plan, progress), options.seed, whole)


def grid_of(options: FitOptions, plan: Plan, forces: bool, tangent: bool = False) -> Grid:
    """Values to choose from, those that the options fix among them."""
    grid = Grid(
        kernel=options.kernel,
        embedding=options.embedding,
        length_scales=plan.length_scales,
        ridges=plan.ridges,
        force_weights=FORCE_WEIGHTS if forces else (0.0,),
        criterion=criterion_for(options.criterion, forces, plan.of_structures),
    )
    if options.kernel == "linear":
        grid = replace(grid, length_scales=(1.0,), length_scale_fixed=True)
    if options.length_scale == "median":
        grid = replace(grid, length_scales=MEDIAN, length_scale_fixed=True)
    elif options.length_scale != AUTO:
        grid = replace(grid, length_scales=(float(options.length_scale),), length_scale_fixed=True)
    if options.species_weight != AUTO:
        grid = replace(grid, species_weights=(float(options.species_weight),))
    if options.force_weight != AUTO and forces:
        grid = replace(grid, force_weights=(float(options.force_weight),))
    if tangent:
        shares = TANGENT_SHARES if options.tangent_share == AUTO else (float(options.tangent_share),)
        grid = replace(grid, tangent_shares=shares)
    if options.ridge != AUTO:
        grid = replace(grid, ridges=(float(options.ridge),), ridge_fixed=True)
    return grid
