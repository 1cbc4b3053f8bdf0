"""Dilated attention against masks, its reductions, coverage and cost."""

import pytest
import torch
from torch import Tensor

from architectures.dilated import Dilated, DilatedAttention
from architectures.ops import dilated_attention
from architectures.ops.attention import attend
from architectures.ops.dilated_attention import dilated, dilated_definition, dilated_kept, dilated_pairs
from lab.counter import Counter
from lab.laws.subject import noise
from lab.model import count_parameters, state_size

BRANCHES = [
    ((4, 1),),
    ((4, 1), (8, 2)),
    ((5, 1), (15, 3), (45, 9)),
    ((64, 1), (128, 2), (256, 4)),
    ((3, 1), (7, 2)),
    ((6, 4), (9, 1), (4, 9)),
]


def double(*shape: int, seed: int = 0) -> Tensor:
    return noise(*shape, dtype=torch.float64, seed=seed)


def assert_fast_is_slow(branches, length, causal, batch=2, heads=3):
    ways = []
    for function in (dilated, dilated_definition):
        given = q, k, v = [double(batch, heads, length, 4, seed=seed).requires_grad_() for seed in range(3)]
        y = function(q, k, v, branches, causal=causal)
        ways.append([y, *torch.autograd.grad((y * double(*y.shape, seed=9)).sum(), given)])
    for got, want in zip(*ways, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-11)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("branches", BRANCHES, ids=str)
@pytest.mark.parametrize("length", [1, 5, 37, 131])
@pytest.mark.parametrize("fused", [True, False])
def test_fast_is_slow(branches, length, causal, fused, monkeypatch):
    if not fused:
        monkeypatch.setattr(dilated_attention, "FUSED", ())
    assert_fast_is_slow(branches, length, causal)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("heads", [1, 4, 5])
def test_whole_segments(heads, causal):
    """Of all branches, and of the dense one alone."""
    assert_fast_is_slow(((4, 1), (8, 2), (16, 4), (32, 8)), 64, causal, heads=heads)
    assert_fast_is_slow(((4, 1), (9, 2)), 64, causal, heads=heads)


@pytest.mark.slow
def test_long_is_slow():
    assert_fast_is_slow(((64, 1), (1024, 4), (4096, 12)), 4096, causal=True, batch=1, heads=2)


def test_no_overflow_at_16384_positions():
    q, k, v = (30 * noise(1, 2, 16384, 4, seed=seed).requires_grad_() for seed in range(3))
    y = dilated(q, k, v, ((256, 1), (1024, 2), (4096, 4), (16384, 8)), causal=True)
    assert y.abs().max() <= v.abs().max()
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(y.square().sum(), (q, k, v)))


def test_one_dense_branch_is_attention():
    q, k, v = (double(2, 3, 37, 4, seed=seed) for seed in range(3))
    torch.testing.assert_close(dilated(q, k, v, ((37, 1),), causal=True), attend(q, k, v, causal=True), rtol=0, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("branches", BRANCHES, ids=str)
@pytest.mark.parametrize("length", [1, 65, 300])
def test_contractions(branches, length, causal):
    layer = DilatedAttention(16, 4, branches, causal=causal)
    x = noise(2, length, 16).requires_grad_()
    with Counter() as counter:
        y = layer(x)
    assert counter.contraction == 2 * layer.flops(length).contraction
    with Counter() as backward:
        y.sum().backward()
    assert backward.contraction == 4 * layer.flops(length).contraction
    assert not counter.unknown | backward.unknown


def test_cost_is_linear_in_length():
    costs = [dilated_pairs(length, 4, BRANCHES[3], causal=True) for length in (1024, 2048, 4096)]
    assert costs[1] == 2 * costs[0]
    assert costs[2] == 4 * costs[0]


@pytest.mark.parametrize("branches", BRANCHES, ids=str)
@pytest.mark.parametrize("length", [1, 37, 64])
def test_counts(branches, length):
    """One head, segment and position after the other."""
    kept, causal, full = 0, 0, 0
    for segment, rate in branches:
        for start in range(0, length, segment):
            for head in range(5):
                here = [place for place in range(min(segment, length - start)) if place % rate == head % rate]
                kept += len(here)
                causal += sum(key <= query for query in here for key in here)
                full += len(here) ** 2
    assert dilated_kept(length, 5, branches) == kept
    assert dilated_pairs(length, 5, branches, causal=True) == causal
    assert dilated_pairs(length, 5, branches, causal=False) == full


def test_mixing():
    """Eight positions: two dense segments of 4, and one whose heads keep 4 of 8: 10 pairs each, and 12 positions for a head."""
    layer = DilatedAttention(16, 4, ((4, 1), (8, 2)), causal=True)
    assert layer.flops(8).mixing == 4 * (5 * (2 * 10 + 10) + 12 * (5 + 2 * 4))


def test_segments_that_do_not_divide_each_other_stream():
    layer = DilatedAttention(16, 4, ((3, 1), (7, 2)), causal=True).double()
    x, state = double(2, 50, 16), layer.init_state(2)
    parts = []
    for piece in x.split([20, 1, 0, 1, 19, 9], 1):
        y, state = layer.stream(piece, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), layer(x), rtol=0, atol=1e-12)
    assert state[0].shape[2] == 50 % 21


def test_size_and_state():
    with torch.device("meta"):
        model = Dilated(16, 2, segments="8+16", rates="1+2")
    assert count_parameters(model) == 2 * (4 * 16**2 + 3 * 16 * 43 + 2 * 16) + 16
    assert state_size(model, 37) == 2 * 2 * 16 * 5


def test_published_branches():
    model = Dilated(16, 1, segments="2048+4096+8192+16384+32768", rates="1+2+4+6+12")
    assert model(noise(1, 100, 16)).isfinite().all()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"heads": 3}, "heads=3 must divide dim=16"),
        ({"segments": "0+2", "rates": "1+2"}, r"segments=0\+2: give positive integers"),
        ({"segments": "4", "rates": "-1"}, "rates=-1: give positive integers"),
        ({"segments": "4+8,", "rates": "1+2"}, "segments=.*: give positive integers"),
        ({"segments": "", "rates": "1"}, "segments=: give positive integers"),
        ({"segments": "4+8", "rates": "1"}, "2 branches and rates=1 has 1"),
        ({"segments": "4+8", "rates": "2+4"}, "without a rate of 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        Dilated(16, 1, **settings)
