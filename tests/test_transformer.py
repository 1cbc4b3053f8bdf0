"""Transformer: every form of attention against loops, positions, blocks, sizes, cost and what a window remembers."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from architectures.ops import positions
from architectures.ops.attention import ROWS, attend, attend_definition, pairs
from architectures.ops.positions import alibi_slopes, distances, rotate, sinusoids
from architectures.stack import MLP, SwiGLU
from architectures.transformer import PRESETS, Attention, Transformer
from lab.conformance import check
from lab.counter import Counter
from lab.laws.subject import noise
from lab.model import count_parameters, state_size


def double(*shape: int, seed: int = 0) -> Tensor:
    return noise(*shape, dtype=torch.float64, seed=seed)


def close(got: Tensor, want: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(got, want, rtol=0, atol=tolerance)


def sees(i: int, j: int, causal: bool, window: int | None) -> bool:
    return (j <= i or not causal) and (window is None or abs(i - j) < window)


# attention, its fast forms


def distance_bias(rows: slice, columns: slice) -> Tensor:
    return torch.sin(1.0 * distances(rows, columns, torch.device("cpu"))).double()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 1, 2, 5, 8, 21, 22, 100])
@pytest.mark.parametrize("bias", [None, distance_bias])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_fast_forms_are_the_definition(causal, window, bias, kv_heads):
    for past, new in ((0, 1), (0, 21), (0, 22), (0, 70), (7, 1), (3, 37)):
        if past and not causal:
            continue
        total = past + new
        q, k, v = double(2, 4, new, 4, seed=0), double(2, kv_heads, total, 4, seed=1), double(2, kv_heads, total, 4, seed=2)
        ways = []
        for function, copies in ((attend, 1), (attend_definition, 4 // kv_heads)):
            given = [t.clone().requires_grad_() for t in (q, k, v)]
            each = (t.repeat_interleave(copies, 1) for t in given[1:])
            y = function(given[0], *each, causal=causal, window=window, bias=bias)
            ways.append([y, *torch.autograd.grad((y * double(*y.shape, seed=9)).sum(), given)])
        for got, want in zip(*ways, strict=True):
            close(got, want, 1e-11)


@pytest.mark.parametrize("window", [None, 200])
def test_fast_forms_at_4096(window):
    q, k, v = (double(1, 1, 4096, 4, seed=seed) for seed in range(3))
    whole = attend(q, k, v, causal=True, window=window)
    close(attend(q[:, :, -100:], k, v, causal=True, window=window), whole[:, :, -100:])
    close(whole, attend_definition(q, k, v, causal=True, window=window, bias=None))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 1, 4, 13, 50])
def test_pairs_are_counted_one_by_one(causal, window):
    for length in (1, 2, 13, 20):
        each = [(i, j) for i in range(length) for j in range(length) if sees(i, j, causal, window)]
        assert pairs(length, causal, window) == len(each)


def test_a_windows_cost_is_linear_in_length():
    costs = [Transformer(16, 1, attention="window", window=32).flops(length).headline for length in (512, 1024, 2048)]
    assert costs[2] - costs[1] == 2 * (costs[1] - costs[0])


# positions


def test_alibi_slopes():
    assert alibi_slopes(8) == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]


def test_rotation_at_position_three():
    turned = rotate(torch.tensor([[1.0, 2.0, 3.0, 4.0]]).double(), 3)
    close(turned, torch.tensor([[-1.413353, 1.879118, -2.828857, 4.058191]]).double(), 1e-6)


def test_sinusoids():
    waves = sinusoids(-1, 3, torch.zeros(4).double())
    want = [[math.sin(p), math.sin(p / 100), math.cos(p), math.cos(p / 100)] for p in (-1, 0, 1, 2)]
    close(waves, torch.tensor(want, dtype=torch.float64))


def test_sinusoids_of_an_odd_width_lack_the_last_cosine():
    angles = torch.arange(4)[:, None] * 10000 ** (-2 * torch.arange(3).double() / 5)
    close(sinusoids(0, 4, torch.zeros(5).double()), torch.cat([angles.sin(), angles.cos()[:, :2]], 1))


def test_far_positions_are_exact_and_keep_no_table():
    before = positions._table.cache_info()
    waves = sinusoids(10**9, 10**9 + 3, torch.zeros(4).double())
    want = [[math.sin(p), math.sin(p / 100), math.cos(p), math.cos(p / 100)] for p in range(10**9, 10**9 + 3)]
    close(waves, torch.tensor(want, dtype=torch.float64))
    assert positions._table.cache_info() == before
    end = positions.LONGEST
    across = sinusoids(end - 2, end + 2, torch.zeros(6))
    close(across[:2], sinusoids(end - 2, end, torch.zeros(6)))


def test_positions_read_in_evaluation_serve_training():
    x = double(1, 8, 6)
    with torch.inference_mode():
        before = rotate(x, 12_345)
    after = rotate(x.clone().requires_grad_(), 12_345)
    after.sum().backward()
    assert torch.equal(before, after)


# the layers and blocks of every preset, as loops


def rotated(x: Tensor, position: int) -> Tensor:
    """By complex numbers: the halves of a head are the real and the imaginary parts."""
    half = len(x) // 2
    angles = [position * 10_000 ** (-m / half) for m in range(half)]
    turned = [complex(x[m], x[m + half]) * complex(math.cos(a), math.sin(a)) for m, a in enumerate(angles)]
    return torch.tensor([z.real for z in turned] + [z.imag for z in turned], dtype=x.dtype)


def attention_by_loops(layer: Attention, x: Tensor, order: str) -> Tensor:
    """One head, one query and one key at a time."""
    length, dim = x.shape
    width = dim // layer.heads
    shared = layer.heads // layer.kv_heads
    qkv = F.linear(x, layer.qkv.weight, layer.qkv.bias)
    out = torch.zeros_like(x)
    for head in range(layer.heads):
        group = layer.heads + head // shared
        part = slice(head * width, (head + 1) * width)
        for i in range(length):
            powers, values = [], []
            for j in range(length):
                if not sees(i, j, layer.causal, layer.window):
                    continue
                q, k = qkv[i, part], qkv[j, group * width : (group + 1) * width]
                if order == "rope":
                    q, k = rotated(q, i), rotated(k, j)
                score = float(q @ k)
                if order == "relative":
                    angles = [(i - j) * 10_000 ** (-2 * m / dim) for m in range(dim // 2)]
                    wave = torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles], dtype=x.dtype)
                    place = (layer.distance.weight @ wave)[part]
                    score = float((q + layer.content[head, 0]) @ k + (q + layer.place[head, 0]) @ place)
                score /= math.sqrt(width)
                if order == "alibi":
                    score -= 2 ** (-8 * (head + 1) / layer.heads) * abs(i - j)
                powers.append(math.exp(score))
                values.append(qkv[j, (group + layer.kv_heads) * width : (group + layer.kv_heads + 1) * width])
            for power, value in zip(powers, values, strict=True):
                out[i, part] += power / sum(powers) * value
    return F.linear(out, layer.out.weight, layer.out.bias)


def normed(norm: torch.nn.Module, x: Tensor) -> Tensor:
    if isinstance(norm, torch.nn.RMSNorm):
        return norm.weight * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    assert isinstance(norm, torch.nn.LayerNorm)
    bias = 0 if norm.bias is None else norm.bias
    return norm.weight * (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt() + bias


def channels_by_formula(mlp: torch.nn.Module, x: Tensor) -> Tensor:
    if isinstance(mlp, SwiGLU):
        gate, up = F.linear(x, mlp.gate.weight, mlp.gate.bias), F.linear(x, mlp.up.weight, mlp.up.bias)
        return F.linear(gate * torch.sigmoid(gate) * up, mlp.out.weight, mlp.out.bias)
    assert type(mlp) is MLP
    up = F.linear(x, mlp.up.weight, mlp.up.bias)
    up = up / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))
    return F.linear(up, mlp.out.weight, mlp.out.bias)


FORMS = [
    {"preset": "llama"},
    {"preset": "gpt1"},
    {"preset": "gpt2"},
    {"preset": "gpt3", "window": 3},
    {"preset": "gopher"},
    {"preset": "palm"},
    {"positions": "alibi", "kv_heads": 2},
    {"positions": "sinusoidal", "norm_place": "post", "bias": True},
    {"positions": "none", "norm": "layer", "parallel": True},
    {"preset": "gopher", "attention": "window", "window": 4},
    {"attention": "window", "window": 4, "kv_heads": 1},
]


def model_by_loops(model: Transformer, x: Tensor, form: dict) -> Tensor:
    preset = PRESETS[form.get("preset", "llama")]
    order = form.get("positions", preset["positions"])
    post, parallel = form.get("norm_place", preset["norm_place"]) == "post", form.get("parallel", preset.get("parallel"))
    length, dim = x.shape
    if order == "learned":
        x = x + model.table[:length]
    if order == "sinusoidal":
        for p in range(length):
            angles = [p * 10_000 ** (-2 * m / dim) for m in range(dim // 2)]
            x = x.clone()
            x[p] += torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles], dtype=x.dtype)
    for layer in model.layers:
        if parallel:
            y = normed(layer.norm, x)
            x = x + attention_by_loops(layer.inner, y, order) + channels_by_formula(layer.mlp, y)
            continue
        y = x if post else normed(layer.norm, x)
        mix = isinstance(layer.inner, Attention)
        x = x + (attention_by_loops(layer.inner, y, order) if mix else channels_by_formula(layer.inner, y))
        x = normed(layer.norm, x) if post else x
    return x if post else normed(model.norm, x)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_form_is_its_equations(form, causal):
    torch.manual_seed(0)
    model, x = Transformer(16, 2, causal=causal, heads=4, **form).double(), double(1, 11, 16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * double(*parameter.shape)
        close(model(x)[0], model_by_loops(model, x[0], form), 1e-11)


@pytest.mark.parametrize("form", [{}, {"positions": "alibi"}, {"preset": "gopher"}, {"preset": "palm"}], ids=str)
@pytest.mark.parametrize("causal", [True, False])
def test_a_window_as_long_as_the_sequence_is_full_attention(form, causal):
    models = []
    for attention in ("full", "window"):
        torch.manual_seed(0)
        models.append(Transformer(16, 2, causal=causal, attention=attention, window=19, **form).double())
    x = double(2, 19, 16)
    close(models[0](x), models[1](x))
    assert models[0].flops(19) == models[1].flops(19)
    if causal:
        assert not torch.allclose(models[0](double(1, 40, 16)), models[1](double(1, 40, 16)))


def test_one_head_of_keys_and_values_is_all_heads_alike():
    torch.manual_seed(0)
    shared = Attention(12, 3, causal=True, rope=True, bias=False, kv_heads=1).double()
    full = Attention(12, 3, causal=True, rope=True, bias=False).double()
    with torch.no_grad():
        q, k, v = shared.qkv.weight.split([12, 4, 4])
        full.qkv.weight.copy_(torch.cat([q, k, k, k, v, v, v]))
        full.out.weight.copy_(shared.out.weight)
    close(shared(double(2, 9, 12)), full(double(2, 9, 12)))


# what streaming remembers


@pytest.mark.parametrize("form", [{}, {"preset": "gopher"}, {"positions": "sinusoidal"}, {"positions": "alibi"}], ids=str)
def test_a_window_forgets(form):
    with torch.device("meta"):
        model = Transformer(16, 2, attention="window", window=5, **form)
    assert state_size(model, 3) == 2 * 2 * 16 * 3
    assert state_size(model, 40) == 2 * 2 * 16 * 4


def test_shared_keys_make_a_small_state():
    with torch.device("meta"):
        model = Transformer(16, 2, kv_heads=1)
    assert state_size(model, 40) == 2 * 2 * 4 * 40


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_streams_of_any_cut_beyond_a_slice(form):
    torch.manual_seed(0)
    model, x = Transformer(16, 2, **form).double(), double(2, 2 * ROWS + 9, 16)
    with torch.no_grad():
        whole, state, out = model(x), model.init_state(2), []
        for piece in x.split([ROWS, 1, 2, 0, ROWS + 3, 3], 1):
            y, state = model.stream(piece, state)
            out.append(y)
        close(torch.cat(out, 1), whole, 1e-11)


# sizes, initial weights, errors


@pytest.mark.parametrize(("dim", "depth"), [(16, 1), (48, 3)])
def test_parameter_counts(dim, depth):
    gpt = 12 * dim**2 + 13 * dim
    heads, swiglu = dim // 4, 3 * dim * math.ceil(8 * dim / 3)
    counts = {
        Transformer(dim, depth, preset="gpt1"): depth * gpt + 512 * dim,
        Transformer(dim, depth, preset="gpt2"): depth * gpt + 2 * dim + 1024 * dim,
        Transformer(dim, depth, preset="gpt3"): depth * gpt + 2 * dim + 2048 * dim,
        Transformer(dim, depth, preset="gopher"): depth * (13 * dim**2 + 9 * dim + 2 * dim + 2 * dim) + dim,
        Transformer(dim, depth, preset="palm"): depth * (14 * dim**2 + 2 * dim * heads + dim) + dim,
        Transformer(dim, depth, preset="llama"): depth * (4 * dim**2 + swiglu + 2 * dim) + dim,
        Transformer(dim, depth, mlp="relu2", kv_heads=2): depth * (2 * dim**2 + dim**2 + 8 * dim**2 + 2 * dim) + dim,
    }
    for model, count in counts.items():
        assert count_parameters(model) == count


@pytest.mark.parametrize(
    ("preset", "embedding", "inner", "residual"),
    [("gpt1", 0.02, 0.02, 0.02), ("gpt3", 0.02, 0.02, 0.02 / 4), ("palm", 1, 1 / 16, None)],
)
def test_initial_weights(preset, embedding, inner, residual):
    torch.manual_seed(0)
    model = Transformer(256, 8, preset=preset, heads=8)
    assert model.embedding_std == embedding
    for name, parameter in model.layers.named_parameters():
        if parameter.ndim == 2:
            std = inner if not name.endswith("out.weight") else residual or parameter.shape[1] ** -0.5
            assert parameter.std().item() == pytest.approx(std, rel=0.02), name
        else:
            assert (parameter == (1 if name.endswith("norm.weight") else 0)).all()


def test_gpt3_alternates_and_others_do_not():
    def windows(**settings):
        return [layer.inner.window for layer in Transformer(16, 5, mlp="none", **settings).layers]

    assert windows(preset="gpt3") == [None, 128, None, 128, None]
    assert windows(preset="gpt2") == [None] * 5
    assert windows(attention="window", window=7) == [7] * 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 3}, "heads=3 must divide"),
        ({"kv_heads": 3}, "kv_heads=3 must divide heads=4"),
        ({"kv_heads": 0}, "kv_heads=0"),
        ({"window": 0}, "window=0"),
        ({"parallel": True, "norm_place": "post"}, "parallel=true needs"),
        ({"preset": "palm", "mlp": "none"}, "parallel=true needs"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Transformer(16, 1, **settings)


# cost


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_contractions_are_counted_beyond_a_slice_of_queries(form, causal):
    model = Transformer(16, 2, causal=causal, **form)
    length = 2 * ROWS + 9
    with torch.no_grad(), Counter() as counter:
        model(noise(2, length, 16))
    assert counter.contraction == 2 * model.flops(length).contraction
    assert not counter.unknown


def test_gopher_costs_what_it_says():
    """Each slice of 64 queries meets the distances up to its last query; the sinusoids pass through W_r once a sequence."""
    dim, length = 16, 150
    bare, full = Transformer(dim, 1, preset="gopher", positions="none"), Transformer(dim, 1, preset="gopher")
    met = 64 * 64 + 64 * 128 + 22 * 150
    more = full.flops(length).contraction - bare.flops(length).contraction
    assert more == 2 * length * dim**2 + 2 * dim * met


@pytest.mark.parametrize("length", [1, 7, 33])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("form", "window", "each"), [({}, 5, 5), ({"positions": "alibi"}, 5, 6), ({"preset": "gopher"}, 5, 6)])
def test_mixing(length, causal, form, window, each):
    """Of each score: largest, difference, exp, sum, quotient; and a sum where a bias is added."""
    seen = sum(sees(i, j, causal, window) for i in range(length) for j in range(length))
    model = Transformer(12, 3, causal=causal, heads=2, attention="window", window=window, **form)
    assert model.flops(length).mixing == 3 * 2 * seen * each


def test_squared_relu():
    torch.manual_seed(0)
    model, x = Transformer(16, 1, mlp="relu2").double(), double(1, 5, 16)
    mlp = model.layers[1].inner
    with torch.no_grad():
        close(mlp(x), (x @ mlp.up.weight.T).clamp_min(0) ** 2 @ mlp.out.weight.T)
    gelu = Transformer(16, 1, mlp="gelu").flops(7)
    assert gelu.contraction == model.flops(7).contraction
    assert gelu.pointwise - model.flops(7).pointwise == 7 * 64 * (8 - 2)


@pytest.mark.parametrize("form", [{"attention": "window", "window": 64}, {"attention": "window", "positions": "alibi"}], ids=str)
def test_sixteen_thousand_positions(form):
    torch.manual_seed(0)
    with torch.no_grad():
        assert Transformer(8, 1, heads=2, **form)(noise(1, 16_384, 8)).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "form",
    [
        *(f"preset={preset}" for preset in PRESETS),
        "preset=gpt3,window=5",
        "preset=gopher,attention=window,window=9",
        "positions=alibi",
        "positions=alibi,attention=window,window=1",
        "positions=sinusoidal,attention=window,window=7,mlp=relu2",
        "positions=learned,attention=window,window=3,max_length=100",
        "norm_place=post,kv_heads=2,attention=alternating,window=16",
    ],
)
def test_laws(form):
    report = check(f"transformer:{form}")
    assert report.passed, str(report)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_keys_are_appended_in_place_and_old_states_stay(mode):
    """Two continuations of one state: the first takes the room behind it, the second a copy; and memory is moved rarely."""
    torch.manual_seed(0)
    model = Transformer(16, 1).double().eval()
    x = noise(1, 400, 16, dtype=torch.float64)
    with mode():
        want, state = model(x), model.init_state(1)
        homes = set()
        for t in range(300):
            y, state = model.stream(x[:, t : t + 1], state)
            torch.testing.assert_close(y[:, 0], want[:, t], rtol=0, atol=1e-12)
            homes.add(state[1][0][0].data_ptr())
        assert len(homes) < 12
        other, _ = model.stream(-x[:, 300:350], state)
        torch.testing.assert_close(model.stream(x[:, 300:], state)[0], want[:, 300:], rtol=0, atol=1e-12)
        assert not torch.allclose(other, want[:, 300:350])


def test_a_state_made_in_inference_can_be_streamed_from_elsewhere():
    torch.manual_seed(0)
    model = Transformer(16, 1).eval()
    x = noise(1, 60, 16)
    with torch.inference_mode():
        _, state = model.stream(x[:, :40], model.init_state(1))
        _, state = model.stream(x[:, 40:50], state)
    with torch.no_grad():
        torch.testing.assert_close(model.stream(x[:, 50:], state)[0], model(x)[:, 50:], rtol=0, atol=1e-5)
