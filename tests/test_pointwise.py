"""RMS norm, gates, rotations and short convolutions against their definitions and torch's own, compiled and in tensors."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from architectures.backbone import Flops
from architectures.ops import gelu as gelu_module
from architectures.ops import native, norm, positions, silu
from architectures.ops.block_product import ROWS, block_product, block_product_definition
from architectures.ops.gelu import gelu, gelu_definition
from architectures.ops.norm import InstanceNorm, RMSNorm, rms_norm, rms_norm_definition
from architectures.ops.positions import rotate
from architectures.ops.short_convolution import ShortConvolution, short_convolution, short_convolution_definition
from architectures.ops.silu import flat, gated_silu, gated_silu_definition
from lab.laws.subject import noise


@pytest.fixture(params=["compiled", "tensors"])
def form(request, monkeypatch):
    """Both forms at any size: the kernels, where numba is installed, and those in tensors."""
    if request.param == "tensors":
        monkeypatch.setattr(native, "kernels", lambda *_: None)
    elif native.kernels("norm", torch.zeros(1)) is None:
        pytest.skip("numba is not installed")
    for op in (norm, silu, gelu_module, positions):
        monkeypatch.setattr(op, "SMALLEST", 1)
    return request.param


def same(op, definition, *given, atol=1e-12):
    """The same values, and the same gradients of everything given."""
    tensors = [x.detach().requires_grad_() for x in given]
    got, want = op(*tensors), definition(*tensors)
    torch.testing.assert_close(got, want, rtol=atol, atol=atol)
    weights = noise(*want.shape, dtype=want.dtype, seed=9)
    for mine, true in zip(*(torch.autograd.grad((y * weights).sum(), tensors) for y in (got, want)), strict=True):
        torch.testing.assert_close(mine, true, rtol=atol, atol=atol)


def doubles(*shape, seed=0):
    return noise(*shape, dtype=torch.float64, seed=seed)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 33, 7), (1, 4096, 24), (2, 5, 3, 16)])
@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_norm_is_its_formula(form, shape, eps):
    x, weight = doubles(*shape), doubles(shape[-1], seed=1)
    same(lambda x, w: rms_norm(x, w, eps), lambda x, w: rms_norm_definition(x, w, eps), x, weight)
    same(lambda x: rms_norm(x, None, eps), lambda x: rms_norm_definition(x, None, eps), x)


@pytest.mark.parametrize("eps", [None, 1e-5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norm_is_that_of_torch(form, eps, dtype):
    """By the same names, and to rounding; what is very small is not blown up."""
    mine, theirs = RMSNorm(48, eps=eps, dtype=dtype), nn.RMSNorm(48, eps=eps, dtype=dtype)
    theirs.load_state_dict(mine.state_dict())
    for scale in (1.0, 1e-12, 1e12):
        x = scale * noise(3, 65, 48, dtype=dtype)
        torch.testing.assert_close(mine(x), theirs(x), rtol=8 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("shape", [(1, 2, 1), (3, 65, 48)])
def test_instance_norm_is_that_of_torch(shape):
    mine = InstanceNorm(shape[-1]).double()
    with torch.no_grad():
        mine.weight.copy_(doubles(shape[-1], seed=1))
        mine.bias.copy_(doubles(shape[-1], seed=2))
    same(mine, lambda x: F.instance_norm(x.mT, weight=mine.weight, bias=mine.bias).mT, 3 + doubles(*shape), atol=1e-10)
    assert mine(torch.full(shape, 7.0, dtype=torch.bfloat16)).dtype == torch.bfloat16
    torch.testing.assert_close(mine(doubles(2, 1, shape[-1])), mine.bias.expand(2, 1, -1))


def test_norm_of_part_of_a_tensor(form):
    x = doubles(2, 9, 24)
    same(lambda x: rms_norm(x[..., 4:20], None, 1e-6), lambda x: rms_norm_definition(x[..., 4:20], None, 1e-6), x)
    same(lambda x: rms_norm(x.mT, None, 1e-6), lambda x: rms_norm_definition(x.mT, None, 1e-6), x)


@pytest.mark.parametrize("shape", [(1, 3), (1, 1, 1), (2, 33, 7), (3, 129, 100), (2, 5, 3, 16)])
def test_gate_is_its_formula(form, shape):
    same(gated_silu, gated_silu_definition, doubles(*shape), 5 * doubles(*shape, seed=1))


def test_gate_of_parts_of_a_tensor(form):
    """As projections are split; and of what no row is in one piece."""
    x = doubles(3, 17, 40)
    same(lambda x: gated_silu(x[..., 3:15], x[..., 20:32]), lambda x: gated_silu_definition(x[..., 3:15], x[..., 20:32]), x)
    same(lambda x: gated_silu(x.mT, x.mT[:, :1]), lambda x: gated_silu_definition(x.mT, x.mT[:, :1]), doubles(3, 17, 1))
    same(lambda x: gated_silu(x[:1], x[1:2]), lambda x: gated_silu_definition(x[:1], x[1:2]), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gate_far_out(form, dtype):
    """Nothing where the gate is shut, y z where it is open, and so backward."""
    z = torch.tensor([[-1e30, -800.0, -95.0, -1.0, 0.0, 1.0, 95.0, 800.0, 1e30]], dtype=dtype, requires_grad=True)
    y = torch.full_like(z, 0.5).requires_grad_()
    out = gated_silu(y, z)
    out.sum().backward()
    want = torch.nn.functional.silu(z.detach())
    torch.testing.assert_close(out.detach(), 0.5 * want, rtol=1e-6, atol=1e-30)
    assert y.grad is not None
    assert z.grad is not None
    torch.testing.assert_close(y.grad, want, rtol=1e-6, atol=1e-30)
    torch.testing.assert_close(z.grad[0, [0, 1, 4, -1]], torch.tensor([0, 0, 0.25, 0.5], dtype=dtype), rtol=1e-6, atol=1e-30)


def test_rows_are_not_copied():
    x = doubles(3, 5, 12)
    numbers, step = flat(x[..., 4:8])
    assert step == 12
    assert numbers.data_ptr() == x[..., 4:8].data_ptr()
    assert torch.equal(numbers[13 * step : 13 * step + 4], x[2, 3, 4:8])
    numbers, step = flat(x[:, :2])
    assert step == 12
    assert torch.equal(numbers, x[:, :2].flatten())


@pytest.mark.parametrize("length", [1, 2, 3, 4, 63, 4096])
@pytest.mark.parametrize(
    ("width", "silu", "bias"), [(4, True, True), (4, False, False), (3, False, True), (1, True, False), (5, True, True)]
)
def test_short_convolution_is_its_sum(form, length, width, silu, bias):
    given = [doubles(2, length, 6), doubles(6, width, seed=1), doubles(2, width - 1, 6, seed=2)]
    if bias:
        given.append(doubles(6, seed=3))

    def by(op):
        return lambda x, weight, state, bias=None: op(x, weight, bias, state, silu=silu)

    # over 4,096 positions the gradients of weights are large sums
    same(by(short_convolution), by(short_convolution_definition), *given, atol=1e-12 if length < 100 else 1e-10)


@pytest.mark.parametrize("threads", [1, 2])
def test_short_convolution_of_part_of_a_tensor(form, threads):
    """Its channels in blocks where there are fewer sequences than threads."""
    state, weight, x = doubles(1, 3, 14), doubles(14, 4, seed=1), doubles(1, 21, 40, seed=2)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        same(
            lambda x, weight, state: short_convolution(x[..., 5:19], weight, None, state),
            lambda x, weight, state: short_convolution_definition(x[..., 5:19], weight, None, state),
            x, weight, state,
        )  # fmt: skip
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("width", [1, 3, 4, 5])
def test_short_convolution_in_pieces(form, width):
    torch.manual_seed(0)
    layer, x = ShortConvolution(6, width=width, bias=True, silu=True).double(), doubles(2, 11, 6)
    outputs, state = [], layer.init_state(2)
    for piece in x.split([1, 0, 2, 1, 7], 1):
        y, state = layer.stream(piece, state)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), layer(x), rtol=0, atol=1e-12)
    assert torch.equal(state, x[:, 11 - (width - 1) :])


def test_short_convolution_flops():
    assert ShortConvolution(6, bias=True, silu=True).flops(7) == Flops(2 * 6 * 4 * 7, pointwise=(1 + 4) * 6 * 7)
    assert ShortConvolution(6, width=3).flops(7) == Flops(2 * 6 * 3 * 7)


@pytest.mark.parametrize("threads", [1, 2])
def test_nothing_depends_on_threads(form, threads):
    """To the last bit, gradients of weights included."""

    def gradients(threads):
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(threads)
            tensors = [t.requires_grad_() for t in (noise(2, 700, 24), noise(24, seed=1), noise(24, 4, seed=2))]
            x, weight, taps = tensors
            y = short_convolution(rms_norm(x, weight, 1e-6), taps, None, torch.zeros(2, 3, 24), silu=True)
            return torch.autograd.grad(gated_silu(y, x).square().sum(), tensors)
        finally:
            torch.set_num_threads(before)

    if form == "compiled":
        assert all(torch.equal(a, b) for a, b in zip(gradients(1), gradients(threads), strict=True))


@pytest.mark.parametrize("shape", [(1,), (2, 33, 7), (1, 4096, 24)])
def test_gelu_is_its_formula(form, shape):
    same(gelu, gelu_definition, 3 * doubles(*shape))
    same(gelu, gelu_definition, (3 * doubles(9, *shape)).movedim(0, -1))


def test_gelu_of_extremes(form):
    x = torch.tensor([-1e4, -30.0, -1e-30, 0.0, 1e-30, 30.0, 1e4], requires_grad=True)
    y = gelu(x)
    torch.testing.assert_close(y, nn.functional.gelu(x, approximate="tanh"), rtol=1e-6, atol=1e-10)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope, torch.tensor([0.0, 0, 0.5, 0.5, 0.5, 1, 1]), rtol=1e-6, atol=1e-10)


def turned(x, start):
    """Pairs of channels as complex numbers, at their places on the unit circle."""
    half = x.shape[-1] // 2
    place = torch.arange(start, start + x.shape[2], dtype=torch.float64)[:, None]
    angle = place * 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    y = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([y.real, y.imag], -1)


@pytest.mark.parametrize("start", [0, 5, -7])
def test_rotations_turn_pairs(form, start):
    """Heads that lie apart, some of them left out, a batch of one sequence for all, positions in any order of memory."""
    x = doubles(2, 9, 5, 6)
    for view in (
        lambda x: x,
        lambda x: x.transpose(1, 2)[:, :3],
        lambda x: x[:1].expand(3, -1, -1, -1),
        lambda x: x.flip(3).mT.contiguous().mT,
        lambda x: x[:, :, :0],
    ):
        same(lambda x, view=view: rotate(view(x), start), lambda x, view=view: turned(view(x), start), x)


@pytest.mark.parametrize(("batch", "length", "blocks", "side"), [(1, 1, 2, 4), (3, 5, 7, 4), (2, ROWS + 1, 3, 4), (2, 9, 5, 3)])
def test_block_product_is_that_with_the_whole_matrix(form, batch, length, blocks, side):
    x, weight = doubles(batch, length, blocks * side), doubles(blocks, side, 2 * side, seed=1)
    for part in (slice(side), slice(side, None)):
        same(block_product, block_product_definition, x, weight[..., part])
    weight = weight[1:, :, :side]
    same(lambda x, w: block_product(x[..., side:], w), lambda x, w: block_product_definition(x[..., side:], w), x, weight)
