"""BigBird: its attention against loops, what its rows see, its cost, and the backbone that it makes."""

import itertools

import pytest
import torch
from torch import Tensor

from architectures.ops.attention import attend_definition
from architectures.ops.bigbird import BigBird, bigbird, bigbird_definition, bigbird_pairs, gathered
from architectures.transformer import Transformer
from lab.conformance import check
from lab.counter import Counter
from lab.laws.subject import noise

PATTERNS = [BigBird(4, 2, 3, 0), BigBird(3, 1, 2, 7), BigBird(1, 1, 1, 1), BigBird(5, 0, 2, 3), BigBird(2, 2, 0, 4)]
LENGTHS = (1, 2, 7, 17, 28, 29, 32, 61, 97)


def double(*shape: int, seed: int = 0) -> Tensor:
    return noise(*shape, dtype=torch.float64, seed=seed)


def close(got: Tensor, want: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(got, want, rtol=0, atol=tolerance)


def seen(pattern: BigBird, length: int, causal: bool, heads: int = 3) -> Tensor:
    """Which keys each query of each head sees: with scores of zero and values that are a unit matrix."""
    zeros = torch.zeros(1, heads, length, 1, dtype=torch.float64)
    return bigbird(zeros, zeros, torch.eye(length, dtype=torch.float64).expand(1, heads, -1, -1), pattern, causal=causal)[0] > 0


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_blocks_are_the_definition(pattern, causal):
    for length, new in [(length, length) for length in LENGTHS] + [(61, 1), (61, 5), (97, 60), (97, 2)] * causal:
        q, k, v = (double(2, 3, count, 4, seed=seed) for seed, count in enumerate((new, length, length)))
        ways = []
        for function in (bigbird, bigbird_definition):
            given = [t.clone().requires_grad_() for t in (q, k, v)]
            y = function(*given, pattern, causal=causal)
            ways.append([y, *torch.autograd.grad((y * double(*y.shape, seed=9)).sum(), given)])
        for got, want in zip(*ways, strict=True):
            close(got, want, 1e-11)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("causal", [True, False])
def test_what_a_row_sees(pattern, causal):
    """Global blocks, its window and as many random ones as there are, each once, and of the past where it is causal."""
    block, first = pattern.block, pattern.first
    for length in (29 * block, 29 * block + block // 2):
        count, whole = -(-length // block), length // block
        mask = seen(pattern, length, causal)
        if causal:
            assert not mask.triu(1).any()
        for head, row in itertools.product(range(3), range(count)):
            ends = [min(length, (j + 1) * block) for j in range(count)]
            blocks = {j for j in range(count) if mask[head, ends[row] - 1, j * block]}
            past = range(row + 1) if causal else range(count)
            if row < first:
                assert blocks == set(past)
                continue
            fixed = {j for j in past if j < first or abs(row - j) <= 1}
            others = {j for j in past if j < whole} - fixed
            assert fixed <= blocks
            assert len(blocks - fixed) == min(pattern.random, len(others))
            assert blocks - fixed <= others
            expected = torch.zeros(length, dtype=torch.bool)
            for j in blocks:
                expected[j * block : ends[j]] = True
            assert torch.equal(mask[head, ends[row] - 1], expected)


@pytest.mark.parametrize("causal", [True, False])
def test_all_blocks_are_full_attention(causal):
    q, k, v = (double(2, 2, 61, 4, seed=seed) for seed in range(3))
    for pattern in (BigBird(4, 2, 12, 0), BigBird(4, 16, 0, 0), BigBird(64, 2, 3, 0)):
        want = attend_definition(q, k, v, causal=causal, window=None, bias=None)
        close(bigbird(q, k, v, pattern, causal=causal), want)
        assert bigbird_pairs(61, pattern, causal) == (61 * 62 // 2 if causal else 61 * 61)


def test_a_longer_sequence_extends_the_pattern():
    pattern = BigBird(2, 1, 3, 5)
    longest = seen(pattern, 120, True)
    for length in (13, 40, 61, 119):
        assert torch.equal(seen(pattern, length, True), longest[:, :length, :length])


def test_random_blocks_are_drawn_evenly_and_anew_for_each_head_and_layer():
    rows = torch.as_tensor(gathered(BigBird(64, 2, 3, 0), 2000, 21, 1, 22, True))[:, 0, 2:5]
    counts = rows.flatten().bincount(minlength=20)
    assert (counts[:2] == 0).all()
    expected = 2000 * 3 / 18
    assert ((counts[2:] - expected).abs() < 5 * expected**0.5).all()
    tables = [gathered(BigBird(64, 2, 3, seed), 4, 10, 30, 40, True)[..., 2:5] for seed in (0, 1)]
    assert not (tables[0] == tables[1]).all(2).all(1).any()
    assert not (tables[0][0] == tables[0][1]).all()


def test_what_is_drawn_follows_from_nothing_else():
    first = Transformer(16, 2, attention="bigbird", block=4).double()
    torch.manual_seed(77)
    second = Transformer(16, 2, attention="bigbird", block=4).double()
    second.load_state_dict(first.state_dict())
    x = double(1, 150, 16)
    assert torch.equal(first(x), second(x))
    patterns = [layer.inner.blocks for layer in Transformer(16, 3, attention="bigbird", mlp="none").layers]
    assert patterns == [BigBird(64, 2, 3, seed) for seed in range(3)]


# cost


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_pairs_are_counted_one_by_one(pattern, causal):
    for length in LENGTHS:
        assert 3 * bigbird_pairs(length, pattern, causal) == int(seen(pattern, length, causal).sum())


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("form", [{}, {"preset": "gpt2", "block": 16}, {"kv_heads": 2, "block": 7, "random_blocks": 1}], ids=str)
def test_contractions_and_mixing(form, causal):
    model = Transformer(16, 2, causal=causal, attention="bigbird", **form)
    length = 601
    with torch.no_grad(), Counter() as counter:
        model(noise(2, length, 16))
    assert counter.contraction == 2 * model.flops(length).contraction
    assert not counter.unknown
    pattern = BigBird(form.get("block", 64), 2, form.get("random_blocks", 3), 0)
    assert model.flops(length).mixing == 2 * 4 * 5 * int(seen(pattern, length, causal, heads=1).sum())


@pytest.mark.parametrize("causal", [True, False])
def test_cost_is_linear_in_length(causal):
    model = Transformer(16, 1, causal=causal, attention="bigbird", block=16)
    costs = [model.flops(length).headline for length in (1024, 2048, 4096)]
    assert costs[2] - costs[1] == 2 * (costs[1] - costs[0])
    keys = 16 * (2 + 3 + 3) if not causal else 16 * (2 + 1 + 3) + 17 / 2
    more = 4 * keys * 16 + (4 * 2 * 16 * 16 if not causal else 0)  # a new position is a new key of the global rows
    assert (costs[1] - costs[0]) / 1024 == 6 * 16 * 43 + 8 * 16**2 + more + 5 * 4 * more / 64


# the backbone


@pytest.mark.parametrize("form", [{}, {"preset": "gpt2"}, {"positions": "sinusoidal", "kv_heads": 1}, {"block": 5}], ids=str)
def test_streams_of_any_cut(form):
    torch.manual_seed(0)
    model, x = Transformer(16, 2, attention="bigbird", **{"block": 4, **form}).double(), double(2, 131, 16)
    with torch.no_grad():
        whole = model(x)
        for cuts in ([1] * 131, [64, 1, 2, 0, 60, 4], [3, 128], [29, 30, 31, 41], [127, 1, 1, 1, 1]):
            state, out = model.init_state(2), []
            for piece in x.split(cuts, 1):
                y, state = model.stream(piece, state)
                out.append(y)
            close(torch.cat(out, 1), whole, 1e-11)


@pytest.mark.parametrize("causal", [True, False])
def test_short_sequences_are_full_attention(causal):
    models = []
    for attention in ("full", "bigbird"):
        torch.manual_seed(0)
        models.append(Transformer(16, 2, causal=causal, attention=attention).double())
    for length in (1, 7, 7 * 64):
        x = double(1, length, 16)
        close(models[0](x), models[1](x))
        assert models[0].flops(length) == models[1].flops(length)
    assert not torch.allclose(models[0](double(1, 520, 16)), models[1](double(1, 520, 16)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"positions": "alibi"}, "positions=rope, learned, sinusoidal or none"),
        ({"preset": "gopher"}, "positions=rope, learned, sinusoidal or none"),
        ({"block": 0}, "block=0"),
        ({"global_blocks": -1}, "global_blocks=-1"),
        ({"random_blocks": -1}, "random_blocks=-1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Transformer(16, 1, attention="bigbird", **settings)


@pytest.mark.parametrize("causal", [True, False])
def test_sixteen_thousand_positions(causal):
    torch.manual_seed(0)
    x = noise(1, 16_384, 8).requires_grad_()
    y = Transformer(8, 1, causal=causal, heads=2, attention="bigbird")(x)
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "form", ["block=64", "block=4", "block=8,preset=gpt2", "block=3,kv_heads=2,global_blocks=1,random_blocks=2"]
)
def test_laws(form):
    report = check(f"transformer:attention=bigbird,{form}")
    assert report.passed, str(report)
