"""RWKV: fast recurrences against their definitions, layers against equations written again, numbers worked out by hand."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from architectures.ops import native, token_shift, wkv, wkv7
from architectures.ops.token_shift import ChannelMix, Place
from architectures.ops.wkv import LOWEST
from architectures.rwkv import RWKV, TimeMix4, TimeMix5, TimeMix6, TimeMix7
from lab.conformance import check

VERSIONS = [4, 5, 6, 7]
MIXES = {4: TimeMix4, 5: TimeMix5, 6: TimeMix6, 7: TimeMix7}
LENGTHS = [1, 2, 31, 33, 77, pytest.param(4096, marks=pytest.mark.slow)]
LONG = 16_384


def drawn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def stirred(model, seed=0):
    """With every parameter moved from its initial value, as half of the matrices start at zero."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 1 / math.sqrt(parameter.shape[-1]) if parameter.ndim > 1 else 0.3
            parameter += scale * torch.randn(parameter.shape, generator=rng)
    return model


def arguments(version, length, *, batch=2, heads=2, width=4, dtype=torch.float64):
    """Of the recurrence; the last ones are the state."""
    vectors = [drawn(batch, length, heads, width, seed=seed) for seed in range(6)]
    if version == 4:
        k, v, *_ = (x.flatten(2) for x in vectors)
        sums = [drawn(batch, heads * width, seed=seed) for seed in (7, 8, 9)]
        sums = torch.stack([sums[0], sums[1].exp(), sums[2]])
        given = [3 * k, v, drawn(heads * width, seed=10).exp(), drawn(heads * width, seed=11), sums]
    else:
        r, k, v, decay, c, a = vectors
        state = drawn(batch, heads, width, width, seed=7)
        if version in (5, 6):
            given = [r, k, v, -(2 * decay).exp(), drawn(heads, width, seed=8), state]
        else:
            given = [r, -math.exp(-0.5) * torch.sigmoid(decay), k, v, F.normalize(c, dim=-1), torch.sigmoid(a), state]
    return [x.to(dtype).requires_grad_() for x in given]


def read(recurrence, given):
    """Outputs and state; RWKV-4's sums are made independent of the running maximum that they are divided by."""
    if recurrence in (wkv.wkv4, wkv.wkv4_definition):
        y, (a, b, p) = recurrence(*given)
        return y, a * p.exp(), b * p.exp()
    return recurrence(*given)


@pytest.fixture(params=["compiled", "tensors"])
def form(request, monkeypatch):
    """Both fast forms in turn."""
    if request.param == "tensors":
        monkeypatch.setattr(native, "kernels", lambda *_: None)
    elif native.kernels("wkv4", torch.zeros(1)) is None:
        pytest.skip("numba is not installed")
    return request.param


def results(recurrence, version, length, **settings):
    """Outputs, state and the gradients to everything, from a state and with gradients from outputs and state."""
    given = arguments(version, length, **settings)
    if version == 5:
        given[3] = given[3][0, 0].detach().requires_grad_()
    found = read(recurrence, given)
    torch.stack([(x * drawn(*x.shape, seed=20)).sum() for x in found]).sum().backward()
    return [*found, *(x.grad for x in given)]


FORMS = {
    4: (wkv.wkv4, wkv.wkv4_definition),
    5: (wkv.wkv6, wkv.wkv6_definition),
    6: (wkv.wkv6, wkv.wkv6_definition),
    7: (wkv7.wkv7, wkv7.wkv7_definition),
}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_recurrence_is_its_definition(version, length, form):
    for ours, theirs in zip(*(results(recurrence, version, length) for recurrence in FORMS[version]), strict=True):
        bound = 1e-12 if form == "compiled" else 1e-11
        torch.testing.assert_close(ours, theirs, rtol=0, atol=bound * max(1, theirs.abs().max().item()))


@pytest.mark.parametrize("version", VERSIONS)
def test_kernels_do_not_depend_on_threads(version):
    """Bit for bit, also where channels do not fill a block."""
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(results(FORMS[version][0], version, 67, heads=5, width=15))
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(found[0], other, strict=True))


