"""What to label next: structures of a pool, in the order in which a potential wants them.

The potential's energies are jointly Gaussian, and their covariance does not depend on labels. So a batch can be picked
before any of it is labelled: take the structure that says most, condition on it as if it were labelled, go on. What an
observation says is 1/2 log(1 + variance / noise) (MacKay, Neural Comput. 4, 590, 1992), and one after another within
1 - 1/e of the best batch (Krause, Singh, Guestrin, J. Mach. Learn. Res. 9, 235, 2008); the noise of an energy is
ridge * n, so structures are compared by variance / n, not by the deviation per atom, which would favour small cells.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from ase import Atoms
from ase.data import chemical_symbols

from mekrr.backbones import Backbone
from mekrr.data import Structure, as_structures, duplicate_groups
from mekrr.errors import DataError
from mekrr.features import BATCH_ATOMS, Environments, FeatureCache, TangentSpace, batches, extract
from mekrr.graph import GraphBatch, build_batch
from mekrr.potential import KernelPotential, MekrrWarning
from mekrr.potential.fitted import Fitted
from mekrr.potential.model import Model
from mekrr.prior import NEEDS_BACKBONE
from mekrr.typing import Float, Int, Tensor

METHODS = ("variance", "atoms", "farthest", "random")
NEGLIGIBLE = 0.01  # of the noise: directions with less signal change no variance that could be told from it
PAIRS_AT_ONCE = 4_000_000

StageProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Skipped:
    """Indices of structures of the pool that are not chosen from.

    Attributes:
        training: equal to one of the training set.
        repeated: equal to an earlier one of the pool.
        unknown: with elements that the potential cannot treat.
    """

    training: tuple[int, ...] = ()
    repeated: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()

    def __str__(self) -> str:
        words = (
            (len(self.training), "in the training set"),
            (len(self.repeated), "equal to another of the pool"),
            (len(self.unknown), "with unknown elements"),
        )
        return ", ".join(f"{count} {text}" for count, text in words if count) or "none"


@dataclass(frozen=True, eq=False)
class Selection:
    """Structures to label, in the order of choice.

    Attributes:
        method: one of METHODS.
        structures: the chosen ones, as they were given.
        indices: where they stand in the pool.
        energy_std: deviation of each one's total energy as it is predicted now, eV; noise included.
        select_std: the same once the energies of those chosen before it are known.
        n_pool: structures given.
        skipped: those that could not be chosen.
    """

    method: str
    structures: tuple[Structure, ...]
    indices: tuple[int, ...]
    energy_std: Float[Tensor, "chosen"]
    select_std: Float[Tensor, "chosen"]
    n_pool: int
    skipped: Skipped


def select(
    potential: KernelPotential,
    pool: Sequence[Structure | Atoms],
    count: int,
    method: str = "variance",
    seed: int = 0,
    skip_unknown: bool = False,
    progress: StageProgress | None = None,
) -> Selection:
    """The structures of a pool to label next; labels, if any, are not looked at.

    Args:
        potential: fitted.
        pool: candidates; those in the training set, and copies of one another, are left out.
        count: how many to choose.
        method: "variance": largest variance / n of the energy, given the energies of those chosen before; "atoms":
            largest mean variance of the atomic energies, given all atomic energies of those; "farthest": the atom
            farthest from every environment known; "random".
        seed: of "random".
        skip_unknown: leave structures out that have elements the potential cannot treat.
        progress: called with a stage's name, the units done and the units in all.

    A warning says which elements of the candidates the training data lack: their deviations are large for that reason.

    Raises:
        DataError: for elements that cannot be treated, or more structures asked for than can be chosen from.
        ValueError: for an unknown method, "atoms" with the mean embedding, or a count below 1.
    """
    fitted = potential.fitted_
    _check(method, count, fitted)
    structures = as_structures(pool)
    candidates, skipped = _candidates(potential, structures, skip_unknown)
    if count > len(candidates):
        raise DataError(
            f"{count} structures were asked for, but only {len(candidates)} of the pool of {len(structures)} can be "
            f"chosen (left out: {skipped}); ask for fewer, or give a larger pool"
        )
    _warn_of_strangers([structures[i] for i in candidates], fitted.known_species)
    atoms = [structures[i].atoms for i in candidates]
    x = _environments(potential, atoms, progress)
    energies = Joint.of_structures(fitted.model, x, _tangents(potential, atoms, progress))
    by_atoms = _of_atoms(potential, atoms, x) if method == "atoms" else None
    order, conditional = choose(energies, fitted.model, x, count, method, seed, by_atoms)
    chosen = torch.tensor(order)
    noise, deviation = energies.noise[chosen], fitted.model.deviation
    return Selection(
        method,
        tuple(structures[candidates[i]] for i in order),
        tuple(candidates[i] for i in order),
        deviation(energies.variance[chosen], noise),
        deviation(conditional, noise),
        len(structures),
        skipped,
    )


@dataclass(frozen=True, eq=False)
class Joint:
    """Energies of structures or of single atoms, jointly Gaussian given the training data, at unit amplitude.

    Attributes:
        model: fitted.
        x: standardised; each row is a structure, or an atom by itself.
        owner: the structure that each row belongs to.
        explained: with K(x, y) - explained_x . explained_y + left_open_x . left_open_y their covariance.
        left_open: see explained.
        variance: of each row.
        noise: of an observation of each row.
        T: of each row, where there is a tangent part and the rows are structures. Of atoms it is too large to keep;
            what the tangent kernel's basis cannot express of them is taken to be independent.
    """

    model: Model
    x: Environments
    owner: Int[Tensor, "rows"]
    explained: Float[Tensor, "rows basis"]
    left_open: Float[Tensor, "rows basis"]
    variance: Float[Tensor, "rows"]
    noise: Float[Tensor, "rows"]
    T: Float[Tensor, "rows elements width"] | None = None

    @staticmethod
    def of_structures(
        model: Model, x: Environments, T: Float[Tensor, "structures elements width"] | None = None
    ) -> "Joint":
        """Total energies; T of the structures where there is a tangent part."""
        own = model.kernel.diagonal(x) * _scale(model, x).square()
        psi = model.function(x, slopes=False, rows=True).rows
        assert psi is not None
        owner = torch.arange(x.n_structures)
        return Joint._of(model, x, owner, *model.with_tangent(own, psi, T), T)

    @staticmethod
    def of_atoms(
        model: Model,
        x: Environments,
        tangent: tuple[Float[Tensor, "atoms"], Float[Tensor, "atoms functions"]] | None = None,
    ) -> "Joint":
        """Atomic energies: each atom as a structure of its own; `tangent` as in Model.atomic_deviation."""
        single = x.singletons()
        own, psi = model.atoms_with_tangent(single, tangent)
        return Joint._of(model, single, x.structure, own, psi, None)

    @staticmethod
    def _of(
        model: Model,
        x: Environments,
        owner: Int[Tensor, "rows"],
        own: Float[Tensor, "rows"],
        psi: Float[Tensor, "rows basis"],
        T: Tensor | None,
    ) -> "Joint":
        explained, left_open = model.posterior_factors(psi)
        variance = (own - explained.square().sum(1)).clamp_min(0.0) + left_open.square().sum(1)
        return Joint(model, x, owner, explained, left_open, variance, model.noise(x.n_atoms), T)

    def covariance(self, rows: Int[Tensor, "chosen"]) -> Float[Tensor, "rows chosen"]:
        """Of all rows with the chosen ones."""
        prior, open_ = self._prior(rows), self.left_open @ self.left_open[rows].T
        if self.T is not None or self.model.tangent is None:
            return prior - self.explained @ self.explained[rows].T + open_
        # K_T is known within its basis only, where it is explained; what lies beyond stands on the diagonal
        of_features = self.explained[:, : len(self.model.basis.features)]
        found = prior - of_features @ of_features[rows].T + open_
        found[rows, torch.arange(len(rows))] = self.variance[rows]
        return found

    def _prior(self, rows: Int[Tensor, "chosen"]) -> Float[Tensor, "rows chosen"]:
        """K between all rows and the chosen ones."""
        x, y, model = self.x, self.x[rows], self.model
        if len(x.species) == x.n_structures:  # single atoms need no pooling
            K = model.kernel.between_atoms(x, y)
        else:
            K = model.kernel.gram(x, y) * _scale(model, x)[:, None] * _scale(model, y)
        if model.tangent is None:
            return K
        K = model.features_share * K
        return K if self.T is None else K + model.tangent.between(self.T, self.T[rows])


def choose(
    energies: Joint, model: Model, x: Environments, count: int, method: str, seed: int, by_atoms: Joint | None = None
) -> tuple[list[int], Float[Tensor, "chosen"]]:
    """The order of choice, and the variance of each energy given the energies before it, at unit amplitude."""
    if method == "variance":
        return condition(energies, count)
    if method == "atoms":
        order = condition(by_atoms or Joint.of_atoms(model, x), count)[0]
    elif method == "farthest":
        order = farthest(model, x, count)
    else:
        order = torch.randperm(x.n_structures, generator=torch.Generator().manual_seed(seed))[:count].tolist()
    return condition(energies, count, order)


def condition(
    joint: Joint, count: int, order: Sequence[int] | None = None
) -> tuple[list[int], Float[Tensor, "chosen"]]:
    """Structures one after another, each conditioned on those before.

    Args:
        joint: of what is observed.
        count: of structures.
        order: which; without it the one with the largest mean of variance / noise, each time.

    Returns:
        The structures, and the sum of their rows' variances when they were chosen.
    """
    n = int(joint.owner.max()) + 1
    rows_of = torch.bincount(joint.owner, minlength=n).double()
    variance, columns = joint.variance, joint.noise.new_zeros(len(joint.noise), 0)
    chosen: list[int] = []
    found: list[Tensor] = []
    for rank in range(count):
        score = variance.new_zeros(n).index_add_(0, joint.owner, variance / joint.noise) / rows_of
        score[chosen] = -torch.inf
        t = int(score.argmax()) if order is None else order[rank]
        members = torch.nonzero(joint.owner == t).flatten()
        found.append(variance[members].sum())
        residual = joint.covariance(members) - columns @ columns[members].T
        added = residual @ _whitening(residual[members], float(joint.noise[members[0]]))
        columns = torch.cat([columns, added], dim=1)
        variance = (variance - added.square().sum(1)).clamp_min(0.0)
        chosen.append(t)
    return chosen, torch.stack(found)


def farthest(model: Model, x: Environments, count: int) -> list[int]:
    """Structures by their atom that is farthest from all known environments of its species, one after another."""
    centres = model.centres
    distance = _nearest(x.features, x.species, centres.features, centres.species)
    chosen: list[int] = []
    for _ in range(count):
        worst = torch.zeros(x.n_structures, dtype=torch.float64).scatter_reduce_(0, x.structure, distance, "amax")
        worst[chosen] = -torch.inf
        chosen.append(int(worst.argmax()))
        own = x[torch.tensor(chosen[-1:])]
        distance = torch.minimum(distance, _nearest(x.features, x.species, own.features, own.species))
    return chosen


def _whitening(signal: Float[Tensor, "rows rows"], noise: float) -> Float[Tensor, "rows kept"]:
    """W with W W' = (signal + noise)^-1, but for directions without signal."""
    eigenvalues, V = torch.linalg.eigh((signal + signal.T) / 2)
    kept = eigenvalues > NEGLIGIBLE * noise
    return V[:, kept] / (eigenvalues[kept] + noise).sqrt()


