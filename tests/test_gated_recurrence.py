"""RG-LRU and minGRU: worked numbers, fast against slow, the blocks against loops, initial weights, cost, strong decays."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from architectures.linear_rnn import LRU, RGLRU, LinearRNN, MinGRU
from architectures.ops.gated_recurrence import min_gru, min_gru_definition, rg_lru, rg_lru_definition
from lab.conformance import check
from lab.counter import Counter
from lab.laws.subject import noise
from lab.model import count_parameters

LENGTHS = [1, 7, 33]


def double(*shape: int, seed: int = 0) -> Tensor:
    return noise(*shape, dtype=torch.float64, seed=seed)


def close(got: Tensor, want: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(got, want, rtol=0, atol=tolerance)


def series(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)[None, :, None]


@pytest.mark.parametrize("function", [rg_lru, rg_lru_definition])
def test_rg_lru_worked_out(function):
    """softplus(-2) = 0.126928; the first position has no factor."""
    decay = torch.tensor([-2.0]).double()
    h = function(series(1, 2, -1, 0.5), series(0, 1, -1, 2), series(1, 0, 2, -2), decay, None)
    close(h, series(0.73105858, 1.22742943, 0.36271064, 0.20268998), 1e-8)


@pytest.mark.parametrize("function", [min_gru, min_gru_definition])
def test_min_gru_worked_out(function):
    h = function(series(0, 1, -1, 2), series(0.5, -1, 2, 0), torch.tensor([[0.5]]).double())
    close(h, series(0.75, 0.39831800, 0.96354734, 0.55525620), 1e-8)


def compare(fast, slow, inputs: list[Tensor]) -> None:
    for tensor in inputs:
        tensor.requires_grad_()
    got, want = fast(*inputs), slow(*inputs)
    close(got, want, 1e-11)
    weights = noise(*got.shape, dtype=torch.float64, seed=9)
    pairs = zip(*(torch.autograd.grad((y * weights).sum(), inputs) for y in (got, want)), strict=True)
    for one, other in pairs:
        close(one, other, 1e-9)


@pytest.mark.parametrize("length", [1, 2, 37, 4096])
@pytest.mark.parametrize("fresh", [True, False])
def test_rg_lru_fast_is_slow(length, fresh):
    x, r, i = (double(2, length, 3, seed=seed) for seed in range(3))
    state = [] if fresh else [double(2, 3, seed=4)]
    last = [None] if fresh else []
    inputs = [x, r, i, double(3, seed=3) - 3, *state]
    compare(lambda *given: rg_lru(*given, *last), lambda *given: rg_lru_definition(*given, *last), inputs)


@pytest.mark.parametrize("length", [1, 2, 37, 4096])
def test_min_gru_fast_is_slow(length):
    compare(min_gru, min_gru_definition, [double(2, length, 3), double(2, length, 3, seed=1), double(2, 3, seed=2)])


def test_g_is_continuous_and_positive():
    k = torch.tensor([-1e-9, 0.0, 1e-9, -40.0]).double()
    h = min_gru(torch.full((1, 4, 1), 50.0).double(), k[None, :, None], torch.zeros(1, 1).double())
    close(h[0, :3, 0], torch.tensor([0.5, 0.5, 0.5]).double(), 1e-8)
    assert h[0, 3, 0] > 0


def by_blocks(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.cat([part @ w for part, w in zip(x.chunk(len(weight), -1), weight, strict=True)], -1) + bias


@pytest.mark.parametrize("length", [1, 3, 11])
def test_griffin_block_is_its_equation(length):
    torch.manual_seed(0)
    layer, x = RGLRU(6, 8, 2).double(), double(2, length, 6)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.1 * double(*parameter.shape)
        branch, driven = F.linear(x, layer.inputs.weight, layer.inputs.bias).chunk(2, -1)
        mixed = layer.conv.bias.expand_as(driven).clone()
        for t in range(length):
            for lag in range(min(4, t + 1)):
                mixed[:, t] += layer.conv.weight[:, 3 - lag] * driven[:, t - lag]
        gates = [by_blocks(mixed, gate.weight, gate.bias) for gate in (layer.recurrence_gate, layer.input_gate)]
        h = rg_lru_definition(mixed, *gates, layer.decay, None)
        gelu = branch / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (branch + 0.044715 * branch**3)))
        close(layer(x), F.linear(gelu * h, layer.out.weight, layer.out.bias))


def test_min_gru_layer_is_its_equation():
    torch.manual_seed(0)
    layer, x = MinGRU(6, 5).double(), double(2, 11, 6)
    with torch.no_grad():
        z, k = F.linear(x, layer.inputs.weight, layer.inputs.bias).chunk(2, -1)
        close(layer(x), min_gru_definition(z, k, torch.zeros(2, 5).double()) @ layer.out.weight.T)


def test_rg_lru_initial_weights():
    torch.manual_seed(0)
    layer = RGLRU(64, 40_000, 400)
    radius = torch.exp(-F.softplus(layer.decay.double()))
    assert radius.min() >= 0.9 - 1e-6
    assert radius.max() <= 0.999 + 1e-6
    assert radius.square().mean().item() == pytest.approx((0.9**2 + 0.999**2) / 2, rel=2e-3)
    assert radius.square().var().item() == pytest.approx((0.999**2 - 0.9**2) ** 2 / 12, rel=0.03)
    for weight, fan_in in ((layer.inputs.weight, 64), (layer.out.weight, 40_000), (layer.input_gate.weight, 100)):
        assert weight.std().item() == pytest.approx(fan_in**-0.5, rel=0.02)
    assert not any(bias.any() for name, bias in layer.named_parameters() if name.endswith("bias") and "conv" not in name)


def test_without_gates_it_is_the_lru_and_nothing_else():
    """The same draws as before there were gates: nu, theta, B, C, D, then the channel mixer's."""
    torch.manual_seed(0)
    model = LinearRNN(8, 1)
    torch.manual_seed(0)
    layer = LRU(8, 8, 0.9, 0.999, 2 * math.pi)
    gate = nn.Linear(8, 22, bias=False)
    state = model.state_dict()
    for name, value in layer.state_dict().items():
        assert torch.equal(state[f"layers.0.inner.{name}"], value)
    assert torch.equal(state["layers.1.inner.gate.weight"], gate.weight)


