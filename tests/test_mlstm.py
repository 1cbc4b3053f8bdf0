"""mLSTM: its chunked form against the recurrence of the paper, the block against its equations."""

import math

import pytest
import torch
from test_flops import Number, operations
from torch import nn

from architectures.mlstm import MLSTM, MatrixLSTM, mlstm, mlstm_definition, mlstm_flops
from architectures.ops.linear_attention import linear_attention_flops
from architectures.ops.short_convolution import short_convolution_definition
from architectures.stack import Residual
from lab.laws.subject import noise
from lab.model import count_parameters, state_size

BATCH, HEADS, KEY, VALUE = 2, 3, 4, 5


def inputs(length, seed=0, strength=3.0):
    """Queries, keys, values, gates of which some hold on and a tenth forget all, and a state."""
    rng = torch.Generator().manual_seed(seed)
    shapes = [(KEY,), (KEY,), (VALUE,), (), ()]
    q, k, v, i, f = (torch.randn(BATCH, length, HEADS, *rest, generator=rng, dtype=torch.float64) for rest in shapes)
    f = torch.where(torch.rand(f.shape, generator=rng) < 0.1, -1e4, 5 + strength * f)
    memory = torch.randn(BATCH, HEADS, KEY, VALUE + 1, generator=rng, dtype=torch.float64)
    m = torch.randn(BATCH, HEADS, generator=rng, dtype=torch.float64)
    return [*(t.requires_grad_() for t in (q, k, v, strength * i, f, memory)), m]


def unstabilised(result):
    """All h, and the last C^T and n as they are without m."""
    h, memory, m = result
    return h, memory * m.exp()[..., None, None]


def leaves(length, **options):
    return [t.detach().requires_grad_(t.requires_grad) for t in inputs(length, **options)]


def slopes(result, given):
    return torch.autograd.grad(result, given, [noise(*t.shape, dtype=t.dtype, seed=seed) for seed, t in enumerate(result)])


def assert_same_map(length, **options):
    """Values, and gradients that the definition sends through its stabiliser as well."""
    ours, theirs = leaves(length, **options), leaves(length, **options)
    got, want = unstabilised(mlstm(*ours)), unstabilised(mlstm_definition(*theirs))
    pairs = zip([*got, *slopes(got, ours[:-1])], [*want, *slopes(want, theirs[:-1])], strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11 * max(other.abs().max().item(), 1e-6))


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 63, 101])
def test_chunks_are_the_recurrence(length):
    assert_same_map(length)


def test_chunks_are_the_recurrence_under_strong_gates():
    assert_same_map(77, strength=20.0)


def test_chunks_are_the_recurrence_at_4096():
    with torch.no_grad():
        given = inputs(4096)
        for got, want in zip(unstabilised(mlstm(*given)), unstabilised(mlstm_definition(*given)), strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-11 * want.abs().max().item())


@pytest.mark.slow
def test_gradients_at_4096():
    assert_same_map(4096)


def test_a_normalised_linear_attention_where_gates_are_open():
    q, k, v, _, _, memory, m = inputs(70)
    i, f = torch.zeros(BATCH, 70, HEADS).double(), torch.full((BATCH, 70, HEADS), 1e4).double()
    h, _, _ = mlstm(q, k, v, i, f, torch.zeros_like(memory), torch.zeros_like(m))
    scores = torch.einsum("bthk,bshk->bhts", q, k).tril()
    want = torch.einsum("bhts,bshv->bthv", scores / scores.sum(-1, keepdim=True).abs().clamp_min(1), v)
    torch.testing.assert_close(h, want, rtol=0, atol=1e-11 * want.abs().max().item())


def test_nothing_depends_on_the_stabiliser():
    """The same C and n, written with another m: the same outputs, state and gradients; e^-m is easily forgotten."""

    def run(shift):
        q, k, v, i, f, memory, m = given = leaves(45)
        result = unstabilised(mlstm(q, k, v, i, f, memory * math.exp(-shift), m + shift))
        return [*result, *slopes(result, given[:-1])]

    for shift in (-7.0, 4.0):
        for one, other in zip(run(shift), run(0.0), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-11 * max(other.abs().max().item(), 1))


