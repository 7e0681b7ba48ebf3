"""The fused convolution equals e3nn's tensor product and a sum over neighbours, with all its derivatives."""

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from mekrr.backbones.convolution import Convolution, blocks_of
from mekrr.backbones.convolve import convolve
from mekrr.graph import build_batch

o3 = pytest.importorskip("e3nn.o3", reason="mekrr[sevennet] is not installed")


def random_convolution(tensor_product, hidden_width=6):
    frequencies = torch.arange(1, hidden_width + 1, dtype=torch.float64)

    def hidden(lengths):
        return torch.sin(frequencies * lengths[:, None]) / lengths[:, None]

    mixing = torch.randn(hidden_width, tensor_product.weight_numel, dtype=torch.float64)
    return Convolution.from_e3nn(tensor_product, hidden, mixing)


def tensor_product():
    """Two input irreps, one twice, three harmonics, every path to l <= 2, in an order of its own."""
    left, right = o3.Irreps("5x0e + 3x1e + 2x1e"), o3.Irreps("1x0e + 1x1e + 1x2e")
    paths = [
        (i, j, mul, out)
        for i, (mul, ir) in enumerate(left)
        for j, (_, other) in enumerate(right)
        for out in ir * other
        if out.l <= 2
    ]
    paths.sort(key=lambda path: (path[3].l, -path[0]))
    irreps_out = o3.Irreps([(mul, out) for _, _, mul, out in paths])
    instructions = [(i, j, k, "uvu", True) for k, (i, j, _, _) in enumerate(paths)]
    return o3.TensorProduct(
        left, right, irreps_out, instructions, shared_weights=False, internal_weights=False
    ).double()


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    copper = bulk("Cu", cubic=True)
    copper.rattle(0.1, seed=0)
    graph = build_batch([copper, Atoms("H"), molecule("CH4")], 4.0)
    product = tensor_product()
    convolution = random_convolution(product)
    blocks = blocks_of(graph)

    def fused(features, lengths, harmonics):
        return convolve(convolution, blocks, features, lengths, harmonics)

    def plain(features, lengths, harmonics):
        weights = convolution.hidden(lengths) @ convolution.mixing
        messages = product(features[graph.neighbour], harmonics, weights)
        return torch.zeros(len(features), messages.shape[1], dtype=messages.dtype).index_add(0, graph.centre, messages)

    n_edges = len(graph.centre)
    tensors = (
        torch.randn(10, product.irreps_in1.dim, dtype=torch.float64),
        1 + torch.rand(n_edges, dtype=torch.float64),
        torch.randn(n_edges, 9, dtype=torch.float64),
    )
    return fused, plain, tensors


def close(left, right):
    torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-6 * float(right.abs().max()))


def test_values(case):
    fused, plain, tensors = case
    close(fused(*tensors), plain(*tensors))


def test_gradients(case):
    fused, plain, tensors = case
    for tensor in tensors:
        tensor.requires_grad_(True)
    weights = torch.randn_like(plain(*tensors))
    for ours, theirs in zip(
        torch.autograd.grad((fused(*tensors) * weights).sum(), tensors),
        torch.autograd.grad((plain(*tensors) * weights).sum(), tensors),
        strict=True,
    ):
        close(ours, theirs)
    for tensor in tensors:
        tensor.requires_grad_(False)


@pytest.mark.parametrize("moving", [(0, 1, 2), (1, 2), (0,)])
def test_one_direction(case, moving):
    fused, plain, tensors = case
    tangents = tuple(torch.randn_like(tensors[k]) for k in moving)

    def partly(function):
        return lambda *moved: function(*(moved[moving.index(k)] if k in moving else tensors[k] for k in range(3)))

    point = tuple(tensors[k] for k in moving)
    close(torch.func.jvp(partly(fused), point, tangents)[1], torch.func.jvp(partly(plain), point, tangents)[1])


def test_many_directions(case):
    fused, plain, tensors = case
    tangents = tuple(torch.randn(3, *tensor.shape, dtype=torch.float64) for tensor in tensors)
    together = torch.func.vmap(lambda *t: torch.func.jvp(fused, tensors, t)[1])(*tangents)
    for probe in range(3):
        one = tuple(tangent[probe] for tangent in tangents)
        close(together[probe], torch.func.jvp(plain, tensors, one)[1])


def products(function, tensors):
    """The same second derivative, of each order of modes, along ones: it must come out right or not at all."""
    ones = tuple(torch.ones_like(t) for t in tensors)

    def value(*moved):
        return function(*moved).square().sum()

    def gradient(*moved):
        return torch.func.grad(value, (0, 1, 2))(*moved)

    def along(*moved):
        return torch.func.jvp(value, moved, ones)[1]

    def reverse_twice():
        leaves = [t.clone().requires_grad_(True) for t in tensors]
        first = torch.autograd.grad(value(*leaves), leaves, create_graph=True)
        return torch.autograd.grad(first, leaves, ones)

    def reverse_twice_all_leaves():
        leaves = [t.clone().requires_grad_(True) for t in tensors]
        first = torch.autograd.grad(value(*leaves), leaves, create_graph=True)
        sum(f.sum() for f in first).backward()
        return [leaf.grad for leaf in leaves]

    return {
        "reverse over reverse": reverse_twice,
        "reverse over reverse, backward": reverse_twice_all_leaves,
        "reverse over reverse, functions": lambda: torch.func.vjp(gradient, *tensors)[1](ones),
        "forward over reverse": lambda: torch.func.jvp(gradient, tensors, ones)[1],
        "reverse over forward": lambda: torch.func.grad(along, (0, 1, 2))(*tensors),
        "forward over forward": lambda: [torch.func.jvp(along, tensors, ones)[1]],
    }


