"""Dilated attention against masks, its reductions, coverage and cost."""

import pytest
import torch
from torch import Tensor

from architectures.dilated import Dilated, DilatedAttention, dilated, dilated_definition, dilated_scores
from architectures.ops.attention import attend
from lab.counter import Counter
from lab.laws.subject import noise
from lab.model import count_parameters, state_size

BRANCHES = [((4, 1),), ((4, 1), (8, 2)), ((5, 1), (15, 3), (45, 9)), ((64, 1), (128, 2), (256, 4)), ((3, 1), (7, 2))]


def double(*shape: int, seed: int = 0) -> Tensor:
    return noise(*shape, dtype=torch.float64, seed=seed)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("branches", BRANCHES, ids=str)
@pytest.mark.parametrize("length", [1, 5, 37, 131])
def test_fast_is_slow(branches, length, causal):
    ways = []
    for function in (dilated, dilated_definition):
        given = [double(2, 3, length, 4, seed=seed).requires_grad_() for seed in range(3)]
        y = function(*given, branches, causal=causal)
        ways.append([y, *torch.autograd.grad((y * double(*y.shape, seed=9)).sum(), given)])
    for got, want in zip(*ways, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-11)


def test_one_dense_branch_is_attention():
    q, k, v = (double(2, 3, 37, 4, seed=seed) for seed in range(3))
    torch.testing.assert_close(dilated(q, k, v, ((37, 1),), causal=True), attend(q, k, v, causal=True), rtol=0, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [1, 65, 300])
def test_contractions(length, causal):
    layer = DilatedAttention(16, 4, BRANCHES[3], causal=causal)
    with torch.no_grad(), Counter() as counter:
        layer(noise(2, length, 16))
    assert counter.contraction == 2 * layer.flops(length).contraction


def test_cost_is_linear_in_length():
    costs = [dilated_scores(length, BRANCHES[3], causal=True) for length in (1024, 2048, 4096)]
    assert costs[1] == 2 * costs[0]
    assert costs[2] == 4 * costs[0]


def test_mixing():
    """Eight positions: two dense segments of 4, and one whose heads keep 4 of 8; slices are longer, so all is one square."""
    layer = DilatedAttention(16, 4, ((4, 1), (8, 2)), causal=True)
    assert layer.flops(8).mixing == 5 * 4 * (2 * 16 + 16) + 8 * 2 * (5 * 4 + 2 * 16)


def test_size_and_state():
    with torch.device("meta"):
        model = Dilated(16, 2, segment=8, branches=2)
    assert count_parameters(model) == 2 * (4 * 16**2 + 3 * 16 * 43 + 2 * 16) + 16
    assert state_size(model, 37) == 2 * 16 * 5


@pytest.mark.parametrize("settings", [{"heads": 3}, {"segment": 0}, {"branches": 0}])
def test_settings_that_do_not_fit_are_refused(settings):
    with pytest.raises(ValueError, match="="):
        Dilated(16, 1, **settings)
