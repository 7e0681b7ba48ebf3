"""The fused convolution equals e3nn's tensor product and a sum over neighbours, with all its derivatives."""

import os
import subprocess
import sys
from importlib import import_module

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from mekrr.backbones.convolution import Convolution, Edges
from mekrr.backbones.convolve import arithmetic, convolve
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


@pytest.fixture(scope="module", params=["convolution_compiled", "convolution_kernels"])
def sums(request):
    """Both ways to do the sums, so that each is held against e3nn."""
    if request.param == "convolution_compiled":
        pytest.importorskip("numba", reason="mekrr[sevennet] is not installed")
    found = import_module(f"mekrr.backbones.{request.param}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mekrr.backbones.convolve.arithmetic", lambda device: found)
        yield found


@pytest.fixture(scope="module")
def case(sums):
    torch.manual_seed(0)
    copper = bulk("Cu", cubic=True)
    copper.rattle(0.1, seed=0)
    graph = build_batch([copper, Atoms("H"), molecule("CH4")], 4.0)
    product = tensor_product()
    convolution = random_convolution(product)
    edges = Edges.of(graph)

    def fused(features, lengths, harmonics):
        return convolve(convolution, edges, features, lengths, harmonics)

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
    convolution, edges = random_convolution(product), Edges.of(graph)
    features = torch.randn(9, product.irreps_in1.dim, dtype=torch.float64)

    def of(features, vectors):
        harmonics = o3.spherical_harmonics([0, 1, 2], vectors, normalize=True, normalization="component")
        return convolve(convolution, edges, features, vectors.norm(dim=1), harmonics)

    return of, features, vectors


def test_the_gradient_in_the_features_alone_is_a_convolution_of_edges_turned_round(sums):
    of, features, vectors = paired()
    features, attached = features.requires_grad_(True), vectors.clone().requires_grad_(True)
    weights = torch.randn_like(of(features, vectors))
    both, _ = torch.autograd.grad((of(features, attached) * weights).sum(), (features, attached))
    (alone,) = torch.autograd.grad((of(features, vectors) * weights).sum(), features)
    close(alone, both)


def test_that_gradient_can_be_differentiated_along_the_geometry(sums):
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


def test_a_cpu_has_compiled_loops_and_other_devices_products_of_pytorch():
    pytest.importorskip("numba", reason="mekrr[sevennet] is not installed")
    assert arithmetic("cpu").__name__.endswith("convolution_compiled")
    assert arithmetic("cuda").__name__.endswith("convolution_kernels")