@pytest.mark.parametrize("modes", list(products(None, ())))
def test_second_derivatives_are_refused(case, modes):
    """Left out without a word once: 1.8 came out where finite differences say 13.9."""
    fused, plain, tensors = case
    assert all(torch.isfinite(part).all() for part in products(plain, tensors)[modes]())
    with pytest.raises(NotImplementedError, match="second derivatives through this convolution are not implemented"):
        products(fused, tensors)[modes]()


def paired():
    """A graph with the harmonics that belong to its edges, as the network has them."""
    copper = bulk("Cu", cubic=True)
    copper.rattle(0.1, seed=0)
    graph = build_batch([copper, molecule("CH4")], 4.0)
    vectors = graph.edge_vectors()
    product = tensor_product()
    torch.manual_seed(1)
    convolution, blocks = random_convolution(product), blocks_of(graph)
    features = torch.randn(9, product.irreps_in1.dim, dtype=torch.float64)

    def of(features, vectors):
        harmonics = o3.spherical_harmonics([0, 1, 2], vectors, normalize=True, normalization="component")
        return convolve(convolution, blocks, features, vectors.norm(dim=1), harmonics)

    return of, features, vectors


def test_the_gradient_in_the_features_alone_is_a_convolution_of_edges_turned_round():
    of, features, vectors = paired()
    features, attached = features.requires_grad_(True), vectors.clone().requires_grad_(True)
    weights = torch.randn_like(of(features, vectors))
    both, _ = torch.autograd.grad((of(features, attached) * weights).sum(), (features, attached))
    (alone,) = torch.autograd.grad((of(features, vectors) * weights).sum(), features)
    close(alone, both)


def test_that_gradient_can_be_differentiated_along_the_geometry():
    """Forward over reverse, which gradients in the weights are made of, by differences."""
    of, features, vectors = paired()
    weights = torch.randn_like(of(features, vectors))
    move = torch.randn_like(vectors)
    pairs = {tuple(v.round(decimals=9).tolist()): k for k, v in enumerate(vectors)}
    for k, v in enumerate(vectors):  # a pair moves together
        move[pairs[tuple((-v).round(decimals=9).tolist())]] = -move[k]

    def gradient(vectors):
        return torch.func.grad(lambda x: (of(x, vectors) * weights).sum())(features)

    tangent = torch.func.jvp(gradient, (vectors,), (move,))[1]
    step = 1e-6
    close(tangent, (gradient(vectors + step * move) - gradient(vectors - step * move)) / (2 * step))


@pytest.mark.parametrize("moving", [1, 2])
def test_second_derivatives_in_one_input_are_refused(case, moving):
    """Also where what comes back into the convolution is a constant, because the rest is linear."""
    fused, _, tensors = case
    leaf = tensors[moving].clone().requires_grad_(True)
    out = fused(*(leaf if k == moving else tensors[k] for k in range(3)))
    (first,) = torch.autograd.grad(out.sum(), leaf, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.autograd.grad(first.sum(), leaf)


def test_reverse_passes_under_vmap_are_refused(case):
    fused, _, tensors = case
    pull = torch.func.vjp(fused, *tensors)[1]
    with pytest.raises(NotImplementedError, match="vmap over reverse passes"):
        torch.func.vmap(pull)(torch.ones(2, *fused(*tensors).shape, dtype=torch.float64))


def test_blocks_hold_every_edge_once(monkeypatch):
    graph = build_batch([bulk("Cu", cubic=True), Atoms("H"), molecule("CH4")], 4.0)
    monkeypatch.setattr("mekrr.backbones.convolution._EDGES_PER_BLOCK", {"cpu": 30})
    blocks = blocks_of(graph)
    assert len(blocks) > 3
    edges = torch.cat([block.edge[block.real] for block in blocks])
    assert edges.sort().values.tolist() == list(range(len(graph.centre)))
    for block in blocks:
        assert torch.equal(graph.centre[block.edge], block.atoms[:, None].expand_as(block.edge))
        assert torch.equal(graph.neighbour[block.edge], block.neighbour)


def test_vmap_over_structures_is_refused(case):
    fused, _, tensors = case
    with pytest.raises(NotImplementedError, match="one GraphBatch"):
        torch.func.vmap(fused)(*(tensor[None] for tensor in tensors))


def test_other_tensor_products_are_refused():
    product = o3.FullyConnectedTensorProduct("2x0e", "1x0e", "2x0e", shared_weights=False)
    with pytest.raises(ValueError, match=r"uvu.*uvw"):
        random_convolution(product)