@pytest.mark.parametrize(
    ("version", "fast", "slow"),
    [(4, wkv.wkv4, wkv.wkv4_definition), (6, wkv.wkv6, wkv.wkv6_definition), (7, wkv7.wkv7, wkv7.wkv7_definition)],
)
def test_values_at_4096_positions(version, fast, slow):
    given = [x.detach() for x in arguments(version, 4096)]
    for ours, theirs in zip(read(fast, given), read(slow, given), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11 * theirs.abs().max().item())


@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize(("batch", "length", "dim"), [(2, 1, 5), (3, 9, 70)])
def test_compiled_token_shift_is_its_definition(batch, length, dim, varies, form, monkeypatch):
    """Outputs and all gradients, for shares that change with the position and for constant ones, over blocks of channels."""
    monkeypatch.setattr(token_shift, "SMALLEST", 0)
    x, last = drawn(batch, length, dim), drawn(batch, dim, seed=1)
    mus = [drawn(*((batch, length, dim) if varies else (dim,)), seed=seed) for seed in (2, 3)]
    given = [y.requires_grad_() for y in (x, last, *mus)]
    before = torch.cat([last[:, None], x[:, :-1]], 1)
    found, want = token_shift.moved(x, last, mus), [x * (1 - mu) + before * mu for mu in mus]
    sums = [torch.stack([(y * drawn(*y.shape, seed=4 + i)).sum() for i, y in enumerate(ys)]).sum() for ys in (found, want)]
    ours, theirs = (torch.autograd.grad(total, given) for total in sums)
    for one, other in zip([*found, *ours], [*want, *theirs], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_wkv4_worked_out_by_hand():
    """Weights exp(80) and exp(-2) in one sum: facts of the recurrence, one channel."""
    k, v = (torch.tensor(x).double().view(1, 5, 1) for x in ([1.0, -2, 3, 0, 80], [1, 2, -1, 0.5, 4]))
    zero, one = torch.zeros(1, 1).double(), torch.ones(1).double()
    for recurrence in (wkv.wkv4, wkv.wkv4_definition):
        y, _ = recurrence(k, v, one / math.e, one / 2, torch.stack([zero, zero, zero + LOWEST]))
        want = torch.tensor([1, 1.07585818, -0.8813289, -0.76831319, 4]).double()
        torch.testing.assert_close(y.flatten(), want, rtol=0, atol=1e-7)


def test_wkv7_worked_out_by_hand():
    def rows(*values):
        return torch.tensor(values).double().view(1, 4, 1, 2)

    r, k = rows(1, 0, 1, 0, 0, 1, 0.6, 0.8), rows(1, 0, 0.6, 0.8, 0, 1, 1, 0)
    v, c = rows(1, 2, 3, -1, 0, 1, 2, 2), rows(1, 0, 0.6, 0.8, 0, 1, 0.6, -0.8)
    a, decay = rows(1, 0.5, 0.5, 0.5, 0, 1, 0.9, 0.2), rows(*[0.9, 0.8] * 4).log()
    for recurrence in (wkv7.wkv7, wkv7.wkv7_definition):
        y, state = recurrence(r, decay, k, v, c, a, torch.zeros(1, 1, 2, 2).double())
        want = rows(1, 2, 2.52, 0.84, -0.432, 1.256, 1.813786, 2.520115)
        torch.testing.assert_close(y, want, rtol=0, atol=1e-6)
        matrix = torch.tensor([[3.119744, -0.072576], [2.978048, 0.916608]]).double()
        torch.testing.assert_close(state[0, 0].T, matrix, rtol=0, atol=1e-6)


def test_without_decay_and_bonus_wkv4_is_a_softmax_over_the_past():
    k, v = drawn(1, 50, 3), drawn(1, 50, 3, seed=1)
    zero = torch.zeros(1, 3).double()
    y, _ = wkv.wkv4(k, v, zero[0], zero[0], torch.stack([zero, zero, zero + LOWEST]))
    for t in (0, 1, 49):
        want = (k[:, : t + 1].softmax(1) * v[:, : t + 1]).sum(1)
        torch.testing.assert_close(y[:, t], want, rtol=0, atol=1e-13)


@pytest.mark.parametrize("log_w", [-12.0, 0.0, 10.0])
def test_wkv4_does_not_overflow_at_any_decay(log_w):
    k, v = 30 * drawn(1, LONG, 4), drawn(1, LONG, 4, seed=1)
    zero, one = torch.zeros(1, 4).double(), torch.ones(4).double()
    want, _ = wkv.wkv4(k, v, math.exp(log_w) * one, one, torch.stack([zero, zero, zero + LOWEST]))
    nothing, unit = zero.float(), one.float()
    got, after = wkv.wkv4(k.float(), v.float(), math.exp(log_w) * unit, unit, torch.stack([nothing, nothing, nothing + LOWEST]))
    torch.testing.assert_close(got.double(), want, rtol=0, atol=5e-4)  # a factor near 1, rounded alike 16,384 times
    assert after.isfinite().all()


@pytest.mark.parametrize("strength", [-12.0, 0.0, 5.0, 40.0])
def test_wkv6_does_not_overflow_at_any_decay(strength):
    r, k, v = (drawn(1, LONG, 1, 4, seed=seed) for seed in range(3))
    decay = -(strength + 3 * drawn(1, LONG, 1, 4, seed=3)).exp()
    bonus, state = drawn(1, 4), torch.zeros(1, 1, 4, 4).double()
    want, _ = wkv.wkv6(r, k, v, decay, bonus, state)
    given = [x.float().requires_grad_() for x in (r, k, v, decay, bonus, state)]
    got, after = wkv.wkv6(*given)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-5 * want.abs().max().item())
    (got.sum() + after.sum()).backward()
    assert all(x.grad.isfinite().all() for x in given)


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_wkv7_is_precise_at_the_weakest_and_the_strongest_decay(strength):
    r, _, k, v, c, a, state = (x.detach() for x in arguments(7, LONG, batch=1, heads=1))
    decay = torch.full_like(r, -math.exp(-0.5) * strength - 1e-4)
    want, _ = wkv7.wkv7(r, decay, k, v, c, a, state)
    got, _ = wkv7.wkv7(*(x.float() for x in (r, decay, k, v, c, a, state)))
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-5 * want.abs().max().item())