def _nearest(
    h: Float[Tensor, "atoms features"],
    species: Int[Tensor, "atoms"],
    u: Float[Tensor, "known features"],
    known: Int[Tensor, "known"],
) -> Float[Tensor, "atoms"]:
    """Distance to the nearest of the known environments of the same species; infinite where there is none."""
    found = torch.full((len(h),), torch.inf, dtype=torch.float64)
    at_once = max(1, PAIRS_AT_ONCE // len(u))
    for z in torch.unique(species).tolist():
        others = u[known == z]
        if len(others):
            for rows in torch.nonzero(species == z).flatten().split(at_once):
                found[rows] = torch.cdist(h[rows], others).amin(1)
    return found


def _scale(model: Model, x: Environments) -> Float[Tensor, "structures"]:
    """From the embedding's function to total energies: the mean embedding is of energies per atom."""
    n = x.n_atoms.double()
    return n if model.embedding == "mean" else torch.ones_like(n)


def _check(method: str, count: int, fitted: Fitted) -> None:
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    if count < 1:
        raise ValueError(f"at least one structure must be chosen; got {count}")
    if method == "atoms" and fitted.embedding == "mean":
        raise ValueError("the mean embedding has no atomic energies; choose by variance")


def _candidates(
    potential: KernelPotential, structures: Sequence[Structure], skip_unknown: bool
) -> tuple[list[int], Skipped]:
    """Indices of what can be chosen, and what cannot."""
    fitted = potential.fitted_
    covered = potential.backbone.known_species
    if fitted.prior.name not in NEEDS_BACKBONE:
        covered = covered & fitted.known_species
    trained, first = fitted.trained_on(structures), duplicate_groups(structures)
    kept: list[int] = []
    training: list[int] = []
    repeated: list[int] = []
    unknown: list[int] = []
    for i, structure in enumerate(structures):
        if not set(structure.species.tolist()) <= covered:
            unknown.append(i)
        elif trained[i]:
            training.append(i)
        elif first[i] != i:
            repeated.append(i)
        else:
            kept.append(i)
    if unknown and not skip_unknown:
        raise DataError(_about_unknown(structures, unknown, covered))
    return kept, Skipped(tuple(training), tuple(repeated), tuple(unknown))


def _about_unknown(structures: Sequence[Structure], unknown: Sequence[int], covered: set[int] | frozenset[int]) -> str:
    strangers = _strangers([structures[i] for i in unknown], covered)
    return (
        f"{structures[unknown[0]].where}: {strangers}: elements that the potential cannot treat, in {len(unknown)} of "
        f"{len(structures)} structures; leave these out with --skip-unknown, or label some by hand and fit again"
    )


def _warn_of_strangers(candidates: Sequence[Structure], known: set[int] | frozenset[int]) -> None:
    """Elements without training data, which a prior with the backbone's energy can treat."""
    if strangers := _strangers(candidates, known):
        warnings.warn(
            f"{strangers}: not in the training data; structures with new elements have large deviations for that "
            "reason",
            MekrrWarning,
            stacklevel=3,
        )


def _strangers(structures: Sequence[Structure], known: set[int] | frozenset[int]) -> str:
    numbers = {int(z) for structure in structures for z in structure.species} - known
    return ", ".join(chemical_symbols[z] for z in sorted(numbers))


def _environments(potential: KernelPotential, atoms: Sequence[Atoms], progress: StageProgress | None) -> Environments:
    """Standardised, of the potential's layers."""
    fitted = potential.fitted_
    extraction = extract(
        atoms,
        potential.backbone,
        fitted.layers,
        None if potential.cache is None else FeatureCache(potential.cache),
        potential.options.batch_atoms or BATCH_ATOMS,
        None if progress is None else lambda done, total: progress("features", done, total),
        potential.shards,
    )
    return fitted.scaler(extraction.environments)


def _tangents(
    potential: KernelPotential, atoms: Sequence[Atoms], progress: StageProgress | None
) -> Float[Tensor, "structures elements width"] | None:
    """T of the structures where the potential has a tangent part, in single precision."""
    tangent, backbone = potential.fitted_.model.tangent, potential.backbone
    if tangent is None:
        return None
    found = []
    groups = list(batches([len(a) for a in atoms], potential.options.batch_atoms or BATCH_ATOMS))
    shards = [[atoms[t] for t in batch] for batch in groups]
    parts = potential.shards.map(Tangents(tangent.space, backbone), shards, "weight gradients")
    for batch, part in zip(groups, parts, strict=True):
        found.append(part)
        if progress is not None:
            progress("weight gradients", batch[-1] + 1, len(atoms))
    return torch.cat(found)


@dataclass(frozen=True, eq=False)
class Tangents:
    """T of a batch of structures, in single precision."""

    space: TangentSpace
    backbone: Backbone

    def __call__(self, batch: Sequence[Atoms]) -> Float[Tensor, "structures elements width"]:
        """One row a structure."""
        graph = build_batch(batch, self.backbone.cutoff, self.backbone.max_neighbours)
        return self.space.of(self.backbone, graph).float().cpu()


def _of_atoms(potential: KernelPotential, atoms: Sequence[Atoms], x: Environments) -> Joint:
    """Of the atomic energies of all structures."""
    tangent = potential.fitted_.model.tangent
    if tangent is None:
        return Joint.of_atoms(potential.fitted_.model, x)
    parts = [tangent.of_atoms(potential.backbone, graph) for _, graph in _graphs(potential, atoms)]
    own, rows = zip(*parts, strict=True)
    return Joint.of_atoms(potential.fitted_.model, x, (torch.cat(own), torch.cat(rows)))


def _graphs(potential: KernelPotential, atoms: Sequence[Atoms]) -> Iterator[tuple[list[int], GraphBatch]]:
    backbone = potential.backbone
    for batch in batches([len(a) for a in atoms], potential.options.batch_atoms or BATCH_ATOMS):
        yield batch, build_batch([atoms[t] for t in batch], backbone.cutoff, backbone.max_neighbours)
