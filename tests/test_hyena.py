"""Hyena: its convolution and layer against their definitions, initialisation, operations, long inputs, limits."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from architectures.backbone import LengthError
from architectures.hyena import Hyena, Operator, TableOperator
from architectures.ops import turning
from architectures.ops.long_convolution import long_convolution, long_convolution_definition
from architectures.ops.scan import scan_definition
from architectures.ops.short_convolution import short_convolution_definition
from lab import optimizers
from lab.counter import Counter
from lab.laws.subject import noise
from lab.model import count_parameters, state_size
from lab.recipe import Recipe

LONG = 16_384


def operator(
    dim: int = 4, order: int = 2, max_length: int = 50, *, bands: int = 2, width: int = 8, table: bool = False
) -> Operator:
    torch.manual_seed(0)
    return (TableOperator if table else Operator)(dim, order, max_length, bands, width, 10.0)


@pytest.mark.parametrize("length", [1, 2, 7, 61, 1001, 4096])
@pytest.mark.parametrize("smallest", [1, 10**9])
def test_convolution_is_its_definition(length, smallest, monkeypatch):
    """Values, and gradients with respect to filters and inputs; turned by a kernel and by torch."""
    monkeypatch.setattr(turning, "SMALLEST", smallest)
    given = [noise(2, length, 3, dtype=torch.float64), noise(3, length, dtype=torch.float64, seed=1)]
    ours, theirs = ([t.clone().requires_grad_() for t in given] for _ in range(2))
    got, want = long_convolution(*ours), long_convolution_definition(*theirs)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-10)
    weight = noise(2, length, 3, dtype=torch.float64, seed=2)
    for slope, wanted in zip(
        torch.autograd.grad((got * weight).sum(), ours), torch.autograd.grad((want * weight).sum(), theirs), strict=True
    ):
        torch.testing.assert_close(slope, wanted, rtol=0, atol=1e-10)


def test_a_geometric_filter_is_a_recurrence():
    decay, u = torch.tensor([0.9, -0.5, 1.0]).double(), noise(2, 77, 3, dtype=torch.float64)
    kernel = decay[:, None] ** torch.arange(77)
    want = scan_definition(decay, u, torch.zeros(2, 3).double())
    torch.testing.assert_close(long_convolution(u, kernel), want, rtol=0, atol=1e-12)


def filters_by_hand(layer: Operator, length: int) -> list[Tensor]:
    """h of each convolution, (dim, length), from the equations, position by position."""
    weights = dict(layer.named_parameters())
    rows = []
    for i in range(length):
        t = i / (layer.max_length - 1)
        bands = [1e-4 + b * (layer.bands - 1 - 1e-4) / max(layer.bands - 1, 1) for b in range(layer.bands)]
        angles = [2 * math.pi * f * i / layer.max_length for f in bands]
        z = torch.tensor([t, *map(math.cos, angles), *map(math.sin, angles)], dtype=torch.float64)
        for n in range(3):
            z = torch.sin(weights["frequency"] * F.linear(z, weights[f"network.{n}.weight"], weights[f"network.{n}.bias"]))
        channels = (layer.order - 1) * layer.dim
        spacing = (15.350567286626974 - 3.0701134573253944) / (channels - 1)
        rates = [3.0701134573253944 + spacing * channel for channel in range(channels)]
        window = torch.tensor([math.exp(-rate * t) for rate in rates], dtype=torch.float64)
        rows.append(F.linear(z, weights["network.3.weight"]) * window)
    return [torch.stack(rows)[:, o :: layer.order - 1].T for o in range(layer.order - 1)]


def layer_by_hand(layer: Operator, x: Tensor) -> Tensor:
    mixed = layer.inputs(x)
    mixed = short_convolution_definition(mixed, layer.short.weight, layer.short.bias, mixed.new_zeros(len(x), 2, mixed.shape[2]))
    *gates, v = mixed.split(layer.dim, -1)
    for o, h in enumerate(filters_by_hand(layer, x.shape[1])):
        v = gates.pop() * v
        v = long_convolution_definition(v, h) + layer.D[o :: layer.order - 1] * v
    return layer.out(gates.pop() * v)


@pytest.mark.parametrize("length", [1, 33, 67])
@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("bands", [1, 3])
def test_the_layer_is_its_equations(length, order, bands):
    """Values and all gradients, beyond max_length too."""
    layer = operator(order=order, bands=bands).double()
    layer.rates = torch.linspace(math.log(100) / 1.5, math.log(100) / 0.3, layer.channels, dtype=torch.float64)
    torch.nn.init.normal_(layer.frequency)
    x = noise(2, length, 4, dtype=torch.float64).requires_grad_()
    slopes = []
    for y in (layer(x), layer_by_hand(layer, x)):
        slopes.append([y, *torch.autograd.grad((y * noise(*y.shape, dtype=y.dtype, seed=1)).sum(), [x, *layer.parameters()])])
    for got, want in zip(*slopes, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10 * want.abs().max().item())


def test_gradients_pass_through_the_state():
    layer, x = operator(order=3).double(), noise(2, 40, 4, dtype=torch.float64).requires_grad_()
    state, pieces = layer.init_state(2), []
    for piece in x.split([13, 1, 0, 26], 1):
        y, state = layer.stream(piece, state)
        pieces.append(y)
    weight = noise(2, 40, 4, dtype=torch.float64, seed=1)
    got, want = (torch.autograd.grad((y * weight).sum(), [x, *layer.parameters()]) for y in (torch.cat(pieces, 1), layer(x)))
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10 * other.abs().max().item())


def test_filters_start_as_published():
    """Time from 0 to 1; window rates linear from 3.07 to 15.35; w, D and the network's weights."""
    layer = operator(dim=2000, order=3, max_length=100, width=64)
    rates = layer.get_buffer("rates")
    assert rates[0].item() == pytest.approx(3.07, abs=5e-3)
    assert rates[-1].item() == pytest.approx(15.35, abs=5e-3)
    torch.testing.assert_close(rates.diff(), (rates[-1] - rates[0]).expand(3999) / 3999, rtol=0, atol=1e-5)
    assert (layer.frequency == 10).all()
    assert layer.D.mean().item() == pytest.approx(0, abs=0.1)
    assert layer.D.std().item() == pytest.approx(1, rel=0.05)
    for linear, fan_in in zip(layer.network, (5, 64, 64, 64), strict=True):
        bound = fan_in**-0.5
        assert linear.weight.abs().max().item() <= bound
        assert linear.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    window = torch.exp(-1.5 * rates[0]), torch.exp(-0.3 * rates[-1])
    torch.testing.assert_close(torch.stack(window), torch.full((2,), 0.01))


