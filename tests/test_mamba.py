"""Mamba: the selective scan and state-space duality against their definitions, the blocks against their equations."""

import math

import pytest
import torch
from test_flops import Number, operations
from torch.nn import functional as F

from architectures.mamba import Dual, Mamba, Selective
from architectures.ops import native
from architectures.ops.linear_attention import linear_attention, linear_attention_definition, linear_attention_flops
from architectures.ops.selective_scan import (
    BLOCK,
    SPAN,
    selective_scan,
    selective_scan_definition,
    selective_scan_flops,
    selective_step,
)
from architectures.ops.short_convolution import short_convolution_definition
from lab.laws.subject import noise
from lab.model import count_parameters, state_size

BATCH, CHANNELS, STATES = 2, 3, 4


@pytest.fixture(params=["compiled", "tensors"])
def form(request, monkeypatch):
    """Both fast forms: the kernel, where numba is installed, and the one in tensors."""
    if request.param == "tensors":
        monkeypatch.setattr(native, "kernels", lambda *_: None)
    elif native.kernels("selective_scan", torch.zeros(1)) is None:
        pytest.skip("numba is not installed")
    return request.param


def inputs(length, seed=0, step=1.0, channels=CHANNELS, states=STATES):
    """x, delta, A, B, C and a state."""
    rng = torch.Generator().manual_seed(seed)
    shapes = [(BATCH, length, channels)] * 2 + [(channels, states)] + [(BATCH, length, states)] * 2 + [(BATCH, channels, states)]
    x, delta, A, B, C, state = (torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes)
    return [t.requires_grad_() for t in (x, step * delta.abs(), -A.exp(), B, C, state)]


def assert_same_map(length, **options):
    ours, theirs = inputs(length, **options), inputs(length, **options)
    got, want = selective_scan(*ours), selective_scan_definition(*theirs)
    weights = [noise(*t.shape, dtype=torch.float64, seed=i) for i, t in enumerate(want)]
    for result in (got, want):
        sum((t * w).sum() for t, w in zip(result, weights, strict=True)).backward()
    for one, other in zip([*got, *(t.grad for t in ours)], [*want, *(t.grad for t in theirs)], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11 * max(other.abs().max().item(), 1e-6))


@pytest.mark.parametrize("length", [1, 2, 17, SPAN - 1, SPAN, SPAN + 1, 3 * SPAN + 5])
def test_selective_scan_is_its_definition(form, length):
    assert_same_map(length)


@pytest.mark.parametrize("channels", [1, 2 * BLOCK + 3])
@torch.no_grad()
def test_one_position_is_the_scan_and_what_is_around_it(channels):
    """Steps of all sizes, also where softplus is its input; and nothing is written to the state before."""
    x, raw, A, B, C, state = inputs(1, channels=channels)
    raw, gate, bias, D = 30 * raw, x.flip(0), x[0, 0] - 1, x[1, 0]
    before = state.clone()
    got = selective_step(x, raw, bias, A, B, C, D, gate, state)
    if native.kernels("selective_scan", x) is None:
        assert got is None
        return
    assert got is not None
    y, h = selective_scan_definition(x, F.softplus(raw + bias), A, B, C, state)
    torch.testing.assert_close(got[0], (y + D * x) * F.silu(gate), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got[1], h, rtol=1e-12, atol=1e-12)
    assert torch.equal(state, before)
    with torch.enable_grad():
        assert selective_step(x, raw, bias, A, B, C, D, gate, state) is None


@pytest.mark.parametrize(("channels", "states"), [(1, 1), (2 * BLOCK + 3, 16), (32, 5)])
def test_blocks_of_channels(channels, states):
    assert_same_map(37, channels=channels, states=states)