def test_without_a_folder_to_keep_them_loops_are_compiled_anew():
    """As for another user's installation and no home: numba refuses to keep, and must not refuse to run."""
    pytest.importorskip("numba", reason="mekrr[sevennet] is not installed")
    script = "from mekrr.backbones import convolution_compiled as c; print(c._values._cache.cache_path)"
    nowhere = os.environ | {"NUMBA_CACHE_LOCATOR_CLASSES": "IPythonCacheLocator"}
    found = subprocess.run([sys.executable, "-c", script], env=nowhere, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "None"


@pytest.mark.parametrize("kept", [0, 10**6])
def test_threads_take_whole_atoms_and_give_the_same_bits(monkeypatch, kept):
    """Cut into many pieces, more than there are sums, some of them made at once by three threads."""
    compiled = pytest.importorskip("mekrr.backbones.convolution_compiled", reason="mekrr[sevennet] is not installed")
    monkeypatch.setattr(compiled, "_PIECE", 12)
    monkeypatch.setattr(compiled, "_SMALLEST_PIECE", 5)
    monkeypatch.setattr(compiled, "_KEPT_BYTES", kept)
    graph = build_batch([bulk("Cu", cubic=True), Atoms("H"), molecule("C2H6"), molecule("C6H6")], 4.0)
    edges, product = Edges.of(graph), tensor_product()
    convolution = random_convolution(product)
    tensors = (
        torch.randn(len(graph.species), product.irreps_in1.dim, dtype=torch.float64),
        1 + torch.rand(len(graph.centre), dtype=torch.float64),
        torch.randn(len(graph.centre), 9, dtype=torch.float64),
    )
    moved = tuple(torch.randn(2, *tensor.shape, dtype=torch.float64) for tensor in tensors)
    threads = torch.get_num_threads()
    found = []
    for n in (1, 3):
        torch.set_num_threads(n)
        try:
            parts = list(compiled._parts(edges))
            values = compiled.convolution_values(convolution, edges, *tensors)
            gradients = compiled.convolution_gradients(convolution, edges, *tensors, values)
            found.append((values, *gradients, compiled.convolution_tangents(convolution, edges, *tensors, *moved)))
        finally:
            torch.set_num_threads(threads)
    assert len(parts) > 1
    assert sum(len(cuts) for *_, cuts in parts) > compiled._SUMS
    assert max(len(cuts) for *_, cuts in parts) >= 3
    for part, (centre, _), cuts in parts:  # two threads that add to one atom race, and are seldom caught at it
        assert len({into for into, *_ in cuts}) == len(cuts)
        owners = [set(centre[first:last].tolist()) for _, first, last in cuts]
        assert sum(map(len, owners)) == len(set.union(*owners))
        assert [first for _, first, _ in cuts] == [0, *(last for *_, last in cuts[:-1])]
        assert cuts[-1][2] == part.stop - part.start
    for one, several in zip(*found, strict=True):
        assert torch.equal(several, one)


def test_what_is_kept_with_the_edges_is_of_these_lengths_and_harmonics(case):
    """The same edges with other lengths, then with other harmonics."""
    fused, plain, (features, lengths, harmonics) = case
    fused(features, lengths, harmonics)
    close(fused(features, 1.1 * lengths, harmonics), plain(features, 1.1 * lengths, harmonics))
    close(fused(features, 1.1 * lengths, -harmonics), plain(features, 1.1 * lengths, -harmonics))


def test_without_room_nothing_is_kept(monkeypatch):
    compiled = pytest.importorskip("mekrr.backbones.convolution_compiled", reason="mekrr[sevennet] is not installed")
    graph, product = build_batch([bulk("Cu", cubic=True)], 4.0), tensor_product()
    convolution, n = random_convolution(product), len(graph.centre)
    tensors = (
        torch.randn(4, product.irreps_in1.dim, dtype=torch.float64),
        1 + torch.rand(n, dtype=torch.float64),
        torch.randn(n, 9, dtype=torch.float64),
    )
    kept, alone = Edges.of(graph), Edges.of(graph)
    with_room = compiled.convolution_values(convolution, kept, *tensors)
    monkeypatch.setattr(compiled, "_KEPT_BYTES", 1)
    monkeypatch.setattr(compiled, "_PIECE", 20)
    close(compiled.convolution_values(convolution, alone, *tensors), with_room)
    assert len(kept.kept) == 2
    assert not alone.kept


def test_what_is_not_a_number_stays_so(sums, case):
    _, _, (features, lengths, harmonics) = case
    fused, *_ = case
    bad = features.clone()
    bad[0, 0] = torch.nan
    assert fused(bad, lengths, harmonics).isnan().any()


def test_no_edges_are_no_messages(sums):
    graph = build_batch([Atoms("H"), Atoms("He")], 4.0)
    product = tensor_product()
    convolution, edges = random_convolution(product), Edges.of(graph)
    features = torch.randn(2, product.irreps_in1.dim, dtype=torch.float64, requires_grad=True)
    out = convolve(convolution, edges, features, torch.zeros(0).double(), torch.zeros(0, 9).double())
    assert out.shape == (2, product.irreps_out.dim)
    assert not out.any()
    assert not torch.autograd.grad(out.sum(), features)[0].any()


@pytest.fixture
def uninitialised_memory_is_nan():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_what_no_path_reads_has_no_gradient(sums, uninitialised_memory_is_nan):
    left, right = o3.Irreps("3x0e + 2x1e"), o3.Irreps("1x0e")
    product = o3.TensorProduct(
        left, right, "3x0e", [(0, 0, 0, "uvu", True)], shared_weights=False, internal_weights=False
    ).double()
    graph = build_batch([bulk("Cu", cubic=True)], 4.0)
    features = torch.randn(4, product.irreps_in1.dim, dtype=torch.float64, requires_grad=True)
    lengths, harmonics = torch.ones(len(graph.centre)).double(), torch.ones(len(graph.centre), 1).double()
    out = convolve(random_convolution(product), Edges.of(graph), features, lengths, harmonics)
    (found,) = torch.autograd.grad(out.sum(), features)
    assert found[:, :3].any()
    assert torch.equal(found[:, 3:], torch.zeros(4, 6).double())


def test_blocks_hold_every_edge_once(monkeypatch):
    graph = build_batch([bulk("Cu", cubic=True), Atoms("H"), molecule("CH4")], 4.0)
    monkeypatch.setattr("mekrr.backbones.convolution._EDGES_PER_BLOCK", {"cpu": 30})
    blocks = Edges.of(graph).blocks
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
