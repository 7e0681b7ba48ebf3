"""Conformance check of backbones: what one must satisfy before its features are worth anything."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.build import make_supercell

from mekrr.backbones import Backbone, BackboneOutput
from mekrr.backbones.derivatives import edge_directions, energy_forces_stress, linearise
from mekrr.graph import GraphBatch, build_batch
from mekrr.testing.linear_maps import check_linear_maps
from mekrr.typing import Float, Tensor

Curve = Callable[[float], Tensor]
_USUAL = (29, 8, 1, 14, 6)
_SPACING = 2.7
# Relative to the largest value compared. Finite differences in float32 lose half of the digits.
_TOLERANCE = {torch.float32: 3e-4, torch.float64: 1e-8}
_DIFFERENCE_TOLERANCE = {torch.float32: 2e-2, torch.float64: 1e-5}
# The best of several steps counts: a sharp function wants a small one, a rounded function a large one.
_STEPS = {torch.float32: (1e-2, 2e-3, 5e-4), torch.float64: (1e-3, 1e-4)}


def check_backbone(backbone: Backbone, species: Sequence[int] | None = None, seed: int = 0) -> None:
    """Check that a backbone keeps the contract of `mekrr.backbones.Backbone`.

    Checked on rattled structures (bulk, slab, molecule, single atom): declared layers and widths, finite values,
    determinism, that of charge and spin only what `reads` names matters, that inputs are left alone, batch = one by
    one, invariance under permutation, translation, lattice translation, rotation and supercells, derivatives of
    features against finite differences in reverse and (where `forward_mode` is True) forward mode, forces and stress
    against finite differences of the energy, and what a change of the weights of `linear_maps` does.

    Args:
        backbone: to check.
        species: atomic numbers to build structures from; by default up to three common ones that it knows.
        seed: of the random structures and directions.

    Raises:
        AssertionError: naming the property that fails, by how much, and what usually causes it.
        ValueError: if `species` holds an element that the backbone does not know.
    """
    species = _usual_species(backbone) if species is None else list(species)
    backbone.check_species(species)
    case = _Case(backbone, np.random.default_rng(seed), species)
    for check in _CHECKS:
        check(case)


@dataclass(frozen=True)
class _Case:
    backbone: Backbone
    rng: np.random.Generator
    species: Sequence[int]

    def bulk(self) -> Atoms:
        """Eight atoms on a rattled lattice in an oblique cell."""
        grid = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
        cell = 2 * _SPACING * (np.eye(3) + 0.05 * self.rng.normal(size=(3, 3)))
        positions = grid / 2 @ cell + 0.12 * self.rng.normal(size=(8, 3))
        return Atoms(self.rng.choice(self.species, 8), positions=positions, cell=cell, pbc=True)

    def slab(self) -> Atoms:
        """Periodic in two directions."""
        atoms = self.bulk()
        atoms.cell[2] *= 3
        atoms.pbc = (True, True, False)
        return atoms

    def molecule(self) -> Atoms:
        """Three atoms, not periodic, no cell."""
        positions = [[0.0, 0.0, 0.0], [1.9, 0.2, 0.1], [-0.4, 1.8, 0.3]]
        return Atoms(self.rng.choice(self.species, 3), positions=positions)

    def atom(self) -> Atoms:
        """One atom without neighbours."""
        return Atoms([self.species[0]], positions=[[0.3, 0.1, 0.2]])

    def structures(self) -> list[Atoms]:
        """Of different sizes and periodicities."""
        return [self.bulk(), self.atom(), self.molecule(), self.slab()]

    def graph(self, *structures: Atoms) -> GraphBatch:
        return build_batch(structures, self.backbone.cutoff, self.backbone.max_neighbours)

    def evaluate(self, graph: GraphBatch, layers: Sequence[str] | None = None) -> BackboneOutput:
        with torch.no_grad():
            return self.backbone.forward(graph, graph.edge_vectors(), layers or self.backbone.layers)

    def features(self, *structures: Atoms) -> Float[Tensor, "atoms features"]:
        return self.evaluate(self.graph(*structures)).features.double().cpu()

    def agree(self, left: Tensor, right: Tensor, what: str, cause: str, tolerance: float | None = None) -> None:
        """Raise unless both are equal up to the tolerance, relative to the largest value."""
        tolerance = _TOLERANCE[self.backbone.dtype] if tolerance is None else tolerance
        deviation = _deviation(left, right)
        if not deviation <= tolerance:
            raise AssertionError(
                f"{self.backbone.name}: {what} by {deviation:.1e} of the largest value, allowed {tolerance:.0e}; "
                f"{cause}"
            )

    def agree_with_difference(self, found: Tensor, curve: Curve, what: str, cause: str) -> None:
        """Raise unless `found` is the slope of `curve` at zero by one of the steps."""
        tolerance = _DIFFERENCE_TOLERANCE[self.backbone.dtype]
        slopes = (_difference(curve, step) for step in _STEPS[self.backbone.dtype])
        slope = next((slope for slope in slopes if _deviation(found, slope) <= tolerance), None)
        if slope is None:
            slope = _difference(curve, _STEPS[self.backbone.dtype][0])
        self.agree(found, slope, f"{what} differ from finite differences", cause, tolerance)


def _deviation(left: Tensor, right: Tensor) -> float:
    """Largest difference relative to the largest value on the right."""
    left, right = left.double().cpu(), right.double().cpu()
    return float((left - right).abs().max() / right.abs().max().clamp(min=1e-12))


def _difference(curve: Curve, step: float) -> Tensor:
    """Fourth-order central difference at zero."""
    near, far = curve(step) - curve(-step), curve(2 * step) - curve(-2 * step)
    return (8 * near - far) / (12 * step)


def _usual_species(backbone: Backbone) -> list[int]:
    known: list[int] = sorted(backbone.known_species)
    return ([z for z in _USUAL if z in known] or known)[:3]


def _require(backbone: Backbone, fulfilled: bool, message: str) -> None:
    if not fulfilled:
        raise AssertionError(f"{backbone.name}: {message}")


def _check_declarations(case: _Case) -> None:
    backbone = case.backbone
    graph = case.graph(*case.structures())
    whole = case.evaluate(graph)
    widths = [backbone.layer_widths[layer] for layer in backbone.layers]
    shape = (len(graph.species), sum(widths))
    _require(
        backbone,
        tuple(whole.features.shape) == shape,
        f"features have shape {tuple(whole.features.shape)}, layer_widths promise {shape}; correct layer_widths",
    )
    for layer, columns in zip(backbone.layers, whole.features.split(widths, dim=1), strict=True):
        alone = case.evaluate(graph, [layer]).features
        case.agree(alone, columns, f"{layer} alone differs from {layer} among all", "keep the order asked for")
    has_energy = whole.atomic_energies is not None
    _require(
        backbone,
        has_energy == backbone.has_energy,
        f"has_energy is {backbone.has_energy}, but atomic_energies is {'given' if has_energy else 'None'}",
    )
    if whole.atomic_energies is not None:
        _require(
            backbone,
            tuple(whole.atomic_energies.shape) == (len(graph.species),),
            f"atomic_energies have shape {tuple(whole.atomic_energies.shape)}; one number an atom is wanted",
        )


def _check_finite(case: _Case) -> None:
    for name, atoms in (("a single atom", case.atom()), ("a bulk", case.bulk()), ("a molecule", case.molecule())):
        output = case.evaluate(case.graph(atoms))
        values = [output.features] if output.atomic_energies is None else [output.features, output.atomic_energies]
        finite = all(bool(value.isfinite().all()) for value in values)
        _require(case.backbone, finite, f"{name} gives NaN or infinity; mind atoms without edges and divisions by zero")


def _check_pure(case: _Case) -> None:
    graph = case.graph(case.bulk())
    before = {name: tensor.clone() for name, tensor in vars(graph).items() if tensor is not None}
    vectors = graph.edge_vectors()
    kept = vectors.clone()
    first = case.backbone.forward(graph, vectors, case.backbone.layers).features
    second = case.backbone.forward(graph, vectors, case.backbone.layers).features
    untouched = torch.equal(vectors, kept) and all(torch.equal(getattr(graph, n), t) for n, t in before.items())
    _require(case.backbone, untouched, "forward changes its input; work on copies")
    same = torch.equal(first, second)
    _require(case.backbone, same, "two equal calls give different features; switch dropout off, keep no state")
    for layer in case.backbone.layers:
        whole = case.backbone.forward(graph, vectors, [layer]).features
        alone = case.backbone.forward(graph, vectors, [layer], energies=False).features
        left_out = f"features of {layer} differ when energies are left out"
        _require(case.backbone, torch.equal(whole, alone), f"{left_out}; leave out only what lies deeper")


def _check_batching(case: _Case) -> None:
    structures = case.structures()
    alone = torch.cat([case.features(atoms) for atoms in structures])
    together = case.features(*structures)
    case.agree(together, alone, "a batch differs from its structures one by one", "structures must not see one another")


def _check_permutation(case: _Case) -> None:
    atoms = case.slab()
    order = case.rng.permutation(len(atoms))
    case.agree(case.features(atoms[order]), case.features(atoms)[order], "permuted atoms differ", "use graph.centre")


def _check_translation(case: _Case) -> None:
    atoms, moved, wrapped = case.bulk(), None, None
    moved = atoms.copy()
    moved.positions += case.rng.normal(size=3)
    wrapped = atoms.copy()
    wrapped.positions += case.rng.integers(-2, 3, size=(len(atoms), 3)) @ atoms.cell.array
    cause = "read edge vectors, never positions"
    case.agree(case.features(moved), case.features(atoms), "a translated structure differs", cause)
    case.agree(case.features(wrapped), case.features(atoms), "atoms moved by lattice vectors differ", cause)


def _check_rotation(case: _Case) -> None:
    rotation = np.linalg.qr(case.rng.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    atoms = case.bulk()
    turned = Atoms(atoms.numbers, positions=atoms.positions @ rotation, cell=atoms.cell.array @ rotation, pbc=True)
    cause = "hand out invariant (scalar) features only"
    case.agree(case.features(turned), case.features(atoms), "a rotated structure differs", cause)


def _check_supercell(case: _Case) -> None:
    atoms = case.bulk()
    doubled = make_supercell(atoms, np.diag([2, 1, 1]), order="cell-major")
    cause = "atomic quantities must not depend on the number of atoms"
    single, double = case.evaluate(case.graph(atoms)), case.evaluate(case.graph(doubled))
    case.agree(double.features, single.features.repeat(2, 1), "a supercell differs", cause)
    if single.atomic_energies is not None and double.atomic_energies is not None:
        case.agree(double.atomic_energies, single.atomic_energies.repeat(2), "a supercell's energies differ", cause)


def _check_feature_derivatives(case: _Case) -> None:
    backbone = case.backbone
    graph = case.graph(case.bulk(), case.molecule())
    direction = torch.from_numpy(case.rng.normal(size=(len(graph.species), 3)))
    strain = torch.from_numpy(case.rng.normal(size=(graph.n_structures, 3, 3)))
    strain = 0.1 * (strain + strain.mT)

    def features(step: float) -> Tensor:
        stretched = graph.edge_vectors(strain=step * strain) - graph.edge_vectors()
        vectors = stretched + graph.edge_vectors(positions=graph.positions + step * direction)
        with torch.no_grad():
            return backbone.forward(graph, vectors, backbone.layers).features.double().cpu()

    cause = "everything between edge vectors and features must be differentiable torch code (no detach, no rounding)"
    tangents = linearise(backbone, graph, direction[None], strain[None]).feature_derivatives[0]
    mode = "forward mode" if backbone.forward_mode else "reverse mode twice"
    case.agree_with_difference(tangents, features, f"derivatives of features by {mode}", cause)
    reverse = _reverse_product(case, graph, edge_directions(graph, direction[None], strain[None])[0])
    total = tangents.double().sum().reshape(1)
    case.agree(reverse, total, "reverse mode differs from derivatives along a direction", cause, 1e-2)


def _reverse_product(case: _Case, graph: GraphBatch, move: Float[Tensor, "edges 3"]) -> Float[Tensor, "1"]:
    """Derivative of the sum of all features along a direction, from one gradient."""
    vectors = graph.edge_vectors().requires_grad_(True)
    total = case.backbone.forward(graph, vectors, case.backbone.layers).features.double().sum()
    (gradient,) = torch.autograd.grad(total, vectors)
    return (move * gradient).sum().reshape(1)


def _check_forces_and_stress(case: _Case) -> None:
    if not case.backbone.has_energy:
        return
    atoms = case.bulk()
    predicted = energy_forces_stress(case.backbone, case.graph(atoms))
    summed = predicted.atomic_energies.sum().reshape(1)
    case.agree(predicted.energies, summed, "the energy is not the sum of atomic energies", "see GraphBatch.sum_atoms")
    direction = case.rng.normal(size=(len(atoms), 3))
    strain = case.rng.normal(size=(3, 3))
    strain = 0.05 * (strain + strain.T)

    def moved(step: float) -> Tensor:
        copy = atoms.copy()
        copy.positions += step * direction
        return _energy(case, copy)

    def strained(step: float) -> Tensor:
        copy = atoms.copy()
        copy.set_cell(atoms.cell.array @ (np.eye(3) + step * strain), scale_atoms=True)
        return _energy(case, copy)

    cause = "atomic_energies must be differentiable in the edge vectors and hold every part of the energy"
    slope = -(predicted.forces.cpu() * torch.from_numpy(direction)).sum().reshape(1)
    case.agree_with_difference(slope, moved, "forces", cause)
    slope = atoms.cell.volume * (predicted.stress[0].cpu() * torch.from_numpy(strain)).sum().reshape(1)
    case.agree_with_difference(slope, strained, "stresses", cause)


def _energy(case: _Case, atoms: Atoms) -> Float[Tensor, "1"]:
    """Energy with a neighbour list made anew."""
    energies = case.evaluate(case.graph(atoms)).atomic_energies
    assert energies is not None
    return energies.double().cpu().sum().reshape(1)


def _check_linear_maps(case: _Case) -> None:
    check_linear_maps(case, case.graph(case.bulk(), case.molecule()))


def _check_refusals(case: _Case) -> None:
    graph = case.graph(case.molecule())
    for arguments, what in (
        ((graph, graph.edge_vectors(), ["no such layer"]), "an unknown layer"),
        ((graph, graph.edge_vectors(), []), "an empty list of layers"),
        ((_with_unknown_species(graph), graph.edge_vectors(), case.backbone.layers), "an unknown element"),
    ):
        try:
            case.backbone.forward(*arguments)
        except ValueError:
            continue
        raise AssertionError(f"{case.backbone.name}: {what} passes; begin forward with self.prepare(...)")


def _check_electrons(case: _Case) -> None:
    """Of charge and spin only what `reads` names may matter, each structure's own."""
    backbone = case.backbone
    plain, marked = case.bulk(), {}
    for name, value in (("charge", 1), ("spin", 3)):
        marked[name] = plain.copy()
        marked[name].info[name] = value
        same = _equal_outputs(case.evaluate(case.graph(plain)), case.evaluate(case.graph(marked[name])))
        if name in backbone.reads:
            _require(backbone, not same, f"reads names the {name}, but nothing depends on it; read graph.{name}")
        else:
            _require(backbone, same, f"the {name} changes the output, but reads does not name it; add it to reads")
    structures = [plain, *(marked[name] for name in backbone.reads)]
    alone = torch.cat([case.features(atoms) for atoms in structures])
    cause = "charge and spin are of each structure: graph.charge[graph.structure] is that of the atoms"
    case.agree(case.features(*structures), alone, "structures of different charge or spin see one another", cause)


def _equal_outputs(left: BackboneOutput, right: BackboneOutput) -> bool:
    pairs = ((left.features, right.features), (left.atomic_energies, right.atomic_energies))
    return all(a is None or b is None or torch.equal(a, b) for a, b in pairs)


def _with_unknown_species(graph: GraphBatch) -> GraphBatch:
    return GraphBatch(**(vars(graph) | {"species": torch.full_like(graph.species, 118)}))


_CHECKS: tuple[Callable[[_Case], None], ...] = (
    _check_pure,
    _check_finite,
    _check_declarations,
    _check_refusals,
    _check_electrons,
    _check_batching,
    _check_permutation,
    _check_translation,
    _check_rotation,
    _check_supercell,
    _check_feature_derivatives,
    _check_forces_and_stress,
    _check_linear_maps,
)
