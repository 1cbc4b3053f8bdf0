"""LSTM, GRU and the attentive LSTM against their equations written as loops, their initial weights and their cost."""

import math

import pytest
import torch
from torch import Tensor, nn

from architectures.gru import GRU, Recurrence
from architectures.lstm_attention import Lookback, LSTMAttention
from architectures.ops import additive_attention, gates, native
from lab.counter import Counter
from lab.laws.subject import noise
from lab.model import count_parameters

LENGTHS = [1, 2, 7, 33, 64]


def double(*shape: int, seed: int = 0) -> Tensor:
    return noise(*shape, dtype=torch.float64, seed=seed)


def close(got: Tensor, want: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(got, want, rtol=0, atol=tolerance)


def look_back_definition(layer: Lookback, x: Tensor, past: Tensor) -> Tensor:
    """For the LSTM's states h of x, after the states `past`: one query and one key at a time."""
    h = torch.cat([past, x], 1)
    v, out = layer.score.weight[0], []
    for t in range(past.shape[1], h.shape[1]):
        context = torch.zeros_like(h[:, 0])
        if t:
            query = layer.query(h[:, t])
            scores = torch.stack([torch.tanh(query + layer.key(h[:, j])) @ v for j in range(t)], 1)
            powers = torch.exp(scores)
            for j in range(t):
                context = context + (powers[:, j] / powers.sum(1))[:, None] * h[:, j]
        out.append(context)
    return torch.stack(out, 1)


def gradients(y: Tensor, wanted: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad((y * noise(*y.shape, dtype=y.dtype, seed=9)).sum(), wanted))


KINDS = {"lstm": (nn.LSTM, gates.lstm, gates.lstm_definition, 2), "gru": (nn.GRU, gates.gru, gates.gru_definition, 1)}


def one_layer(kind: str, batch: int, length: int, dim: int, dtype: torch.dtype = torch.float64):
    """Cells with biases, what they read, and a state to start from."""
    cls, fast, slow, parts = KINDS[kind]
    torch.manual_seed(0)
    cells = cls(dim, dim, batch_first=True).to(dtype)
    gates.initialise_gates(cells)
    with torch.no_grad():
        for bias in cells.all_weights[0][2:]:
            bias.add_(noise(*bias.shape, dtype=dtype, seed=3))
    x = noise(batch, length, dim, dtype=dtype).requires_grad_()
    state = tuple(noise(1, batch, dim, dtype=dtype, seed=i + 1).requires_grad_() for i in range(parts))
    return cells, fast, slow, x, state if kind == "lstm" else state[0]


def values_and_gradients(form, cells, x: Tensor, state) -> list[Tensor]:
    """h and the last state, and the gradients through both to everything."""
    h, last = form(cells, x, state)
    out = [h, *(last if isinstance(last, tuple) else (last,))]
    start = state if isinstance(state, tuple) else (state,)
    total = sum((y * noise(*y.shape, dtype=y.dtype, seed=9 + i)).sum() for i, y in enumerate(out))
    return [*out, *torch.autograd.grad(total, [x, *start, *cells.parameters()])]


def without_kernels(monkeypatch) -> None:
    monkeypatch.setattr(native, "kernels", lambda *_: None)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(("batch", "length", "dim"), [(1, 1, 8), (1, 9, 8), (2, 37, 6), (3, 33, 24), (7, 65, 16), (2, 40, 136)])
@pytest.mark.parametrize("kind", KINDS)
def test_gates_are_their_equations(kind, batch, length, dim, compiled, monkeypatch):
    if not compiled:
        without_kernels(monkeypatch)
    cells, fast, slow, x, state = one_layer(kind, batch, length, dim)
    got, want = (values_and_gradients(form, cells, x, state) for form in (fast, slow))
    for a, b in zip(got, want, strict=True):
        close(a, b, 1e-12 * max(1, b.abs().max().item()))


@pytest.mark.parametrize("kind", KINDS)
def test_gates_are_their_equations_at_4096_positions(kind):
    cells, fast, slow, x, state = one_layer(kind, 2, 4096, 8)
    for a, b in zip(*(values_and_gradients(form, cells, x, state) for form in (fast, slow)), strict=True):
        close(a, b, 1e-12 * max(1, b.abs().max().item()))


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_are_as_exact_as_their_dtype(kind):
    cells, fast, slow, x, state = one_layer(kind, 5, 300, 40, torch.float32)
    got, rough = (values_and_gradients(form, cells, x, state) for form in (fast, slow))
    cells, _, _, x, state = one_layer(kind, 5, 300, 40, torch.float64)
    cells = cells.float().double()
    x, state = x.float().double(), tuple(s.float().double() for s in state) if kind == "lstm" else state.float().double()
    want = values_and_gradients(slow, cells, x, state)
    for a, b, exact in zip(got, rough, want, strict=True):
        scale = exact.abs().max()
        assert (a - exact).abs().max() <= max(3 * (b - exact).abs().max(), 1e-6 * scale)


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_run_in_float32_under_autocast(kind):
    """Whatever the precision of what they read, the states are those that float32 has, to the last bit, and so are gradients."""
    if native.kernels("gates", torch.zeros(1)) is None:
        pytest.skip("numba is not installed")
    cells, fast, _, x, state = one_layer(kind, 2, 50, 16, torch.float32)
    narrow = x.detach().bfloat16().requires_grad_()
    want = values_and_gradients(fast, cells, narrow.detach().float().requires_grad_(), state)

    def under_autocast(*given):
        with torch.autocast("cpu", torch.bfloat16):
            return fast(*given)

    for a, b in zip(values_and_gradients(under_autocast, cells, narrow, state), want, strict=True):
        assert torch.equal(a, b.to(a.dtype))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_has_the_same_states_in_any_company(kind):
    """To the last bit, forward and backward through time, however many sequences share the weights and on however many threads.
    Products that end in the gradients of inputs and weights are a library's, which may add up in another order.
    """
    cells, fast, _, x, state = one_layer(kind, 7, 20, 24, torch.float32)
    first = values_and_gradients(fast, cells, x, state)
    torch.set_num_threads(3)
    try:
        second = values_and_gradients(fast, cells, x, state)
    finally:
        torch.set_num_threads(1)
    parts = 2 if kind == "lstm" else 1
    through_time = {*range(1 + parts), *range(2 + parts, 2 + 2 * parts)}  # h, the last state, and the gradient of the first
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        assert torch.equal(a, b) if i in through_time else (a - b).norm() <= 1e-6 * b.norm()
    for n in range(7):
        start = tuple(s[:, n : n + 1] for s in state) if kind == "lstm" else state[:, n : n + 1]
        close(fast(cells, x[n : n + 1], start)[0], first[0][n : n + 1], 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_small_and_large_gates(kind):
    """Relative exactness near 0, saturation without overflow, and a not-a-number that stays one."""
    cells, fast, slow, _, state = one_layer(kind, 1, 9, 8, torch.float32)
    x = noise(1, 9, 8)
    with torch.no_grad():
        for p in cells.parameters():
            p.mul_(1e-4) if p.ndim == 2 else p.zero_()
        nothing = tuple(torch.zeros_like(s) for s in state) if kind == "lstm" else torch.zeros_like(state)
        torch.testing.assert_close(fast(cells, x, nothing)[0], slow(cells, x, nothing)[0], rtol=1e-4, atol=1e-10)
        for p in cells.parameters():
            p.mul_(1e10)
        torch.testing.assert_close(fast(cells, x, nothing)[0], slow(cells, x, nothing)[0], rtol=1e-5, atol=1e-6)
        x[0, 4, 0] = math.nan
        assert fast(cells, x, nothing)[0][:, :4].isfinite().all()
        assert fast(cells, x, nothing)[0][:, 4:].isnan().all()


@pytest.mark.parametrize(("batch", "length"), [(0, 9), (2, 0), (0, 0)])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_read(kind, batch, length):
    cells, fast, _, x, state = one_layer(kind, batch, length, 8)
    h, last = fast(cells, x, state)
    assert h.shape == x.shape
    for a, b in zip(last, state, strict=True):
        assert a.shape == b.shape


def looked_back(layer: Lookback, h: Tensor, past: Tensor) -> Tensor:
    """As the layer does it."""
    given = layer.query(h), layer.key(h), h, layer.score.weight[0], layer.key(past), past
    return additive_attention.additive_attention(*given)


@pytest.mark.parametrize(("past", "length"), [(0, 1), (0, 2), (0, 13), (5, 1), (3, 22), (0, 31)])
@pytest.mark.parametrize("pairs", [4, 2**15, "compiled"])
@pytest.mark.parametrize("largest", [1, 100])
def test_looking_back_is_its_equation(past, length, pairs, largest, monkeypatch):
    if pairs != "compiled":
        monkeypatch.setattr(additive_attention, "PAIRS", pairs)
        without_kernels(monkeypatch)
    torch.manual_seed(0)
    layer, h, old = Lookback(6, 5).double(), double(2, length, 6).requires_grad_(), double(2, past, 6, seed=1).requires_grad_()
    with torch.no_grad():
        layer.query.bias[0] += largest
    fast = looked_back(layer, h, old)
    slow = look_back_definition(layer, h, old)
    close(fast, slow)
    if past or length > 1:
        wanted = [h, layer.query.weight, layer.query.bias, layer.key.weight, layer.score.weight] + ([old] if past else [])
        for got, want in zip(gradients(fast, wanted), gradients(slow, wanted), strict=True):
            close(got, want, 1e-11)


def test_attentive_lstm_is_its_equations():
    torch.manual_seed(0)
    layer, x = Lookback(6, 5).double(), double(2, 19, 6)
    with torch.no_grad():
        h = layer.lstm(x)[0]
        context = look_back_definition(layer, h, h[:, :0])
        assert (context[:, 0] == 0).all()
        close(context[:, 1], h[:, 0])
        close(layer(x), torch.tanh(torch.cat([h, context], 2) @ layer.out.weight.T))


def test_a_long_past_is_read_in_pieces():
    """4,096 positions in one piece and after a state: every softmax is a mean of what it weighs."""
    torch.manual_seed(0)
    layer, x = Lookback(8, 4).double(), double(1, 4096, 8)
    with torch.no_grad():
        whole = layer(x)
        head, state = layer.stream(x[:, :1501], layer.init_state(1))
        tail, _ = layer.stream(x[:, 1501:], state)
        close(torch.cat([head, tail], 1), whole, 1e-11)
        h = layer.lstm(x)[0]
        scores = layer.score(torch.tanh(layer.query(h[:, -1:]) + layer.key(h[:, :-1])))[..., 0]
        context = scores.softmax(1)[:, None] @ h[:, :-1]
        close(whole[:, -1:], torch.tanh(layer.out(torch.cat([h[:, -1:], context], 2))), 1e-11)


def test_large_queries_and_keys_are_looked_back_with():
    """Where exponentials of queries and keys would overflow by themselves, and their products would not."""
    torch.manual_seed(0)
    layer, h = Lookback(6, 5), noise(2, 40, 6)
    with torch.no_grad():
        usual = looked_back(layer, h, h[:, :0])
        shift = torch.tensor([0.0, 50.0, -50.0, 10.0, 100.0])
        given = layer.query(h) + shift, layer.key(h) - shift, h, layer.score.weight[0], layer.key(h[:, :0]), h[:, :0]
        close(additive_attention.additive_attention(*given), usual, 2e-5)


def test_threads_change_nothing_of_what_is_seen():
    for batch in (1, 5):
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            layer, h = Lookback(6, 5), noise(batch, 70, 6).requires_grad_()
            y = looked_back(layer, h, h[:, :0])
            results.append([y, *gradients(y, [h, layer.query.weight, layer.key.weight, layer.score.weight])])
        torch.set_num_threads(1)
        for other in results[1:]:
            assert all(map(torch.equal, other, results[0]))


@pytest.mark.parametrize("compiled", [True, False])
def test_memory_of_attention_is_bounded(compiled, monkeypatch):
    """Nothing that backward keeps has as many numbers as there are pairs."""
    monkeypatch.setattr(additive_attention, "PAIRS", 256)
    if not compiled:
        without_kernels(monkeypatch)
    layer, h, kept = Lookback(8, 4), noise(1, 255, 8), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
        looked_back(layer, h, h[:, :0])
    assert max(kept) <= 9 * 255 * 8


def test_gru_initial_weights():
    torch.manual_seed(0)
    gru = Recurrence(64).gru
    for gate in gru.weight_hh_l0.chunk(3):
        close(gate @ gate.T, torch.eye(64), 1e-5)
    assert 0.99 / 8 < gru.weight_ih_l0.abs().max() <= 1 / 8
    assert gru.weight_ih_l0.std().item() == pytest.approx(1 / 8 / math.sqrt(3), rel=0.02)
    assert not gru.bias_ih_l0.any()
    assert not gru.bias_hh_l0.any()


def test_attentive_lstm_initial_weights():
    torch.manual_seed(0)
    lstm = Lookback(64, 16).lstm
    for gate in lstm.weight_hh_l0.chunk(4):
        close(gate @ gate.T, torch.eye(64), 1e-5)
    total = lstm.bias_ih_l0 + lstm.bias_hh_l0
    assert torch.equal(total, torch.tensor([0.0, 1.0, 0.0, 0.0]).repeat_interleave(64))


@pytest.mark.parametrize(("dim", "depth"), [(16, 1), (24, 3)])
def test_parameter_counts(dim, depth):
    swiglu = 3 * dim * math.ceil(8 * dim / 3)
    lstm = 8 * dim**2 + 8 * dim
    counts = {
        GRU(dim, depth): 6 * dim**2 + 6 * dim + swiglu + 2 * dim,
        GRU(dim, depth, mlp="none", causal=False): 2 * (6 * dim**2 + 6 * dim) + dim,
        LSTMAttention(dim, depth, width=5): lstm + 2 * dim * 5 + 2 * 5 + 2 * dim**2 + swiglu + 2 * dim,
        LSTMAttention(dim, depth, mlp="none"): lstm + 4 * dim**2 + 2 * dim + dim,
    }
    for model, layer in counts.items():
        assert count_parameters(model) == depth * layer + dim


@pytest.mark.parametrize("length", LENGTHS)
def test_gru_mixing(length):
    """By position and cell: two biases, a sum and a sigmoid for each gate; n adds r's product; then h."""
    gate, candidate, state = 2 + 1 + 1, 2 + 1 + 1 + 1, 3
    assert GRU(6, 3).flops(length).mixing == 3 * length * 6 * (2 * gate + candidate + state)


@pytest.mark.parametrize("length", LENGTHS)
def test_attentive_lstm_mixing(length):
    """By query: each earlier key has a sum and a tanh for each of 5 numbers, and the five operations of a softmax."""
    total = 0
    for query in range(length):
        total += 21 * 6 + sum(5 + 5 + 5 for _ in range(query))
    assert LSTMAttention(6, 3, width=5).flops(length).mixing == 3 * total


@pytest.mark.parametrize("length", [*LENGTHS, 301])
def test_attention_multiplies_earlier_pairs_only(length, monkeypatch):
    monkeypatch.setattr(additive_attention, "PAIRS", 1000)
    layer = Lookback(6, 5)
    with torch.no_grad(), Counter() as counter:
        layer(noise(2, length, 6))
    assert counter.contraction == 2 * layer.flops(length).contraction
    assert counter.contraction == 2 * (length * (16 * 36 + 2 * 72 + 4 * 30) + length * (length - 1) // 2 * (2 * 5 + 2 * 6))


@pytest.mark.parametrize("cls", [Recurrence, lambda dim: Lookback(dim, 4)])
def test_sixteen_thousand_positions(cls):
    torch.manual_seed(0)
    layer, x = cls(4), noise(1, 16_384, 4)
    with torch.no_grad():
        assert layer(x).isfinite().all()