def test_a_table_starts_as_the_formula():
    fixed, learned = operator(max_length=40), operator(max_length=40, table=True)
    assert isinstance(learned, TableOperator)
    assert learned.table.shape == (40, 5)
    assert learned.table[[0, -1], 0].tolist() == [0, 1]
    x = noise(2, 40, 4)
    torch.testing.assert_close(learned(x), fixed(x), rtol=0, atol=0)
    learned(x).sum().backward()
    assert learned.table.grad is not None
    assert learned.table.grad.all()


@pytest.mark.parametrize("positions", ["fixed", "learned"])
def test_what_trains_in_its_own_way(positions):
    model = Hyena(16, 2, positions=positions, mlp="none")
    groups = {
        p: (g["lr"], g["weight_decay"]) for g in optimizers.groups(Recipe(lr=1.0, weight_decay=0.5), model) for p in g["params"]
    }
    for name, parameter in model.named_parameters():
        table, decays = name.endswith("table"), parameter.ndim == 2 and not name.endswith("table") and "network" not in name
        assert groups[parameter] == (0.01 if table else 1, 0.5 if decays else 0), name


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("positions", ["fixed", "learned"])
@pytest.mark.parametrize("causal", [True, False])
def test_parameters(order, positions, causal):
    """A layer: two projections and three taps with their biases; the network, w, D and a table; a norm of each."""
    dim, depth, width, features, rows = 24, 3, 16, 7, 30
    wide, channels = (order + 1) * dim, (order - 1) * dim
    layer = wide * (dim + 1) + dim * (dim + 1) + wide * (3 + 1)
    layer += width * (features + 1) + 2 * width * (width + 1) + channels * width + width + channels
    layer += rows * features if positions == "learned" else 0
    settings = {"order": order, "positions": positions, "max_length": rows, "bands": 3, "width": width, "mlp": "none"}
    expected = depth * ((1 if causal else 2) * layer + dim) + dim
    assert count_parameters(Hyena(dim, depth, causal=causal, **settings)) == expected


