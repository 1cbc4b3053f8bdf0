"""The form of products: values and gradients against the definition, tiles of every kind, scores of every size, precisions."""

import math
from itertools import product

import pytest
import torch
from torch.nn import functional as F

from architectures.ops import softmax_attention
from architectures.ops.attention import attend_definition
from architectures.ops.softmax_attention import FAR, attended, gradients, short
from lab import plugins
from lab.counter import Counter
from lab.laws.subject import noise

FORMS = ["causal", "full", "seen"]


def drawn(new, total, *, batch=2, heads=3, width=8, values=5, dtype=torch.float64):
    shapes = (batch, heads, new, width), (batch, heads, total, width), (batch, heads, total, values)
    return [noise(*shape, dtype=dtype, seed=seed).requires_grad_() for seed, shape in enumerate(shapes)]


def seen(new, total):
    """A band, which no query sees nothing of."""
    return torch.ones(new, total, dtype=torch.bool).tril(total - new).triu(total - new - 7)


def by_definition(q, k, v, form):
    if form != "seen":
        return attend_definition(q, k, v, causal=form == "causal", window=None, bias=None)
    return attend_definition(q, k, v, causal=True, window=8, bias=None)


def asked(q, k, v, form):
    mask = seen(q.shape[2], k.shape[2]) if form == "seen" else None
    return softmax_attention.softmax_attention(q, k, v, causal=form == "causal", seen=mask)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("new", "total"), [(64, 64), (150, 150), (40, 150), (20, 700)])
@pytest.mark.parametrize("tile", [2**20, 1000])
def test_products_are_the_definition(form, new, total, tile, monkeypatch):
    monkeypatch.setattr(softmax_attention, "TILE", tile)
    same(drawn(new, total), form)


SIZES = [(33, 33), (64, 64), (65, 65), (150, 150), (40, 150), (70, 700), (100, 2500)]


@pytest.mark.parametrize(("form", "sizes"), [*product(FORMS, SIZES), ("full", (200, 40))])
@pytest.mark.parametrize(("width", "values"), [(8, 8), (12, 20), (32, 64)])
def test_kernels_are_the_definition(form, sizes, width, values, monkeypatch):
    """Also where long sequences have parts, tiles are not full, and no query sees the first keys."""
    pytest.importorskip("numba")
    monkeypatch.setattr(softmax_attention, "_in_tiles", None)
    monkeypatch.setattr(softmax_attention, "_back_in_tiles", None)
    for long in (1024, 64):
        monkeypatch.setattr(softmax_attention, "LONG", long)
        same(drawn(*sizes, width=width, values=values), form)


def same(tensors, form):
    """As the definition, there and back."""
    assert short(*tensors)
    found, expected = asked(*tensors, form), by_definition(*tensors, form)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    grad = noise(*found.shape, dtype=torch.float64, seed=9)
    ours, theirs = (torch.autograd.grad(y, tensors, grad) for y in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_the_gradients_are_those_of_the_formula():
    tensors = drawn(30, 30, batch=1, heads=2)
    assert torch.autograd.gradcheck(lambda *given: asked(*given, "causal"), tensors)


def test_logarithms_are_those_of_the_denominators():
    q, k, v = (x.detach() for x in drawn(50, 80))
    scores = (q @ k.mT / math.sqrt(8)).masked_fill(~torch.ones(50, 80, dtype=torch.bool).tril(30), -math.inf)
    torch.testing.assert_close(attended(q, k, v, causal=True)[1], scores.logsumexp(3), rtol=1e-12, atol=1e-12)


def test_two_parts_of_the_keys_make_the_whole():
    """What dilated attention does: outputs weighed by denominators, and gradients for those of the sum."""
    q, k, v = (x.detach() for x in drawn(40, 100))
    whole, logs = attended(q, k, v, causal=False)
    parts = [attended(q, k[:, :, some], v[:, :, some], causal=False) for some in (slice(0, 30), slice(30, None))]
    weighed = sum(y * (log - logs).exp()[..., None] for y, log in parts)
    torch.testing.assert_close(weighed, whole, rtol=1e-11, atol=1e-12)
    grad = noise(*whole.shape, dtype=torch.float64, seed=9)
    expected = gradients(grad, q, k, v, whole, logs, causal=False)
    first, second = (
        gradients(grad, q, k[:, :, some], v[:, :, some], whole, logs, causal=False) for some in (slice(0, 30), slice(30, None))
    )
    found = first[0] + second[0], torch.cat([first[1], second[1]], 2), torch.cat([first[2], second[2]], 2)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e4])