def test_toy():
    """Worked out by hand (facts, section 5.3): one head of two keys, scaled by 1/sqrt(2), and logistic forget gates."""

    def rows(*values):
        return torch.tensor(values, dtype=torch.float64)[None, :, None]

    q, k = rows((1, 0), (1, 0), (0, 1), (0.6, 0.8)), rows((1, 0), (0.6, 0.8), (0, 1), (1, 0)) / math.sqrt(2)
    v, i, f = rows((1, 2), (3, -1), (0, 1), (2, 2)), rows(0.0, 2.0, -1.0, 10.0), rows(1.0, 1.0, -2.0, 3.0)
    want = rows((0.707107, 1.414214), (2.71689, -0.575336), (1.494762, -0.238124), (2.000017, 1.999788))
    for form in (mlstm, mlstm_definition):
        h, _, _ = form(q, k, v, i, f, torch.zeros(1, 1, 2, 3).double(), torch.zeros(1, 1).double())
        torch.testing.assert_close(h, want, rtol=0, atol=5e-7)


RISES = {"mild": (0, 0), "strong": (300, 300), "weak": (-300, -300), "rising": (-300, 300), "falling": (300, -300)}


@pytest.mark.parametrize("gates", RISES)
def test_float32_over_16384_steps(gates):
    """Far beyond the range of exp, float64 is met to a few roundings. Queries and keys are positive: no pole in h."""
    q, k, v, i, f, memory, m = (t.detach() for t in inputs(16_384))
    i = i + torch.linspace(*RISES[gates], 16_384, dtype=torch.float64)[:, None]
    exact = [t.float().double() for t in (q.abs(), k.abs(), v, i, f, memory.abs(), m)]
    single = [t.float().requires_grad_() for t in exact]
    want, got = mlstm(*exact)[0], mlstm(*single)[0]
    torch.testing.assert_close(got.double(), want, rtol=0, atol=2e-5 * want.abs().max().item())
    got.square().mean().backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in single[:-1])


@pytest.mark.parametrize("forget", [-50.0, 50.0])
@pytest.mark.parametrize("write", [-50.0, 50.0, 1e4])
def test_extreme_gates(write, forget):
    given = [t.detach().float() for t in inputs(16_384)]
    given[3], given[4] = torch.full_like(given[3], write), torch.full_like(given[4], forget)
    for result in mlstm(*given):
        assert result.isfinite().all()


def test_queries_of_zeros_read_nothing():
    q, k, v, i, f, memory, m = (t.detach().float() for t in inputs(40))
    h, _, _ = mlstm(torch.zeros_like(q), k, v, i + 200, f, memory, m)
    assert (h == 0).all()


