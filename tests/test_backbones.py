"""Each backbone against its equations, written again as loops; and its initial weights against their published law."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from architectures.backbone import LengthError, SequenceMap
from architectures.linear_rnn import LRU, LinearRNN
from architectures.lstm import LSTM, Recurrence
from architectures.ops.attention import Attention
from architectures.ops.positions import rotate
from architectures.transformer import Transformer
from lab.laws.subject import noise
from lab.model import count_parameters


def close(got: Tensor, want: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(got, want, rtol=0, atol=tolerance)


def double(*shape: int, seed: int = 0) -> Tensor:
    return noise(*shape, dtype=torch.float64, seed=seed)


# positions


def test_rotary_positions():
    """x = (1, 2, 3, 4) at position 3 in the half-split pairing, worked out by hand."""
    turned = rotate(torch.tensor([[1.0, 2.0, 3.0, 4.0]]).double(), 3)
    close(turned, torch.tensor([[-1.413353, 1.879118, -2.828857, 4.058191]]).double(), 1e-6)


def test_rotary_scores_depend_on_the_distance_only():
    q, k = double(1, 8), double(1, 8, seed=1)
    scores = [(rotate(q, start + 5) * rotate(k, start)).sum() for start in (0, 3, 1000)]
    close(torch.stack(scores), scores[0].expand(3), 1e-10)
    assert (rotate(q, 6) * rotate(k, 0)).sum() != pytest.approx(scores[0].item(), abs=1e-6)
    close(rotate(q, 77).norm(), q.norm())


def test_learned_positions_end_where_the_table_does():
    model = Transformer(8, 1, heads=2, positions="learned", max_length=5)
    model(noise(1, 5, 8))
    with pytest.raises(LengthError, match="6 positions, but max_length=5"):
        model(noise(1, 6, 8))
    _, state = model.stream(noise(1, 4, 8), model.init_state(1))
    with pytest.raises(LengthError, match="6 positions"):
        model.stream(noise(1, 2, 8), state)


# transformer


def attention_by_loops(layer: Attention, x: Tensor) -> Tensor:
    """softmax(q k / sqrt(width)) v for one row, one query and one head at a time."""
    length, dim = x.shape
    width = dim // layer.heads
    bias = torch.zeros(3 * dim, dtype=x.dtype) if layer.qkv.bias is None else layer.qkv.bias
    q, k, v = (F.linear(x, layer.qkv.weight, bias)[:, i * dim : (i + 1) * dim] for i in range(3))
    out = torch.zeros_like(x)
    for head in range(layer.heads):
        part = slice(head * width, (head + 1) * width)
        queries, keys, values = q[:, part], k[:, part], v[:, part]
        if layer.rope:
            queries, keys = (torch.cat([rotate(t[p : p + 1], p) for p in range(length)]) for t in (queries, keys))
        for t in range(length):
            seen = range(t + 1) if layer.causal else range(length)
            powers = [math.exp(float(queries[t] @ keys[s]) / math.sqrt(width)) for s in seen]
            for power, s in zip(powers, seen, strict=True):
                out[t, part] += power / sum(powers) * values[s]
    return F.linear(out, layer.out.weight, layer.out.bias)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("rope", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_attention_is_its_equation(causal, rope, bias):
    torch.manual_seed(0)
    layer, x = Attention(12, 3, causal=causal, rope=rope, bias=bias).double(), double(2, 9, 12)
    with torch.no_grad():
        close(layer(x), torch.stack([attention_by_loops(layer, row) for row in x]))


def rms(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def test_llama_block_is_its_equation():
    """x + attention(norm x), then x + out(silu(gate) up) of its norm; a norm at the end. Norms start at one."""
    torch.manual_seed(0)
    model, x = Transformer(12, 1, heads=3).double(), double(1, 9, 12)
    attention, mlp = (layer.inner for layer in model.layers)
    with torch.no_grad():
        h = x + attention_by_loops(attention, rms(x)[0])
        gate, up = rms(h) @ mlp.gate.weight.T, rms(h) @ mlp.up.weight.T
        h = h + (gate * torch.sigmoid(gate) * up) @ mlp.out.weight.T
        close(model(x), rms(h))


def test_gpt2_block_is_its_equation():
    torch.manual_seed(0)
    model, x = Transformer(12, 1, heads=3, preset="gpt2", max_length=9).double(), double(1, 9, 12)
    attention, mlp = (layer.inner for layer in model.layers)

    def norm(y: Tensor) -> Tensor:
        return (y - y.mean(-1, keepdim=True)) / (y.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()

    with torch.no_grad():
        h = x + model.table
        h = h + attention_by_loops(attention, norm(h)[0])
        up = norm(h) @ mlp.up.weight.T
        up = up / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))
        close(model(x), norm(h + up @ mlp.out.weight.T))


def test_gpt2_initial_weights():
    torch.manual_seed(0)
    model = Transformer(256, 8, preset="gpt2")
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert (parameter == (1 if name.endswith("weight") else 0)).all()
        elif name.endswith("bias"):
            assert (parameter == 0).all()
        else:
            std = 0.02 / math.sqrt(16) if name.endswith("out.weight") else 0.02
            assert parameter.std().item() == pytest.approx(std, rel=0.02), name
            assert abs(parameter.mean().item()) < 0.02 * std * 5


@pytest.mark.parametrize(("dim", "depth"), [(16, 1), (24, 3)])
def test_parameter_counts(dim, depth):
    swiglu, states = 3 * dim * math.ceil(8 * dim / 3), 10
    counts = {
        Transformer(dim, depth): 4 * dim**2 + swiglu + 2 * dim,
        LSTM(dim, depth): 8 * dim**2 + 8 * dim + swiglu + 2 * dim,
        LinearRNN(dim, depth, states=states): 4 * dim * states + 3 * states + dim + swiglu + 2 * dim,
        LSTM(dim, depth, causal=False): 2 * (8 * dim**2 + 8 * dim) + swiglu + 2 * dim,
        LSTM(dim, depth, mlp="none"): 8 * dim**2 + 8 * dim + dim,
        LSTM(dim, depth, mlp="gelu", hidden=5): 8 * dim**2 + 8 * dim + 10 * dim + 2 * dim,
    }
    for model, layer in counts.items():
        assert count_parameters(model) == depth * layer + dim
    gpt2 = Transformer(dim, depth, preset="gpt2")
    assert count_parameters(gpt2) == depth * (12 * dim**2 + 13 * dim) + 2 * dim + 1024 * dim


def test_gpt2_small_has_its_published_size():
    """124,439,808 parameters less the token embedding of 50,257 x 768."""
    with torch.device("meta"):
        model = Transformer(768, 12, preset="gpt2", heads=12)
    assert count_parameters(model) == 124_439_808 - 50_257 * 768


@pytest.mark.parametrize("settings", [{"heads": 3}, {"heads": 16}, {"heads": 0}])
def test_heads_that_do_not_fit_are_refused(settings):
    with pytest.raises(ValueError, match="heads="):
        Transformer(16, 1, **settings)


# LSTM


def test_lstm_is_its_equations():
    torch.manual_seed(0)
    layer, x = Recurrence(6).double(), double(2, 9, 6)
    w, u, b = layer.lstm.weight_ih_l0, layer.lstm.weight_hh_l0, layer.lstm.bias_ih_l0 + layer.lstm.bias_hh_l0
    h, c, out = torch.zeros(2, 6).double(), torch.zeros(2, 6).double(), []
    for t in range(9):
        i, f, g, o = (x[:, t] @ w.T + h @ u.T + b).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        out.append(h)
    close(layer(x), torch.stack(out, 1))


def test_lstm_initial_weights():
    torch.manual_seed(0)
    lstm = Recurrence(64).lstm
    for gate in lstm.weight_hh_l0.chunk(4):
        close(gate @ gate.T, torch.eye(64), 1e-5)
    assert 0.99 / 8 < lstm.weight_ih_l0.abs().max() <= 1 / 8
    total = lstm.bias_ih_l0 + lstm.bias_hh_l0
    assert torch.equal(total, torch.tensor([0.0, 1.0, 0.0, 0.0]).repeat_interleave(64))


# linear RNN


def test_lru_is_its_equations():
    torch.manual_seed(0)
    layer, x = LRU(6, 5, 0.9, 0.999, 2 * math.pi).double(), double(2, 40, 6)
    with torch.no_grad():
        size, angle = torch.exp(-torch.exp(layer.nu)), torch.exp(layer.theta)
        decay = torch.complex(size * angle.cos(), size * angle.sin())
        read_in = torch.complex(*layer.B.chunk(2))
        read_out = torch.complex(*layer.C.chunk(2, 1)).conj()
        h, out = torch.zeros(2, 5, dtype=torch.complex128), []
        for t in range(40):
            h = decay * h + layer.gamma.exp() * (x[:, t].to(h.dtype) @ read_in.T)
            out.append((h @ read_out.T).real + layer.D * x[:, t])
        close(layer(x), torch.stack(out, 1))


def test_lru_ring():
    """Squared radii r uniform on the ring: the mean of 1/(1 - r) is log((1 - .81)/(1 - .998001))/(.998001 - .81)."""
    torch.manual_seed(0)
    layer = LRU(1, 100_000, 0.9, 0.999, 2 * math.pi).double()
    decay = layer.decay().detach()
    assert decay.abs().min() >= 0.9 - 1e-6
    assert decay.abs().max() <= 0.999 + 1e-6
    gain = 1 / (1 - decay.abs().square())
    assert gain.mean().item() == pytest.approx(24.2253, rel=0.03)
    assert layer.theta.exp().mean().item() == pytest.approx(math.pi, rel=0.01)
    assert layer.theta.exp().max() <= 2 * math.pi + 1e-5
    torch.testing.assert_close(layer.gamma.exp().square() * gain, torch.ones_like(gain), rtol=2e-3, atol=0)


def test_lru_keeps_white_noise_at_its_size():
    """With gamma each state has the variance of B x, here 1 in all: 1/2 for each of its parts."""
    torch.manual_seed(0)
    layer = LRU(64, 200, 0.9, 0.99, 2 * math.pi)
    with torch.no_grad():
        _, state = layer.stream(noise(64, 1000, 64), layer.init_state(64))
    assert state.square().mean().item() == pytest.approx(0.5, rel=0.1)


def test_lru_cannot_be_trained_unstable():
    torch.manual_seed(0)
    layer = LRU(4, 1000, 0.9, 0.999, 2 * math.pi).double()
    with torch.no_grad():
        layer.nu += 10 * double(1000)
    assert layer.decay().abs().max() < 1


@pytest.mark.parametrize("settings", [{"r_min": 0.99, "r_max": 0.9}, {"r_max": 1.0}, {"r_min": -0.1}])
def test_a_ring_that_is_none_is_refused(settings):
    with pytest.raises(ValueError, match="a ring needs"):
        LinearRNN(8, 1, **settings)


def test_lru_trains_its_recurrence_apart():
    assert {name: (tuning.lr_scale, tuning.decay) for name, tuning in LRU.tuned.items()} == dict.fromkeys(
        ("nu", "theta", "gamma", "B"), (0.25, False)
    )


# the contract


def test_a_map_that_defines_nothing_is_refused():
    class Nothing(SequenceMap):
        def flops(self, length):
            raise NotImplementedError

    with pytest.raises(TypeError, match="Nothing defines none of forward, stream and step"):
        Nothing()
