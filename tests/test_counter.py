"""The counter against integers worked out by hand: a multiply-add is two operations."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lab.counter import Counter


def counted(run, *, unknown=()):
    with Counter() as counter:
        run()
    assert counter.unknown == set(unknown)
    return counter.contraction


def zeros(*shape, **options):
    return torch.zeros(shape, **options)


@pytest.mark.parametrize(
    ("run", "operations"),
    [
        (lambda: zeros(3, 5) @ zeros(5, 7), 210),  # 2 x 3 x 5 x 7
        (lambda: torch.addmm(zeros(7), zeros(3, 5), zeros(5, 7)), 210),
        (lambda: zeros(2, 3, 5) @ zeros(5, 7), 420),
        (lambda: torch.bmm(zeros(2, 3, 5), zeros(2, 5, 7)), 420),
        (lambda: torch.baddbmm(zeros(2, 3, 7), zeros(2, 3, 5), zeros(2, 5, 7)), 420),
        (lambda: torch.addbmm(zeros(3, 7), zeros(2, 3, 5), zeros(2, 5, 7)), 420),
        (lambda: torch.addr(zeros(3, 5), zeros(3), zeros(5)), 30),
        (lambda: torch.mv(zeros(3, 5), zeros(5)), 30),
        (lambda: torch.addmv(zeros(3), zeros(3, 5), zeros(5)), 30),
        (lambda: torch.dot(zeros(5), zeros(5)), 10),
        (lambda: torch.vdot(zeros(5, dtype=torch.cfloat), zeros(5, dtype=torch.cfloat)), 40),
        (lambda: zeros(3, 5, dtype=torch.cfloat) @ zeros(5, 7, dtype=torch.cfloat), 840),  # 8 m k n
        (lambda: torch.einsum("bij,bjk->bik", zeros(2, 3, 5), zeros(2, 5, 7)), 420),
        (lambda: torch.einsum("hn,hnl->hl", zeros(4, 6), zeros(4, 6, 9)), 432),  # 2 x 4 x 6 x 9
        (lambda: F.linear(zeros(2, 3, 5), zeros(7, 5), zeros(7)), 420),
        (lambda: F.linear(zeros(2, 3, 5), zeros(7, 5)), 420),
        (lambda: torch._int_mm(zeros(32, 16, dtype=torch.int8), zeros(16, 8, dtype=torch.int8)), 8192),
        (lambda: (zeros(3, 5) * zeros(3, 5)).sum() + zeros(4).cumsum(0).sort().values.softmax(0)[0], 0),
    ],
)
def test_products(run, operations):
    assert counted(run) == operations


def test_inference_mode_hides_nothing():
    def run():
        with torch.inference_mode():
            F.linear(zeros(2, 3, 5), zeros(7, 5))
            F.linear(zeros(3, 5, dtype=torch.cfloat), zeros(7, 5, dtype=torch.cfloat))
            F.scaled_dot_product_attention(*(zeros(1, 1, 5, 8) for _ in range(3)), is_causal=True)

    assert counted(run) == 420 + 840 + 15 * 32


def test_backward_of_a_linear_map():
    """One product for the weight, one for the input unless nobody asks for it."""
    layer = nn.Linear(5, 7)
    assert counted(lambda: layer(zeros(3, 5)).sum().backward()) == 2 * 210
    assert counted(lambda: layer(zeros(3, 5, requires_grad=True)).sum().backward()) == 3 * 210


@pytest.mark.parametrize(
    ("layer", "forward"),
    [
        (nn.Conv1d(6, 6, 4, padding=3, groups=6), 2 * 6 * 13 * 4 * 2),  # 13 outputs of 6 channels over 4 taps, 2 rows
        (nn.Conv1d(6, 6, 4, padding=3, groups=3), 2 * 6 * 13 * 4 * 2 * 2),  # each sums over 2 channels
        (nn.Conv1d(6, 9, 3), 2 * 9 * 8 * 3 * 6 * 2),
        (nn.ConvTranspose1d(6, 9, 3), 2 * 6 * 10 * 3 * 9 * 2),  # each of 10 inputs writes 3 taps of 9 channels
    ],
)
def test_convolutions(layer, forward):
    assert counted(lambda: layer(zeros(2, 6, 10))) == forward
    assert counted(lambda: layer(zeros(2, 6, 10)).sum().backward()) == 2 * forward
    assert counted(lambda: layer(zeros(2, 6, 10, requires_grad=True)).sum().backward()) == 3 * forward


def heads(queries, keys, **options):
    """2 rows, 3 heads, 8 wide: 32 operations a pair, 6 times."""
    return [zeros(2, 3, length, 8, **options) for length in (queries, keys, keys)]


@pytest.mark.parametrize(
    ("queries", "keys", "options", "pairs"),
    [
        (7, 7, {"is_causal": True}, 28),
        (7, 7, {}, 49),
        (1, 1, {"is_causal": True}, 1),
        (3, 10, {}, 30),
        (3, 10, {"is_causal": True}, 6),  # torch lines the mask up at the first query
        (10, 3, {"is_causal": True}, 27),
        (3, 10, {"attn_mask": torch.ones(3, 10, dtype=torch.bool).tril(7)}, 27),
        (3, 10, {"attn_mask": zeros(1, 1, 3, 10)}, 30),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_attention(queries, keys, options, pairs, dtype):
    if "attn_mask" in options and options["attn_mask"].is_floating_point():
        options = {"attn_mask": options["attn_mask"].to(dtype)}
    forward = 6 * 32 * pairs
    inputs = heads(queries, keys, requires_grad=True, dtype=dtype)
    assert counted(lambda: F.scaled_dot_product_attention(*heads(queries, keys, dtype=dtype), **options)) == forward
    assert counted(lambda: F.scaled_dot_product_attention(*inputs, **options).sum().backward()) == 3 * forward


@pytest.mark.parametrize(("options", "pairs"), [({"is_causal": True}, 28), ({}, 49)])
def test_attention_on_the_meta_device_counts_as_on_a_cpu(options, pairs):
    inputs = heads(7, 7, device="meta", requires_grad=True)
    assert counted(lambda: F.scaled_dot_product_attention(*inputs, **options)) == 6 * 32 * pairs
    assert counted(lambda: F.scaled_dot_product_attention(*inputs, **options).sum().backward()) == 3 * 6 * 32 * pairs


def test_masks_that_nobody_can_read_count_in_full():
    """On the meta device they have no values; with dropout attention falls apart on a CPU."""
    mask = torch.ones(7, 7, dtype=torch.bool, device="meta").tril()
    assert counted(lambda: F.scaled_dot_product_attention(*heads(7, 7, device="meta"), attn_mask=mask)) == 6 * 32 * 49
    assert counted(lambda: F.scaled_dot_product_attention(*heads(7, 7), is_causal=True, dropout_p=0.5)) == 6 * 32 * 49


@pytest.mark.parametrize(("dtype", "device"), [(torch.float32, "cpu"), (torch.float64, "cpu"), (torch.float32, "meta")], ids=str)
@pytest.mark.parametrize("batch_first", [True, False])
def test_lstm(dtype, device, batch_first):
    """4 gates of 6 cells, each over 5 inputs and 6 cells, at 2 x 9 positions: 2 x 24 x 11 x 18."""
    layer = nn.LSTM(5, 6, batch_first=batch_first, dtype=dtype, device=device)
    x = zeros(*((2, 9, 5) if batch_first else (9, 2, 5)), dtype=dtype, device=device)
    assert counted(lambda: layer(x)) == 9504
    both = nn.LSTM(5, 6, num_layers=2, bidirectional=True, batch_first=batch_first, dtype=dtype, device=device)
    assert counted(lambda: both(x)) == 2 * 9504 + 2 * (2 * 24 * (12 + 6) * 18)


def test_fused_lstm_backward_is_twice_forward():
    layer = nn.LSTM(5, 6, batch_first=True)
    assert counted(lambda: layer(zeros(2, 9, 5, requires_grad=True))[0].sum().backward()) == 3 * 9504


def test_gru():
    """3 gates of 6 cells at 18 positions."""
    layer = nn.GRU(5, 6, batch_first=True)
    assert counted(lambda: layer(zeros(2, 9, 5))) == 2 * 18 * 11 * 18


@pytest.mark.parametrize(
    ("run", "operations"),
    [
        (lambda: torch.fft.rfft(zeros(3, 16)), 3 * 160),  # 2.5 x 16 x 4
        (lambda: torch.fft.irfft(zeros(3, 9, dtype=torch.cfloat), 16), 3 * 160),
        (lambda: torch.fft.fft(zeros(3, 16, dtype=torch.cfloat)), 3 * 320),
        (lambda: torch.fft.ifft(zeros(16, 5, dtype=torch.cfloat), dim=0), 5 * 320),
        (lambda: torch.fft.rfft(zeros(3, 10), n=16), 3 * 160),
        (lambda: torch.linalg.solve_triangular(zeros(2, 4, 4), zeros(2, 4, 3), upper=False), 96),  # 2 x 3 x 4^2
    ],
)
def test_ffts_and_solves_are_mixing(run, operations):
    with Counter() as counter:
        run()
    assert (counter.mixing, counter.contraction, counter.unknown) == (operations, 0, set())


def test_an_operator_that_nobody_counts_is_named():
    assert counted(lambda: torch.linalg.matrix_exp(zeros(3, 3)), unknown=["aten::linalg_matrix_exp"]) == 0
    assert counted(lambda: torch.cdist(zeros(3, 5), zeros(4, 5)), unknown=["aten::_cdist_forward"]) == 0


def test_control_flow_as_an_operator_is_named():
    from torch._higher_order_ops.scan import scan

    w = zeros(4, 4)
    step = lambda h, x: (h @ w + x, h.clone())  # noqa: E731
    assert counted(lambda: scan(step, zeros(4), zeros(8, 4)), unknown=["higher_order::scan"]) == 0


def test_an_operator_from_outside_torch_is_named():
    with torch.library._scoped_library("planted", "DEF") as library:
        library.define("product(Tensor a, Tensor b) -> Tensor")
        library.impl("product", lambda a, b: a @ b, "CompositeExplicitAutograd")
        counted(lambda: torch.ops.planted.product(zeros(2, 2), zeros(2, 2)), unknown=["planted::product"])


def test_counts_add_up_by_operator():
    with Counter() as counter:
        zeros(3, 5) @ zeros(5, 7)
        torch.bmm(zeros(2, 3, 5), zeros(2, 5, 7))
    assert dict(counter.by_operator) == {"mm": 210, "bmm": 420}