def test_autocast_leaves_the_recurrence_alone():
    torch.manual_seed(0)
    layer, x = MatrixLSTM(16, 4, 1), noise(2, 45, 16)
    given = [t.detach().float() for t in inputs(45)]
    with torch.autocast("cpu", torch.bfloat16):
        results = mlstm(*given)
        _, (_, memory, m) = layer.stream(x, layer.init_state(2))
    assert memory.dtype == m.dtype == torch.float32
    for one, other in zip(results, mlstm(*given), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


# the block against its equations


def blockwise(x, weight):
    """Times a matrix that is zero outside its blocks."""
    return x @ torch.block_diag(*weight)


def equations(layer: MatrixLSTM, x):
    inner, heads, width = 2 * layer.dim, layer.heads, 2 * layer.dim // layer.heads
    u, z = layer.up(x).split([inner, inner], -1)
    recent, memory, m = layer.init_state(len(x))
    c = short_convolution_definition(u, layer.convolution.weight, layer.convolution.bias, recent)
    c = c * torch.sigmoid(c)
    q, k, v = blockwise(c, layer.qk[..., :4]), blockwise(c, layer.qk[..., 4:]), blockwise(u, layer.v)
    i, f = layer.gates(torch.cat([q, k, v], -1)).split([heads, heads], -1)
    q, k, v = (t.unflatten(-1, (heads, width)) for t in (q, k, v))
    h, _, _ = mlstm_definition(q, k / math.sqrt(width), v, i, f, memory, m)
    h = (h - h.mean(-1, keepdim=True)) / (h.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    return layer.out((h.flatten(2) * layer.norm + layer.skip * c) * z * torch.sigmoid(z))


@pytest.mark.parametrize("heads", [1, 4, 6])
def test_the_block_is_its_equations(heads):
    torch.manual_seed(0)
    layer, x = MatrixLSTM(12, heads, 2).double(), noise(2, 45, 12, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    torch.testing.assert_close(layer(x), equations(layer, x), rtol=0, atol=1e-10)


def test_the_block_is_all_there_is_between_norms():
    model = MLSTM(16, 3)
    assert [type(layer) for layer in model.layers] == [Residual] * 3
    assert all(isinstance(layer.inner, MatrixLSTM) for layer in model.layers)
    norms = [model.norm, *(layer.norm for layer in model.layers)]
    assert all(isinstance(norm, nn.LayerNorm) and norm.bias is None and norm.eps == 1e-5 for norm in norms)


# sizes, initial weights, errors


@pytest.mark.parametrize("heads", [2, 4])
def test_parameters_and_states(heads):
    dim = 48
    inner = 2 * dim
    with torch.device("meta"):
        model = MLSTM(dim, 3, heads=heads)
    maps = 2 * dim * inner + inner * dim + 3 * 4 * inner + (3 * inner + 1) * 2 * heads
    assert count_parameters(model) == 3 * (maps + (4 + 1) * inner + 2 * inner + dim) + dim
    width = inner // heads
    assert state_size(model, 10) == 3 * (heads * (width**2 + width + 1) + 3 * inner)


def test_initial_weights():
    torch.manual_seed(0)
    dim, heads, depth = 512, 256, 4
    layer = MatrixLSTM(dim, heads, depth)
    for weight in (layer.up.weight, layer.qk, layer.v):
        assert weight.mean().item() == pytest.approx(0, abs=0.001)
        assert weight.std().item() == pytest.approx(math.sqrt(2 / (5 * dim)), rel=0.05)
    assert layer.out.weight.std().item() == pytest.approx(2 / depth / math.sqrt(dim), rel=0.01)
    write, forget = layer.gates.bias.split(heads)
    assert not layer.gates.weight.any()
    assert write.mean().item() == pytest.approx(0, abs=0.02)
    assert write.std().item() == pytest.approx(0.1, rel=0.15)
    torch.testing.assert_close(forget, 3 + 3 * torch.arange(heads) / (heads - 1))
    assert (layer.norm == 1).all()
    assert (layer.skip == 1).all()
    assert layer.convolution.weight.abs().max() <= 0.5


@pytest.mark.parametrize("dim", [16, 24, 40, 48, 56, 64, 72])
def test_default_heads_fit(dim):
    assert MLSTM(dim, 1)(noise(1, 3, dim)).shape == (1, 3, dim)


@pytest.mark.parametrize("heads", [0, 5])
def test_heads_that_do_not_fit_are_refused(heads):
    with pytest.raises(ValueError, match="heads="):
        MLSTM(16, 1, heads=heads)


def test_an_odd_dim_is_refused():
    with pytest.raises(ValueError, match="dim=15 must be even"):
        MLSTM(15, 1)


# operations


def stabilised(length, heads, key, value):
    """What surrounds the products and the linear attention with n as one more value, whose decays take the exp themselves."""
    for _ in range(heads):
        m, zero = Number(), Number()
        for _ in range(length):
            i, log_f = Number(), Number().function()
            kept = log_f + m
            m = (kept + i) + zero  # two comparisons
            _ = kept - m
            gate = (i - m).function()
            for _ in range(key):
                _ = gate * Number()
            floor, size = m.function(), Number().function()
            normaliser = floor + size  # a comparison
            for _ in range(value):
                _ = Number() / normaliser


@pytest.mark.parametrize("length", [1, 7, 33])
def test_mixing(length):
    attention = linear_attention_flops(length, HEADS, KEY, VALUE + 1).mixing
    assert mlstm_flops(length, HEADS, KEY, VALUE).mixing == attention + operations(stabilised, length, HEADS, KEY, VALUE)
    layer = mlstm_flops(length, 4, 12, 12).mixing + 2 * 4 * length  # biases of the gates
    for causal, directions in {True: 1, False: 2}.items():
        assert MLSTM(24, 2, causal=causal).flops(length).mixing == 2 * directions * layer