def test_scores_of_every_size_in_float32(size):
    """Also where scores of keys that are not seen are larger by far than those that are."""
    q, k, v = (x.detach() for x in drawn(90, 90, dtype=torch.float32))
    k = k * torch.linspace(1, 50, 90)[:, None] * size
    expected = F.scaled_dot_product_attention(*(x.double() for x in (q, k, v)), is_causal=True)
    fused = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    given = [x.requires_grad_() for x in (q, k, v)]
    found = asked(*given, "causal")
    assert (found - expected).norm() < 2 * (fused - expected).norm() + 1e-7 * expected.norm()
    assert all(x.isfinite().all() for x in torch.autograd.grad(found.sum(), given))


def test_narrow_numbers_are_taken_in_float32():
    given = drawn(100, 100, values=8, dtype=torch.bfloat16)
    wide = [x.detach().float().requires_grad_() for x in given]
    with torch.autocast("cpu", torch.bfloat16):
        found = asked(*given, "causal")
    expected = asked(*wide, "causal")
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected.bfloat16(), rtol=0, atol=0)
    grad = noise(*found.shape, seed=9).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        ours = torch.autograd.grad(found, given, grad)
    for mine, theirs in zip(ours, torch.autograd.grad(expected, wide, grad.float()), strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine.float() - theirs).norm() < 0.01 * theirs.norm()  # y was kept in bfloat16


@pytest.mark.parametrize("form", FORMS)
def test_what_is_counted_is_fused_attention(form):
    tensors = drawn(64, 64, values=8)
    with Counter() as counter:
        asked(*tensors, form).sum().backward()
    assert not any("bmm" in operator for operator in counter.by_operator)


def test_long_and_tiny_sequences_take_the_fused_form():
    assert not short(*drawn(1024, 1024, batch=1, heads=1))
    assert not short(*drawn(16, 16))
    assert short(*drawn(32, 32))
    tensors = drawn(50, 1100, batch=1, heads=2)
    torch.testing.assert_close(asked(*tensors, "causal"), by_definition(*tensors, "causal"), rtol=1e-10, atol=1e-12)


def test_what_is_no_number_stays_in_its_sequence():
    given = drawn(100, 100, batch=4, heads=1, values=8)
    for x in given:
        x.data[::2] = math.nan
    found = asked(*given, "full")
    for x in (found, *torch.autograd.grad(found.sum(), given)):
        assert x[::2].isnan().all()
        assert x[1::2].isfinite().all()


@pytest.mark.parametrize("total", [FAR, FAR + 1, FAR + 163])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_query_meets_many_keys_in_a_kernel(total, dtype, monkeypatch):
    """The largest scores come first, last, and in between; keys and values lie in buffers that are longer than they."""
    pytest.importorskip("numba")
    monkeypatch.setattr(softmax_attention, "fused", None)
    q, k, v = (x.detach() for x in drawn(1, total + 50, dtype=dtype))
    k, v = k[:, :, :total], v[:, :, :total]
    for loud in (None, 0, 63, 64, total // 2, total - 1):
        keys = k if loud is None else k.index_copy(2, torch.tensor([loud]), 20 * q)
        with torch.no_grad():
            found = asked(q, keys, v, "full")
        exact = by_definition(q.double(), keys.double(), v.double(), "full")
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-6)


def test_one_query_beyond_numbers_is_no_number():
    pytest.importorskip("numba")
    q, k, v = (x.detach() for x in drawn(1, FAR, dtype=torch.float32))
    k[0, 0, -3], k[1, 1, :64] = math.nan, -math.inf * q[1, 1].sign()
    with torch.no_grad():
        found = asked(q, k, v, "full")
    assert found[0, 0].isnan().all()
    torch.testing.assert_close(found[1, 1], by_definition(q, k[:, :, 64:], v[:, :, 64:], "full")[1, 1], rtol=0, atol=1e-6)
    assert found.isfinite().sum() == found.numel() - found[0, 0].numel()


@pytest.mark.parametrize(("batch", "inside"), [(1, "highest"), (200, "medium")])
def test_few_numbers_are_streamed_with_a_quick_start(batch, inside, monkeypatch):
    """oneDNN takes longer to begin a product of one position than to make it; the setting is put back whatever happens."""
    backbone = plugins.load("architectures", "transformer")(16, 1)
    found = []

    def telling(x, state):
        found.append(torch.get_float32_matmul_precision())
        raise LookupError

    monkeypatch.setattr(backbone.layers[0], "stream", telling)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.no_grad(), pytest.raises(LookupError):
            backbone.step(noise(batch, 16), backbone.init_state(batch))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert found == [inside]