def test_projections_of_order_two_cost_eight_squares():
    """Facts' 8 d^2 and 18 d of contractions for each position."""
    assert Hyena(24, 1, mlp="none").flops(10).contraction == 10 * (8 * 24**2 + 18 * 24)


def mixing_by_hand(length, dim, order, bands, width, table):
    """One position, filter and spectrum at a time: of a sequence, and what a batch shares; its contractions."""
    reads, products, network = 1 + 2 * bands, 0, 0
    for _ in range(3):
        products += 2 * reads * width
        network += 3 * width  # bias, w, sine
        reads = width
    channels = (order - 1) * dim
    shared = length * (1 + network + (0 if table else bands * 3) + 3 * channels)  # rate times t, exponential, product
    products += 2 * width * channels
    transform = round(2.5 * 2 * length * math.log2(2 * length))
    own = length * channels * 2 + channels * (2 * transform + 6 * (length + 1))  # D v, added
    return own, shared + channels * transform, length * products


@pytest.mark.parametrize("length", [1, 7, 33, 1000])
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("positions", ["fixed", "learned"])
@pytest.mark.parametrize("causal", [True, False])
def test_mixing(length, order, positions, causal):
    model = Hyena(16, 3, causal=causal, order=order, positions=positions, bands=4, width=24)
    own, shared, products = mixing_by_hand(length, 16, order, 4, 24, positions == "learned")
    cost, times = model.flops(length), 3 * (1 if causal else 2)
    assert (cost.mixing, cost.shared.mixing, cost.shared.contraction) == (times * own, times * shared, times * products)


def test_ffts_are_those_counted():
    """Three real ones of twice the length for each channel of each of two layers, as torch executes them."""
    with torch.no_grad(), Counter() as counter:
        Hyena(8, 2, order=3)(noise(1, 61, 8))
    assert counter.mixing == 2 * 16 * 3 * round(2.5 * 122 * math.log2(122))


def test_filters_are_made_once_for_a_batch():
    layer = Hyena(8, 1)
    costs = []
    for batch in (1, 5):
        with torch.no_grad(), Counter() as counter:
            layer(noise(batch, 33, 8))
        costs.append(counter.mixing)
    assert costs[1] * 3 == costs[0] * (2 * 5 + 1)


@pytest.mark.parametrize("order", [2, 3])
def test_state_size(order):
    """Two inputs of the short convolution, and all inputs of the long ones."""
    with torch.device("meta"):
        model = Hyena(16, 2, order=order)
    assert state_size(model, 40) == 2 * 16 * (2 * (order + 1) + 40 * (order - 1))


@pytest.mark.parametrize("max_length", [1024, LONG])
def test_long_inputs_stay_exact(max_length):
    torch.manual_seed(0)
    model = Hyena(8, 1, max_length=max_length, width=16, mlp="none")
    x = noise(1, LONG, 8)
    y = model(x)
    y.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    exact = model.double()(x.double())
    assert (y - exact).abs().max() < 1e-3 * exact.abs().max()


def test_the_long_convolution_is_not_rounded_under_autocast():
    layer, x = operator(), noise(2, 20, 4)
    seen = []
    layer.out.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y, (_, (past,)) = layer.stream(x, layer.init_state(2))
        mixed = layer.short(layer.inputs(x)).float()
    outer, gate, v = mixed.chunk(3, -1)
    assert y.dtype == torch.bfloat16
    assert torch.equal(past, gate * v)
    with torch.no_grad():
        want = outer * (layer.D * past + long_convolution_definition(past, layer.filters(20)[0]))
    torch.testing.assert_close(seen[0], want, rtol=0, atol=1e-6)


def test_learned_positions_come_to_an_end():
    model, x = Hyena(8, 1, positions="learned", max_length=20), noise(1, 21, 8)
    model(x[:, :20])
    with pytest.raises(LengthError, match=r"21 positions, but max_length=20 are learned"):
        model(x)
    _, state = model.stream(x[:, :20], model.init_state(1))
    with pytest.raises(LengthError, match=r"21 positions, but max_length=20 are learned"):
        model.stream(x[:, 20:], state)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": 1}, "order=1 must be 2 or more"),
        ({"max_length": 1}, "max_length=1 must be 2 or more"),
        ({"bands": 0}, "bands=0 must be 1 or more"),
        ({"width": 0}, "width=0 must be 1 or more"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        Hyena(8, 1, **settings)
