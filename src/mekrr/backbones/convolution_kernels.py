"""The arithmetic of equivariant convolutions: values, gradients, and derivatives along many directions.

For atom i, its neighbours j at distance r and direction with spherical harmonics Y, and every path p from an input of
degree l1 to an output of degree l3,

    out_i[p, m3, u] = sum_j sum_m1 M_ij[p, m3, m1] w_ij[p, u] x_j[m1, u],   M[p, m3, m1] = sum_m2 C_p[m1, m2, m3] Y[m2],

with w a small network of r. Written with M, which is shared by all channels u, the sums over j and m1 are one matrix
product an atom. Atoms are done in blocks that fit the cache, so nothing of the size edges x channels is ever stored.

Along a direction d (a prime marks the derivative; w' = w_r r' because w knows nothing but r)

    out'_i = sum (M'_d w + r'_d M w_r) x_j + M w x'_dj,

where the factors w x and w_r x are the same for all directions: many directions cost little more than one.
"""

import torch

from mekrr.backbones.convolution import Block, Convolution, Edges, Group, Path
from mekrr.backbones.process_state import forward_product
from mekrr.typing import Float, Tensor


def convolution_values(
    convolution: Convolution,
    edges: Edges,
    features: Float[Tensor, "atoms columns"],
    lengths: Float[Tensor, "edges"],
    harmonics: Float[Tensor, "edges harmonics"],
) -> Float[Tensor, "atoms out"]:
    """Messages summed over neighbours."""
    out = features.new_zeros(len(features), convolution.n_out)
    sources = [group.channels_last(features) for group in convolution.groups]
    hidden = convolution.hidden(lengths)
    for block in edges.blocks:
        weights = hidden[block.edge.flatten()] @ convolution.mixing
        angular = _padded_harmonics(block, harmonics)
        for group, source in zip(convolution.groups, sources, strict=True):
            neighbours = source[block.neighbour]
            for path in group.paths:
                weighted = _weighted(neighbours, weights, path).flatten(1, 2)
                summed = torch.bmm(_matrices(angular, path, group), weighted)
                out[block.atoms, path.out] += summed.transpose(1, 2).flatten(1)
    return out


def _padded_harmonics(block: Block, harmonics: Float[Tensor, "*n edges m2"]) -> Float[Tensor, "*n block slots m2"]:
    """Harmonics of a block's edges, zero where padded: that silences the padding in every product."""
    return harmonics[..., block.edge, :] * block.real[..., None]


def _weighted(
    neighbours: Float[Tensor, "block slots n_in channels"], weights: Float[Tensor, "rows weights"], path: Path
) -> Float[Tensor, "block slots n_in channels"]:
    """W x_j of one path."""
    part = weights[:, path.weights].unflatten(0, neighbours.shape[:2])
    return neighbours * part[:, :, None, :]


def _matrices(
    angular: Float[Tensor, "*n block slots m2"], path: Path, group: Group
) -> Float[Tensor, "*n block n_out rows"]:
    """M of one path, for the sum over slots and m1 at once."""
    matrices = (angular @ path.coupling).unflatten(-1, (path.n_out, group.n_in))
    return matrices.transpose(-3, -2).flatten(-2)


def convolution_gradients(
    convolution: Convolution,
    edges: Edges,
    features: Float[Tensor, "atoms columns"],
    lengths: Float[Tensor, "edges"],
    harmonics: Float[Tensor, "edges harmonics"],
    gradient: Float[Tensor, "atoms out"],
) -> tuple[Float[Tensor, "atoms columns"], Float[Tensor, "edges"], Float[Tensor, "edges harmonics"]]:
    """Gradients in features, lengths and harmonics, given the gradient in the output."""
    sources = [group.channels_last(features) for group in convolution.groups]
    feature_gradients = [torch.zeros_like(source) for source in sources]
    length_gradient, harmonic_gradient = torch.zeros_like(lengths), torch.zeros_like(harmonics)
    hidden = _hidden_and_slopes(convolution, lengths)
    for block in edges.blocks:
        weights, slopes = (part[block.edge.flatten()] @ convolution.mixing for part in hidden)
        angular = _padded_harmonics(block, harmonics)
        by_length, by_harmonics = angular.new_zeros(block.edge.shape), torch.zeros_like(angular)
        for group, source, into in zip(convolution.groups, sources, feature_gradients, strict=True):
            neighbours = source[block.neighbour]
            by_neighbour = torch.zeros_like(neighbours)
            for path in group.paths:
                given = gradient[block.atoms, path.out].unflatten(1, (group.channels, path.n_out)).transpose(1, 2)
                weighted = _weighted(neighbours, weights, path).flatten(1, 2)
                by_matrix = torch.bmm(given, weighted.transpose(1, 2)).unflatten(2, (-1, group.n_in)).transpose(1, 2)
                by_harmonics += by_matrix.flatten(2) @ path.coupling.T
                by_weighted = torch.bmm(_matrices(angular, path, group).transpose(1, 2), given)
                by_weighted = by_weighted.unflatten(1, (-1, group.n_in))
                by_neighbour += _weighted(by_weighted, weights, path)
                by_length += (_weighted(by_weighted, slopes, path) * neighbours).sum(dim=(2, 3))
            into.index_add_(0, block.neighbour.flatten(), by_neighbour.flatten(0, 1))
        length_gradient[block.edge[block.real]] = by_length[block.real]
        harmonic_gradient[block.edge[block.real]] = by_harmonics[block.real]
    together = torch.cat([part.transpose(1, 2).flatten(1) for part in feature_gradients], dim=1)
    return together, length_gradient, harmonic_gradient


