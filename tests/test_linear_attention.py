"""Matrix-state recurrences against their definitions; RetNet, GLA and DeltaNet against their equations and published numbers."""

import math
from functools import partial

import pytest
import torch
from test_flops import Number, operations
from torch.nn import functional as F

from architectures.backbone import Flops
from architectures.deltanet import DeltaNet, DeltaRule, GatedDeltaRule
from architectures.gla import GLA, GatedAttention
from architectures.ops import linear_attention as ops
from architectures.ops import native
from architectures.ops.short_convolution import ShortConvolution, short_convolution_definition
from architectures.retnet import Retention, RetNet, log_decays
from lab.laws.subject import noise
from lab.model import count_parameters, state_size

BATCH, HEADS, KEY, VALUE = 2, 3, 4, 5
LENGTHS = [1, 2, 31, 32, 33, 63, 101]


def linear(q, k, v, log_decay, state):
    return ops.linear_attention_definition(q, k, v, log_decay.exp()[..., None], state)


def delta(q, k, v, beta, log_decay, state):
    return ops.delta_rule_definition(q, k, v, beta, log_decay.exp(), state)


def plain_delta(q, k, v, beta, state):
    return ops.delta_rule_definition(q, k, v, beta, torch.ones_like(beta), state)


def products(*given):
    """Chunks as products of matrices, however small they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "LONG", 1)
        patch.setattr(ops, "WIDE", 1)
        return ops.linear_attention(*given)


FORMS = {
    "head": (ops.linear_attention, linear),
    "shared": (ops.linear_attention, linear),
    "head products": (products, linear),
    "shared products": (products, linear),
    "key": (ops.gated_linear_attention, ops.linear_attention_definition),
    "delta": (lambda q, k, v, beta, state: ops.delta_rule(q, k, v, beta, None, state), plain_delta),
    "gated delta": (ops.delta_rule, delta),
}


@pytest.fixture(params=["compiled", "tensors"])
def way(request, monkeypatch):
    """Both fast forms: the kernels, where numba is installed, and those in tensors."""
    if request.param == "tensors":
        monkeypatch.setattr(native, "kernels", lambda *_: None)
    elif native.kernels("linear_attention", torch.zeros(1)) is None:
        pytest.skip("numba is not installed")
    return request.param


def inputs(form, length, seed=0, slowest=1.0, key=KEY, value=VALUE):
    """Queries, keys, values, what the form takes besides and a state; a tenth of the decays is as good as none left."""
    rng = torch.Generator().manual_seed(seed)
    normal = partial(torch.randn, generator=rng, dtype=torch.float64)
    uniform = partial(torch.rand, generator=rng, dtype=torch.float64)
    shared = 1 if "shared" in form else HEADS
    q, k, v = normal(BATCH, length, shared, key), normal(BATCH, length, shared, key), normal(BATCH, length, HEADS, value)
    sizes = (BATCH, length, HEADS, *([key] if form == "key" else []))
    log_decay = -slowest * uniform(sizes)
    log_decay = torch.where(uniform(sizes) < 0.1, -1e4, log_decay)
    decay = {"key": [log_decay.exp()], "delta": []}.get(form, [log_decay])
    beta = [uniform(BATCH, length, HEADS)] if "delta" in form else []
    k = F.normalize(k, dim=-1) if beta else k
    return [t.requires_grad_() for t in (q, k, v, *beta, *decay, normal(BATCH, HEADS, key, value))]


def assert_same_map(fast, slow, make, tolerance=1e-11):
    """Values and gradients of outputs and last state, relative to the largest."""
    ours, theirs = make(), make()
    got, want = fast(*ours), slow(*theirs)
    weights = [noise(*t.shape, dtype=torch.float64, seed=i) for i, t in enumerate(want)]
    for result in (got, want):
        sum((t * w).sum() for t, w in zip(result, weights, strict=True)).backward()
    for one, other in zip([*got, *(t.grad for t in ours)], [*want, *(t.grad for t in theirs)], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * max(other.abs().max().item(), 1e-6))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("form", FORMS)
def test_fast_forms_are_the_recurrence(way, form, length):
    assert_same_map(*FORMS[form], lambda: inputs(form, length))


@pytest.mark.parametrize("length", [64, 67, 100, 128, 1031, 1088])
@pytest.mark.parametrize("form", ["head products", "shared products"])
def test_products_of_several_chunks_and_sequences(form, length):
    assert_same_map(*FORMS[form], lambda: inputs(form, length))


@pytest.mark.parametrize("form", FORMS)
def test_fast_forms_are_the_recurrence_at_4096(way, form):
    with torch.no_grad():
        given = inputs(form, 4096, slowest=0.01)
        for got, want in zip(FORMS[form][0](*given), FORMS[form][1](*given), strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-11 * want.abs().max().item())


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_gradients_at_4096(way, form):
    assert_same_map(*FORMS[form], lambda: inputs(form, 4096, slowest=0.01))


@pytest.mark.parametrize("form", FORMS)
def test_float32_over_16384_steps(way, form):
    """Slow and sudden decays side by side: nothing overflows, and float64 is met to a few roundings."""
    exact = [t.detach() for t in inputs(form, 16_384, slowest=1e-3)]
    single = [t.float().requires_grad_() for t in exact]
    want, _ = FORMS[form][0](*exact)
    got, _ = FORMS[form][0](*single)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=2e-5 * want.abs().max().item())
    got.square().mean().backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in single)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("key", "value"), [(1, 1), (7, 17), (8, 33)])
def test_widths(form, key, value):
    assert_same_map(*FORMS[form], lambda: inputs(form, 67, key=key, value=value))


@pytest.mark.parametrize("form", FORMS)
def test_threads_change_nothing(form):
    def results(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        given = inputs(form, 130)
        outputs = FORMS[form][0](*given)
        sum(t.square().sum() for t in outputs).backward()
        torch.set_num_threads(before)
        return [*outputs, *(t.grad for t in given)]

    assert all(torch.equal(one, two) for one, two in zip(results(1), results(2), strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_the_states_of_all_positions_are_never_kept(way, form):
    """No tensor that the backward pass keeps has a quarter of the states of 16,384 positions."""
    largest, length, width = 0, 16_384, 16

    def keep(tensor):
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y, _ = FORMS[form][0](*(t.float() for t in inputs(form, length, key=width, value=width)))
        y.sum().backward()
    assert largest < BATCH * HEADS * length * width**2 // 4


def test_the_shared_decay_of_a_batch(way):
    q, k, v, log_decay, state = inputs("head", 45)
    same = log_decay[:1].expand(BATCH, -1, -1)
    for one, other in zip(
        ops.linear_attention(q, k, v, log_decay[:1], state), ops.linear_attention(q, k, v, same, state), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_autocast_leaves_the_recurrence_alone(way):
    for form, (fast, _) in FORMS.items():
        given = [t.detach().float() for t in inputs(form, 45)]
        with torch.autocast("cpu", torch.bfloat16):
            got, state = fast(*given)
        assert got.dtype == state.dtype == torch.float32
        torch.testing.assert_close(got, fast(*given)[0], rtol=0, atol=0)


@pytest.mark.parametrize("length", [1, 31, 32, 95, 96, 97])
def test_pieces(length):
    cuts = ops.pieces(length)
    assert sum(chunks * size for chunks, size in cuts) == length
    assert all(size & (size - 1) == 0 for _, size in cuts)


# hand-checked numbers (facts, section 5.3): keys, values, queries of four positions


def toy(rows):
    return torch.tensor(rows, dtype=torch.float64)[None, :, None]


K, V, Q = (
    toy([(1, 0), (0.6, 0.8), (0, 1), (1, 0)]),
    toy([(1, 2), (3, -1), (0, 1), (2, 2)]),
    toy([(1, 0), (1, 0), (0, 1), (0.6, 0.8)]),
)
BETA, ALPHA = (toy([[x] for x in xs])[..., 0] for xs in ([1, 0.5, 1, 0.5], [1, 0.9, 0.8, 0.5]))
EMPTY = torch.zeros(1, 1, 2, 2, dtype=torch.float64)


def assert_toy(result, outputs, last=None):
    torch.testing.assert_close(result[0], toy(outputs), rtol=0, atol=1e-12)
    if last is not None:
        torch.testing.assert_close(result[1][0, 0].T, torch.tensor(last, dtype=torch.float64), rtol=0, atol=1e-12)


def test_delta_rule_toy():
    outputs, last = [(1, 2), (1.72, 1.34), (0, 1), (1.116, 1.802)], [[1.86, 0], [1.67, 1]]
    assert_toy(ops.delta_rule(Q, K, V, BETA, None, EMPTY), outputs, last)
    assert_toy(ops.delta_rule(Q, K, V, BETA, torch.zeros_like(BETA), EMPTY), outputs, last)


def test_gated_delta_rule_toy():
    got = ops.delta_rule(Q, K, V, BETA, ALPHA.log(), EMPTY)
    assert_toy(got, [(1, 2), (1.638, 1.176), (0, 1), (0.79656, 1.14112)], [[1.3276, 0], [1.2352, 0.5]])


def test_retention_toy():
    got = ops.linear_attention(Q, K, V, torch.full((1, 4, 1), 0.9, dtype=torch.float64).log(), EMPTY)
    torch.testing.assert_close(got[0], toy([(1, 2), (2.7, 1.2), (2.16, 0.28), (4.0674, 1.9848)]), rtol=0, atol=1e-12)


def test_gated_linear_attention_toy():
    decay = toy([(1, 1), (0.9, 0.5), (0.8, 0.5), (0.7, 0.5)])
    assert_toy(ops.gated_linear_attention(Q, K, V, decay, EMPTY), [(1, 2), (2.7, 1.2), (1.2, 0.6), (2.5872, 1.8432)])


# layers against their equations


def heads_of(x, heads):
    return x.unflatten(-1, (heads, -1))


def rms(x, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def retention(layer, x):
    """With rotations as complex numbers, at positions counted from the start."""
    heads, width = layer.heads, layer.dim // layer.heads
    q, k, v = (heads_of(map(x), heads) for map in (layer.q, layer.k, layer.v))
    angle = torch.arange(x.shape[1]).double()[:, None, None] * 10_000 ** -torch.linspace(0, 1, width // 2, dtype=torch.float64)
    turned = [torch.view_as_complex(t.unflatten(-1, (-1, 2)).contiguous()) * torch.exp(1j * angle) for t in (q, k)]
    q, k = (torch.view_as_real(t).flatten(-2) for t in turned)
    decay = torch.tensor([1 - 2.0 ** (-5 - head) for head in range(heads)]).double().expand(len(x), x.shape[1], heads)
    state = torch.zeros(len(x), heads, width, 2 * width).double()
    y, _ = ops.linear_attention_definition(q, k / math.sqrt(width), v, decay[..., None], state)
    return layer.out(F.silu(layer.gate(x)) * rms(y, 1e-6).flatten(-2))


def gated_attention(layer, x):
    q, k, v, z = (heads_of(map(x), layer.heads) for map in (layer.q, layer.k, layer.v, layer.decay))
    y, _ = ops.linear_attention_definition(q, k, v, torch.sigmoid(z) ** (1 / 16), layer.init_state(len(x)))
    y = rms(y / math.sqrt(k.shape[-1]), 1e-5) * layer.norm.weight
    return layer.out(F.silu(layer.gate(x)) * y.flatten(-2))


def delta_layer(layer, x):
    recent, state = layer.init_state(len(x))
    mixed = F.silu(short_convolution_definition(layer.qkv(x), layer.convolution.weight, None, recent))
    q, k, v = (heads_of(t, layer.heads) for t in mixed.split([layer.keys, layer.keys, layer.values], -1))
    q, k = (t / (t.square().sum(-1, keepdim=True) + 1e-6).sqrt() for t in (q, k))
    beta, decay = torch.sigmoid(layer.beta(x)), torch.ones(())
    if isinstance(layer, GatedDeltaRule):
        decay = torch.exp(-layer.log_rate.exp() * torch.log1p(layer.decay(x).exp()))
    y, _ = ops.delta_rule_definition(q / math.sqrt(k.shape[-1]), k, v, beta, decay.expand(beta.shape), state)
    y = (rms(y, 1e-5) * layer.norm.weight).flatten(-2)
    return layer.out(F.silu(layer.gate(x)) * y if isinstance(layer, GatedDeltaRule) else y)


LAYERS = {
    "retnet": (lambda: Retention(16, 2), retention),
    "gla": (lambda: GatedAttention(16, 2), gated_attention),
    "deltanet": (lambda: DeltaRule(16, 2, 16, 16), delta_layer),
    "gated deltanet": (lambda: GatedDeltaRule(16, 6, 12, 24), delta_layer),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_their_equations(name):
    make, equations = LAYERS[name]
    torch.manual_seed(0)
    layer, x = make().double(), noise(2, 45, 16, dtype=torch.float64)
    torch.testing.assert_close(layer(x), equations(layer, x), rtol=0, atol=1e-10)


def test_retention_does_not_age():
    """After 100,000 positions streamed in pieces, the frame of the state is still that of counted positions."""
    torch.manual_seed(0)
    layer = Retention(8, 2).double()
    with torch.no_grad():
        state, x = layer.init_state(1), noise(1, 20_000, 8, dtype=torch.float64)
        for _ in range(5):
            _, state = layer.stream(x, state)
        y, _ = layer.stream(x[:, :50], state)
        again = layer(torch.cat([x, x[:, :50]], 1))[:, -50:]
    torch.testing.assert_close(y, again, rtol=0, atol=1e-9)


@pytest.mark.parametrize("bias", [True, False])
def test_short_convolution_is_its_sum(bias):
    torch.manual_seed(0)
    layer, x = ShortConvolution(6, bias=bias).double(), noise(2, 9, 6, dtype=torch.float64)
    state = noise(2, 3, 6, dtype=torch.float64, seed=1)
    want = short_convolution_definition(x, layer.weight, layer.bias, state)
    y, after = layer.stream(x, state)
    torch.testing.assert_close(y, want, rtol=0, atol=1e-12)
    assert torch.equal(after, x[:, -3:])
    assert torch.equal(layer.stream(x[:, :1], state)[1], torch.cat([state[:, 1:], x[:, :1]], 1))


# sizes, initial weights, errors


def test_parameters():
    dim, mlp = 48, 8 * 48**2
    norms = 2 * dim
    counts = {
        RetNet(dim, 2): 8 * dim**2,
        GLA(dim, 2): 4 * dim**2 + 16 * dim + 17 * dim // 2 + dim // 4,
        DeltaNet(dim, 2): 4 * dim**2 + 12 * dim + 4 * dim + dim // 4,
        DeltaNet(dim, 2, gate="scalar"): 6 * dim**2 + 12 * dim + 12 * dim + 12 + dim // 4,
    }
    for model, layer in counts.items():
        assert count_parameters(model) == 2 * (layer + mlp + norms) + dim


def test_states():
    dim = 48
    with torch.device("meta"):
        models = RetNet(dim, 1), GLA(dim, 1), DeltaNet(dim, 1), DeltaNet(dim, 1, gate="scalar")
    want = 2 * dim**2 // 4, dim**2 // 8, dim**2 // 4 + 9 * dim, 6 * (dim // 8) * (dim // 4) + 9 * dim
    assert tuple(state_size(model, 10) for model in models) == want


def test_retention_initial_weights():
    """Xavier bounds: gain sqrt(6 / (in + out)). Half-lives of eight heads reach from 21.8 to 2839."""
    torch.manual_seed(0)
    layer = Retention(64, 8)
    assert layer.q.weight.abs().max().item() == pytest.approx(2**-2.5 * math.sqrt(6 / 128), rel=0.01)
    assert layer.v.weight.abs().max().item() == pytest.approx(2**-2.5 * math.sqrt(6 / 192), rel=0.01)
    assert layer.out.weight.abs().max().item() == pytest.approx(0.5 * math.sqrt(6 / 192), rel=0.01)
    half_lives = -math.log(2) / log_decays(layer.heads, torch.device("cpu"))
    assert half_lives[0].item() == pytest.approx(21.8, abs=0.05)
    assert half_lives[-1].item() == pytest.approx(2839, abs=1)


def test_gated_delta_initial_decays():
    torch.manual_seed(0)
    layer = GatedDeltaRule(8, 20_000, 20_000, 20_000)
    rates, steps = layer.log_rate.exp(), F.softplus(layer.decay.bias)
    assert rates.max() <= 16
    assert rates.mean().item() == pytest.approx(8, rel=0.02)
    assert rates.std().item() == pytest.approx(16 / math.sqrt(12), rel=0.02)
    assert steps.min() > 0.00099
    assert steps.max() < 0.101
    assert steps.log().mean().item() == pytest.approx(math.log(0.01), abs=0.03)
    assert {name: tuning.decay for name, tuning in layer.tuned.items()} == {"log_rate": False, "decay.bias": False}


@pytest.mark.parametrize("make", [partial(RetNet, heads=3), partial(GLA, heads=16), partial(DeltaNet, heads=3)])
def test_heads_that_do_not_fit_are_refused(make):
    with pytest.raises(ValueError, match="heads="):
        make(16, 1)


# operations, counted one by one


def dot(size):
    for _ in range(size):
        Number() + Number() * Number()


def pair_decays(size, products):
    """The sum and its power for each earlier position, and the products it enters; for each position the decay so far."""
    for i in range(size):
        for _ in range(i):
            (Number() + Number()).function()
            for _ in range(products):
                Number() * Number()
        (Number() + Number()).function()


def carry(key, value):
    for _ in range(key * value):
        Number() + Number() * Number()


def linear_chunk(size, key, value):
    pair_decays(size, 1)
    for _ in range(size * value):
        Number() * Number()  # the value's decay to the end
        Number() + Number() * Number()  # the reading's decay, added
    carry(key, value)


def gated_chunk(size, key, value):
    for _ in range(size):
        dot(key)
        for _ in range(key + value):
            Number() * Number()  # q decayed, the value times q k
    block = 1
    while block < size:
        for _ in range(size // (2 * block)):
            for _ in range(block * key):
                Number() * Number(), Number() * Number()
            for _ in range(block * value):
                Number() + Number()
            for _ in range(key):
                Number() * Number()
        block *= 2
    for _ in range(size * value):
        Number() + Number()
    carry(key, value)


def delta_chunk(size, key, value, decays=False):
    if decays:
        pair_decays(size, 2)
        for _ in range(3 * size * key + key * value):
            Number() * Number()
    for i in range(size):
        for _ in range(i):
            Number() * Number()
        for _ in range(key + value):
            Number() * Number()
            dot(i)  # forward substitution
        for _ in range(2 * value):
            Number() + Number()
    for _ in range(key * value):
        Number() + Number()


@pytest.mark.parametrize(
    ("declared", "chunk"),
    [
        (ops.linear_attention_flops, linear_chunk),
        (ops.gated_linear_attention_flops, gated_chunk),
        (partial(ops.delta_rule_flops, decays=False), delta_chunk),
        (partial(ops.delta_rule_flops, decays=True), partial(delta_chunk, decays=True)),
    ],
)
def test_mixing_of_the_recurrences(declared, chunk):
    for length, sizes in {1: [1], 7: [4, 2, 1], 32: [32], 77: [32, 32, 8, 4, 1]}.items():
        want = sum(operations(chunk, size, 3, 5) for size in sizes)
        assert declared(length, 2, 3, 5).mixing == 2 * want


def test_mixing_of_the_layers():
    """What the layers add to the recurrence: the state's turn; decays from their logits."""

    def extra(model, recurrence: Flops):
        return model.flops(33).mixing - recurrence.mixing

    assert extra(RetNet(16, 1), ops.linear_attention_flops(33, 4, 4, 8)) == 3 * 4 * 4 * 8
    assert extra(GLA(16, 1), ops.gated_linear_attention_flops(33, 4, 2, 4)) == 33 * 4 * 8
    assert extra(DeltaNet(16, 1), ops.delta_rule_flops(33, 4, 4, 4, decays=False)) == 0
    assert extra(DeltaNet(16, 1, gate="scalar"), ops.delta_rule_flops(33, 6, 2, 4, decays=True)) == 33 * 3 * 6