def layer(version, number=1):
    return stirred(MIXES[version](Place(dim=8, width=4, layer=number, depth=3))).double()


def shift(x, mu):
    before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
    return x * (1 - mu) + before * mu


def heads(x):
    return x.unflatten(-1, (2, 4))


def normed(y, norm):
    """Each head of 4 by itself."""
    y = heads(y)
    y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, correction=0, keepdim=True) + 4e-5).sqrt()
    return y.flatten(-2) * norm.weight + norm.bias


def test_time_mix_4_is_its_equations():
    mix, x = layer(4), drawn(2, 37, 8)
    k, v, r = (w(shift(x, mu)) for w, mu in zip((mix.key, mix.value, mix.receptance), mix.mu, strict=True))
    above = below = torch.zeros(2, 8).double()
    for t, y in enumerate(mix(x).unbind(1)):
        own = (mix.bonus + k[:, t]).exp()
        wkv_t = (above + own * v[:, t]) / (below + own)
        torch.testing.assert_close(y, mix.out(torch.sigmoid(r[:, t]) * wkv_t), rtol=0, atol=1e-12)
        keep, new = (-mix.decay.exp()).exp(), k[:, t].exp()
        above, below = keep * above + new * v[:, t], keep * below + new


@pytest.mark.parametrize("version", [5, 6])
def test_time_mix_5_and_6_are_their_equations(version):
    mix, x = layer(version), drawn(2, 37, 8)
    mus = list(mix.mu)
    decay = mix.decay
    if version == 6:
        low = torch.tanh(shift(x, mix.mu_x) @ mix.mu_down)
        mus = [mu + low[..., 32 * i : 32 * (i + 1)] @ mix.mu_up[i] for i, mu in enumerate(mus)]
        decay = decay + torch.tanh(shift(x, mus.pop()) @ mix.decay_down) @ mix.decay_up
    k, v, r, gate = (w(shift(x, mu)) for w, mu in zip((mix.key, mix.value, mix.receptance, mix.gate), mus, strict=True))
    keep, state = torch.exp(-decay.exp()).expand_as(x), torch.zeros(2, 2, 4, 4).double()
    for t, y in enumerate(mix(x).unbind(1)):
        new = torch.einsum("bhi,bhj->bhij", heads(k[:, t]), heads(v[:, t]))
        seen = torch.einsum("bhi,bhij->bhj", heads(r[:, t]), state + mix.bonus[..., None] * new).flatten(1)
        torch.testing.assert_close(y, mix.out(normed(seen, mix.norm) * F.silu(gate[:, t])), rtol=0, atol=1e-11)
        state = heads(keep[:, t])[..., None] * state + new