def test_threads_change_nothing():
    def results(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        given = inputs(70, channels=9)
        outputs = selective_scan(*given)
        sum(t.square().sum() for t in outputs).backward()
        torch.set_num_threads(before)
        return [*outputs, *(t.grad for t in given)]

    assert all(torch.equal(one, two) for one, two in zip(results(1), results(2), strict=True))


def test_selective_scan_is_its_definition_at_4096(form):
    with torch.no_grad():
        given = inputs(4096, step=0.01)
        for got, want in zip(selective_scan(*given), selective_scan_definition(*given), strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-11 * want.abs().max().item())


@pytest.mark.slow
def test_gradients_at_4096(form):
    assert_same_map(4096, step=0.01)


@pytest.mark.parametrize("step", [1e-3, 1e3])
def test_float32_over_16384_steps(form, step):
    exact = [t.detach() for t in inputs(16_384, step=step)]
    single = [t.float().requires_grad_() for t in exact]
    want, _ = selective_scan(*exact)
    got, _ = selective_scan(*single)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=2e-5 * want.abs().max().item())
    got.square().mean().backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in single)


def test_the_expanded_state_is_never_whole(form):
    """No tensor that the backward pass keeps is larger than the inputs, a 16th of the states of 16,384 positions."""
    largest, length, width = 0, 16_384, 16

    def keep(tensor):
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y, _ = selective_scan(*inputs(length, channels=width, states=width))
        y.sum().backward()
    assert largest <= BATCH * width * length


def test_selective_scan_toy():
    """One channel of two states, worked out by hand (facts, section 5.3); D = 1 adds x."""
    x, delta = (torch.tensor(row, dtype=torch.float64)[None, :, None] for row in ([1, 2, -1, 0.5], [0.1, 0.5, 1, 0.2]))
    B, C = (
        torch.tensor([rows], dtype=torch.float64)
        for rows in ([(1, 0), (0.5, 1), (1, 1), (0, 2)], [(1, 1), (1, -1), (0.5, 0.5), (2, 1)])
    )
    y, _ = selective_scan(x, delta, torch.tensor([[-1.0, -2.0]]).double(), B, C, torch.zeros(1, 1, 2).double())
    want = torch.tensor([1.1, 1.56065307, -1.82920599, -1.17933268]).double()
    torch.testing.assert_close((y + x)[0, :, 0], want, rtol=0, atol=1e-7)


def test_duality():
    """With heads of one channel, one state and one A, version 2 is the scan of version 1, and masked attention."""
    rng = torch.Generator().manual_seed(0)
    x, delta, B, C = (torch.randn(1, 70, 1, generator=rng, dtype=torch.float64) for _ in range(4))
    delta, A = delta.abs(), torch.tensor([[-0.3]], dtype=torch.float64)
    scanned, _ = selective_scan(x, delta, A, B, C, torch.zeros(1, 1, 1).double())
    shape = (C[:, :, None], B[:, :, None], (delta * x)[:, :, None], A[0] * delta)
    attended, _ = linear_attention(*shape, torch.zeros(1, 1, 1, 1).double())
    sums = (A[0] * delta)[0, :, 0].cumsum(0)
    mask = torch.exp(sums[:, None] - sums).tril()
    masked = (mask * (C[0] @ B[0].T)) @ (delta * x)[0]
    torch.testing.assert_close(attended[:, :, 0], scanned, rtol=0, atol=1e-12)
    torch.testing.assert_close(masked, scanned[0], rtol=0, atol=1e-12)


# blocks against their equations


def softplus(x):
    return torch.log1p(x.exp())


def first(layer: Selective, x):
    inner = 2 * layer.dim
    u, z = layer.into(x).split([inner, inner], -1)
    recent, state = layer.init_state(len(x))
    u = F.silu(short_convolution_definition(u, layer.convolution.weight, layer.convolution.bias, recent))
    low, B, C = layer.select(u).split([layer.rank, layer.states, layer.states], -1)
    y, _ = selective_scan_definition(u, softplus(layer.delta(low)), -layer.log_A.exp(), B, C, state)
    return layer.out((y + layer.D * u) * F.silu(z))


def second(layer: Dual, x):
    inner, n = 2 * layer.dim, layer.states
    z, u, B, C, delta = layer.into(x).split([inner, inner, n, n, layer.heads], -1)
    recent, state = layer.init_state(len(x))
    mixed = torch.cat([u, B, C], -1)
    mixed = F.silu(short_convolution_definition(mixed, layer.convolution.weight, layer.convolution.bias, recent))
    u, B, C = mixed.split([inner, n, n], -1)
    u, delta = u.unflatten(-1, (layer.heads, layer.width)), softplus(delta + layer.delta_bias)
    decay = torch.exp(-layer.log_A.exp() * delta)[..., None]
    B, C = (t[:, :, None].expand(-1, -1, layer.heads, -1) for t in (B, C))
    y, _ = linear_attention_definition(C, B, delta[..., None] * u, decay, state)
    y = (y + layer.D[:, None] * u).flatten(-2) * F.silu(z)
    return layer.out(y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.norm.weight)