@pytest.mark.parametrize(("dim", "depth"), [(16, 1), (40, 3)])
def test_parameter_counts(dim, depth):
    swiglu = 3 * dim * math.ceil(8 * dim / 3)
    width = {16: 24, 40: 56}[dim]
    griffin = 3 * dim * width + 2 * width + dim + 5 * width + 2 * (width**2 // 4 + width) + width
    counts = {
        LinearRNN(dim, depth, gate="rglru"): griffin + swiglu + 2 * dim,
        LinearRNN(dim, depth, gate="rglru", mlp="none", blocks=8): griffin - width**2 // 4 + dim,
        LinearRNN(dim, depth, gate="mingru", states=10): 3 * dim * 10 + 20 + swiglu + 2 * dim,
    }
    for model, layer in counts.items():
        assert count_parameters(model) == depth * layer + dim


@pytest.mark.parametrize("dim", [16, 24, 40, 48, 56, 64, 72])
def test_default_blocks_fit_every_width(dim):
    assert LinearRNN(dim, 1, gate="rglru")(noise(1, 3, dim)).shape == (1, 3, dim)


def test_blocks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="blocks=5 must divide the 24 states"):
        LinearRNN(16, 1, gate="rglru", blocks=5)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("causal", [True, False])
def test_mixing(length, causal):
    """Each operation of the equations by name, for one position and state."""
    rg = [
        "bias r",
        "sigmoid",
        "bias i",
        "sigmoid",
        "log a",
        "exp",
        "2 log a",
        "expm1",
        "minus",
        "sqrt",
        "i x",
        "root b",
        "a h",
        "+",
    ]
    mini = ["bias z", "sigmoid", "bias k", "k >= 0", "k + 1/2", "z g", "1 - z", "a h", "+"]
    times = 3 * length * (1 if causal else 2)
    assert LinearRNN(16, 3, gate="rglru", causal=causal).flops(length).mixing == times * 24 * len(rg)
    assert LinearRNN(16, 3, gate="mingru", causal=causal).flops(length).mixing == times * 16 * len(mini)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("make", [lambda: RGLRU(16, 24, 4), lambda: MinGRU(16, 10)])
def test_contractions(length, make):
    layer = make()
    with torch.no_grad(), Counter() as counter:
        layer(noise(3, length, 16))
    assert counter.contraction == 3 * layer.flops(length).contraction


@pytest.mark.parametrize("logit", [-200.0, -30.0, 30.0, 200.0])
def test_sixteen_thousand_positions_with_gates_at_their_ends(logit):
    """Float32: values and gradients stay finite where the decay is 1 (the root's derivative is bounded) and where it is 0."""
    x, gate = noise(1, 16_384, 4), torch.full((1, 16_384, 4), logit)
    for run in (lambda x, g: rg_lru(x, g, g, torch.full((4,), 3.0), None), lambda x, g: min_gru(g, x, torch.zeros(1, 4))):
        inputs = [x.clone().requires_grad_(), gate.clone().requires_grad_()]
        h = run(*inputs)
        h.sum().backward()
        assert h.isfinite().all()
        assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in inputs)


def test_float32_keeps_its_digits_over_16384_positions():
    x, r, i = (double(1, 16_384, 8, seed=seed) for seed in range(3))
    decay = torch.full((8,), -7.0).double()
    exact = rg_lru(x, r, i, decay, None)
    single = rg_lru(x.float(), r.float(), i.float(), decay.float(), None)
    close(single.double(), exact, 1e-4 * exact.abs().max().item())


@pytest.mark.slow
@pytest.mark.parametrize("form", ["gate=rglru", "gate=rglru,blocks=2,mlp=none", "gate=mingru", "gate=mingru,states=10"])
def test_laws(form):
    report = check(f"linear_rnn:{form}")
    assert report.passed, str(report)