def _hidden_and_slopes(
    convolution: Convolution, lengths: Float[Tensor, "edges"]
) -> tuple[Float[Tensor, "edges hidden"], Float[Tensor, "edges hidden"]]:
    """What the filters are made of, and its derivative in the distance."""
    values, slopes, *_ = forward_product(convolution.hidden, (lengths,), (torch.ones_like(lengths),))
    return values, slopes


def convolution_tangents(
    convolution: Convolution,
    edges: Edges,
    features: Float[Tensor, "atoms columns"],
    lengths: Float[Tensor, "edges"],
    harmonics: Float[Tensor, "edges harmonics"],
    feature_tangents: Float[Tensor, "n atoms columns"],
    length_tangents: Float[Tensor, "n edges"],
    harmonic_tangents: Float[Tensor, "n edges harmonics"],
) -> Float[Tensor, "n atoms out"]:
    """Derivatives of the output along n directions."""
    out = features.new_zeros(len(feature_tangents), len(features), convolution.n_out)
    sources = [group.channels_last(features) for group in convolution.groups]
    # Directions lie beside the channels, so that one matrix product serves them all.
    moved = [group.channels_last(feature_tangents).permute(1, 2, 0, 3).contiguous() for group in convolution.groups]
    hidden = _hidden_and_slopes(convolution, lengths)
    for block in edges.blocks:
        filters = [part[block.edge.flatten()] @ convolution.mixing for part in hidden]
        angular = _padded_harmonics(block, harmonics)
        stretched = angular * length_tangents[:, block.edge, None]
        turned = torch.stack([_padded_harmonics(block, harmonic_tangents), stretched])
        for group, source, move in zip(convolution.groups, sources, moved, strict=True):
            neighbours = source[block.neighbour]
            moves = move[block.neighbour]
            for path in group.paths:
                geometric = _geometric_part(neighbours, filters, turned, path, group)
                carried = _carried_part(moves, filters[0], angular, path, group)
                out[:, block.atoms, path.out] += (geometric + carried).transpose(2, 3).flatten(2)
    return out


def _geometric_part(
    neighbours: Float[Tensor, "block slots n_in channels"],
    filters: list[Float[Tensor, "rows weights"]],
    turned: Float[Tensor, "2 n block slots m2"],
    path: Path,
    group: Group,
) -> Float[Tensor, "n block n_out channels"]:
    """Sum (M'_d w + r'_d M w_r) x_j: one product an atom for all directions and both terms."""
    weighted = torch.stack([_weighted(neighbours, part, path) for part in filters], dim=1).flatten(1, 3)
    matrices = _matrices(turned, path, group)
    _, n, block, n_out, _ = matrices.shape
    rows = matrices.permute(2, 1, 3, 0, 4).reshape(block, n * n_out, -1)
    return torch.bmm(rows, weighted).unflatten(1, (n, n_out)).transpose(0, 1)


def _carried_part(
    moves: Float[Tensor, "block slots n_in n channels"],
    weights: Float[Tensor, "rows weights"],
    angular: Float[Tensor, "block slots m2"],
    path: Path,
    group: Group,
) -> Float[Tensor, "n block n_out channels"]:
    """Sum M w x'_dj."""
    part = weights[:, path.weights].unflatten(0, moves.shape[:2])
    weighted = (moves * part[:, :, None, None, :]).flatten(3).flatten(1, 2)
    summed = torch.bmm(_matrices(angular, path, group), weighted)
    return summed.unflatten(2, moves.shape[3:]).permute(2, 0, 1, 3)