@pytest.mark.parametrize(
    ("make", "equations"), [(lambda: Selective(12, 5, 2), first), (lambda: Dual(12, 5, 8, 2), second)], ids=["1", "2"]
)
def test_blocks_are_their_equations(make, equations):
    torch.manual_seed(0)
    layer, x = make().double(), noise(2, 45, 12, dtype=torch.float64)
    torch.testing.assert_close(layer(x), equations(layer, x), rtol=0, atol=1e-10)


# sizes, initial weights, errors


def test_parameters_and_states():
    dim, rank, n = 48, 3, 16
    first = 6 * dim**2 + 2 * dim * (4 + 1) + 2 * dim * (rank + 2 * n) + 2 * dim * (rank + 1) + 2 * dim * n + 2 * dim
    second = 6 * dim**2 + dim * (2 * n + 4) + 5 * (2 * dim + 2 * n) + 3 * 4 + 2 * dim
    for version, layer in {1: first, 2: second}.items():
        with torch.device("meta"):
            model = Mamba(dim, 3, version=version, states=n, width=24)
        assert count_parameters(model) == 3 * (layer + dim) + dim
        convolved = 2 * dim if version == 1 else 2 * dim + 2 * n
        assert state_size(model, 10) == 3 * (2 * dim * n + 3 * convolved)


def test_default_widths():
    assert [Mamba(dim, 1).layers[0].inner.width for dim in (16, 24, 40, 768)] == [32, 48, 40, 64]


@pytest.mark.parametrize("version", [1, 2])
def test_initial_weights(version):
    torch.manual_seed(0)
    layer = Selective(512, 16, 4) if version == 1 else Dual(1024, 1, 1, 4)
    bias = layer.delta.bias if isinstance(layer, Selective) else layer.delta_bias
    step, A = F.softplus(bias), layer.log_A.exp()
    assert step.min() > 0.00099
    assert step.max() < 0.101
    assert step.log().mean().item() == pytest.approx(math.log(0.01), abs=0.15)
    assert step.log().std().item() == pytest.approx(math.log(100) / math.sqrt(12), rel=0.05)
    assert (layer.D == 1).all()
    if isinstance(layer, Selective):
        torch.testing.assert_close(A, torch.arange(1.0, 17).expand_as(A))
        assert layer.delta.weight.abs().max().item() == pytest.approx(32**-0.5, rel=0.01)
    else:
        assert A.min() >= 1
        assert A.max() <= 16
        assert A.mean().item() == pytest.approx(8.5, rel=0.03)
    bound = 1 / math.sqrt(layer.out.in_features) / 2  # torch's, over the root of four layers
    assert layer.out.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert not any(tuning.decay for tuning in layer.tuned.values())


@pytest.mark.parametrize("width", [-1, 5])
def test_a_width_that_does_not_fit_is_refused(width):
    with pytest.raises(ValueError, match="width="):
        Mamba(16, 1, width=width)


# operations


def selective_steps(length, channels, states):
    """Reading h is a contraction."""
    for _ in range(length * channels):
        driven = Number() * Number()
        for _ in range(states):
            decay, h = (Number() * Number()).function(), Number()
            decay * h + driven * Number()


@pytest.mark.parametrize("length", [1, 7, 33])
def test_mixing(length):
    inner, heads = 48, 1
    scan = selective_scan_flops(length, inner, 16)
    assert scan.mixing == operations(selective_steps, length, inner, 16)
    assert Mamba(24, 2, version=1).flops(length).mixing == 2 * (scan.mixing + 4 * length * inner)
    attention = linear_attention_flops(length, heads, 128, 48, groups=1)
    assert Mamba(24, 2).flops(length).mixing == 2 * (attention.mixing + 3 * length * (inner + heads))