@pytest.mark.parametrize("number", [0, 1])
def test_time_mix_7_is_its_equations(number):
    mix, x, first = layer(7, number), drawn(2, 37, 8), drawn(2, 37, 8, seed=1)
    x_r, x_w, x_k, x_v, x_a, x_g = (shift(x, mu) for mu in mix.mu)
    r, k, v = mix.receptance(x_r), mix.key(x_k), mix.value(x_v)

    def rank(low, inner, given):
        return inner(given @ low.down) @ low.up

    keep = torch.exp(-math.exp(-0.5) * torch.sigmoid(mix.decay + rank(mix.decay_rank, torch.tanh, x_w)))
    a = torch.sigmoid(mix.rate + rank(mix.rate_rank, lambda y: y, x_a))
    given = None
    if number:
        share = torch.sigmoid(mix.blend + rank(mix.blend_rank, lambda y: y, x_v))
        given, v = first, (1 - share) * v + share * first
    c = heads(k * mix.removal)
    c = c / c.norm(dim=-1, keepdim=True)
    k = k * (1 - mix.replacement + a * mix.replacement)
    gate = rank(mix.gate_rank, torch.sigmoid, x_g)
    got, _, passed = mix.mix(x, mix.init_state(2), given)
    torch.testing.assert_close(passed, first if number else v, rtol=0, atol=1e-14)
    state = torch.zeros(2, 2, 4, 4).double()
    for t, y in enumerate(got.unbind(1)):
        matrix = torch.diag_embed(heads(keep[:, t])) - (heads(a[:, t]) * c[:, t])[..., :, None] * c[:, t][..., None, :]
        state = matrix @ state + torch.einsum("bhi,bhj->bhij", heads(k[:, t]), heads(v[:, t]))
        seen = normed(torch.einsum("bhi,bhij->bhj", heads(r[:, t]), state).flatten(1), mix.norm)
        own = ((heads(r[:, t] * k[:, t]) * mix.read).sum(-1, keepdim=True) * heads(v[:, t])).flatten(1)
        torch.testing.assert_close(y, mix.out((seen + own) * gate[:, t]), rtol=0, atol=1e-11)


@pytest.mark.parametrize("version", VERSIONS)
def test_channel_mix_is_its_equations(version):
    mix, x = stirred(ChannelMix(Place(8, 4, 1, 3), version, 20)).double(), drawn(2, 9, 8)
    want = mix.value(mix.key(shift(x, mix.mu[0])).clamp_min(0) ** 2)
    if version < 7:
        want = torch.sigmoid(mix.receptance(shift(x, mix.mu[1]))) * want
    torch.testing.assert_close(mix(x), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("version", VERSIONS)
def test_laws_away_from_the_initial_zeros(version):
    """At first every block adds nothing, so that the laws hold for any block."""

    def make(dim, depth, **settings):
        return stirred(RWKV(dim, depth, version=version, width=8, **settings), seed=int(torch.randint(1000, ())))

    report = check(make, laws=[2, 3, 8])
    assert report.passed, str(report)


def numbers(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("dim", "depth"), [(64, 2), (40, 3)])
def test_parameters_are_counted_by_a_formula(dim, depth):
    ends = 4 * dim
    assert numbers(RWKV(dim, depth, version=4)) == depth * (13 * dim**2 + 11 * dim) + ends
    assert numbers(RWKV(dim, depth, version=5)) == depth * (13 * dim**2 + 14 * dim) + ends
    assert numbers(RWKV(dim, depth, version=6)) == depth * (13 * dim**2 + (16 + 320 + 128) * dim) + ends
    ranks = 4 * 32
    whole = depth * (12 * dim**2 + 19 * dim + 2 * dim * ranks) - (dim + 2 * dim * 32)
    assert numbers(RWKV(dim, depth, version=7)) == whole + ends


def test_ranks_grow_with_the_root_of_the_width():
    mix = TimeMix7(Place(768, 64, 1, 12))
    assert [low.rank for low in (mix.decay_rank, mix.rate_rank, mix.blend_rank, mix.gate_rank)] == [64, 64, 32, 128]


@pytest.mark.parametrize(("version", "size"), [(4, 5 * 128), (5, 2 * 128 + 64 * 128), (6, 66 * 128), (7, 66 * 128)])
def test_state_of_a_layer(version, size):
    flat = tree_leaves(RWKV(128, 3, version=version).init_state(2))
    assert sum(x.numel() for x in flat) == 2 * 3 * size


def test_initial_values():
    """Decays and bonus at both ends, shares of the position before, gains of the matrices."""
    torch.manual_seed(0)
    four = [TimeMix4(Place(64, 64, i, 4)) for i in range(4)]
    assert [(round(m.decay[0].item(), 4), round(m.decay[-1].item(), 4)) for m in four] == [(-5, 3)] * 4
    torch.testing.assert_close(four[1].bonus[:3], math.log(0.3) + torch.tensor([0, 0.5, -0.5]))
    torch.testing.assert_close(four[3].mu[0], 1 - (torch.arange(64) / 64) ** 0.25)
    torch.testing.assert_close(four[3].mu[1], 0.7 - (torch.arange(64) / 64) ** 0.25)
    assert not any(m.weight.any() for m in (four[0].key, four[0].receptance, four[0].out))
    torch.testing.assert_close(four[0].value.weight @ four[0].value.weight.T, torch.eye(64), atol=1e-5, rtol=0)
    wide = ChannelMix(Place(64, 64, 0, 4), 4, 256).key.weight
    torch.testing.assert_close(wide.T @ wide, 4 * torch.eye(64), atol=1e-4, rtol=0)
    six = TimeMix6(Place(64, 64, 0, 4))
    assert math.exp(-math.exp(six.decay[0].item())) == pytest.approx(0.99752, abs=1e-5)
    torch.testing.assert_close(six.key.weight @ six.key.weight.T, 0.01 * torch.eye(64), atol=1e-6, rtol=0)
    assert six.mu_up.std().item() == pytest.approx(0.01 / math.sqrt(3), rel=0.03)
    assert six.norm.weight[0].item() == pytest.approx(0.25**0.7)
    seven = TimeMix7(Place(64, 64, 0, 4))
    slowest = math.exp(-0.5) * torch.sigmoid(seven.decay).min().item()
    assert math.log(2) / slowest == pytest.approx(3408, rel=0.01)
    assert (-math.exp(-0.5) * torch.sigmoid(seven.decay) > -0.607).all()
    assert seven.removal.mean().item() == pytest.approx(0.71)
    assert seven.rate.mean().item() == pytest.approx(-0.19)


@pytest.mark.parametrize("version", VERSIONS)
def test_learning_rates(version):
    tuned = MIXES[version].tuned
    assert tuned["decay"].lr_scale == 2
    assert version != 4 or tuned["bonus"].lr_scale == 3
    assert not any(tuning.decay for tuning in tuned.values())


class Number:
    """A real number of which only the operations matter."""

    done = 0

    def __add__(self, other):
        Number.done += 1
        return Number()

    __mul__ = __truediv__ = __sub__ = __add__

    def function(self):
        return self + self


def some(count):
    return [Number() for _ in range(count)]


def total(values):
    result = Number()
    for value in values:
        result = result + value
    return result


def sizes(length):
    """Chunks of 32, and what is left by the digits of its length."""
    return [32] * (length // 32) + [size for size in (16, 8, 4, 2, 1) if length % 32 & size]


def shift_steps(length, dim, inputs):
    for _ in range(length * dim):
        delta = Number() - Number()
        for _ in range(inputs):
            _ = Number() + delta * Number()


def wkv4_steps(length):
    a, b, p, w, u = some(5)
    for _ in range(length):
        k, v = some(2)
        now = (p - w).function()
        keep, new = (p - w - now).function(), (k - now).function()
        bonus = u + k
        top = bonus.function()
        past, own = (p - top).function(), (bonus - top).function()
        _ = (past * a + own * v) / (past * b + own)
        a, b, p = keep * a + new * v, keep * b + new, now


def powers(rows, width):
    """A running sum, its power and the product with it."""
    for _ in range(width):
        running = Number()
        for _ in range(rows):
            running = running + Number()
            _ = Number() * running.function()


def wkv6_steps(length, width):
    for size in sizes(length):
        for _ in range(size):
            score = total((Number() * Number()) * Number() for _ in range(width))
            _ = [score * value for value in some(width)]
        half = size // 2
        while half:
            for _ in range(size // (2 * half)):
                powers(half, width)
                powers(half, width)
                _ = [Number() + Number() for _ in range(half * width)]
            half //= 2
        powers(size, width)
        powers(size, width)
        _ = [total(some(size)).function() for _ in range(width)]
        _ = [Number() * Number() + Number() for _ in range(width * width)]
        _ = [Number() + Number() for _ in range(size * width)]


def wkv7_steps(length, width):
    _ = [Number() * Number() for _ in range(length * width)]
    for size in sizes(length):
        for _ in range(width):
            _ = total(some(size)), total(some(size))
            for _ in range(size):
                _ = [Number().function() for _ in range(4)]
                _ = [Number() * Number() for _ in range(6)]
        for _ in range(2 * width):
            for row in range(size):
                value = Number()
                for _ in range(row):
                    value = value - Number() * Number()
        _ = [Number() + Number() for _ in range(2 * size * width)]
        _ = [Number() * Number() + Number() + Number() for _ in range(width * width)]


def layer_steps(version, length, dim, width):
    inputs = {4: 3, 5: 4, 6: 6, 7: 6}[version]
    shift_steps(length, dim, inputs)
    shift_steps(length, dim, 1 if version == 7 else 2)
    if version == 4:
        for _ in range(dim):
            wkv4_steps(length)
        return
    for _ in range(dim // width):
        (wkv7_steps if version == 7 else wkv6_steps)(length, width)
    per_channel = {5: 1, 6: 1 + 1 + 5, 7: 3 + 2}[version]
    _ = [Number().function() for _ in range(length * per_channel * dim)]


@pytest.mark.parametrize("length", [1, 7, 33, 95])
@pytest.mark.parametrize("version", VERSIONS)
def test_mixing(version, length):
    Number.done = 0
    layer_steps(version, length, 8, 4)
    model = RWKV(8, 3, version=version, width=4)
    assert model.flops(length).mixing == 3 * Number.done
    assert RWKV(8, 3, version=version, width=4, causal=False).flops(length).mixing == 6 * Number.done


@pytest.mark.parametrize("dim", [16, 24, 40, 48, 56, 64, 72])
def test_any_width_has_heads(dim):
    for version in VERSIONS:
        assert RWKV(dim, 1, version=version)(torch.randn(1, 3, dim)).shape == (1, 3, dim)


def test_a_width_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="width=5 must divide dim=16"):
        RWKV(16, 1, width=5)
