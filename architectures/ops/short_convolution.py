"""Causal convolution of each channel by itself: y[t] = sum_j w[j] x[t - width + 1 + j] + b, and silu(y) where that is asked for.

Fast form: a compiled loop over time that reads the inputs where they are (ops/kernels/short_convolution.py), up to `TAPS` taps;
fewer are led by zeros. One position without gradients is a product and its sum. Elsewhere torch's own convolution runs, with time
as its last axis.
"""

import math
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from architectures.backbone import Flops, SequenceMap, State
from architectures.ops import native
from architectures.ops.silu import SILU, flat

TAPS = 4
BLOCK = 512  # channels that a compiled loop takes together


class ShortConvolution(SequenceMap):
    """`width` taps for each channel, uniform in +-1/sqrt(width) as torch's own; the state is the last width - 1 inputs."""

    def __init__(self, dim: int, *, width: int = 4, bias: bool = False, silu: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, width).uniform_(-1 / math.sqrt(width), 1 / math.sqrt(width)))
        self.bias = nn.Parameter(torch.empty(dim).uniform_(-1 / math.sqrt(width), 1 / math.sqrt(width))) if bias else None
        self.silu = silu

    def init_state(self, batch: int) -> State:
        dim, width = self.weight.shape
        return self.zeros(batch, width - 1, dim)

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        if not x.shape[1]:
            return x, state
        kept = torch.cat([state, x if x.shape[1] == 1 else x[:, max(0, x.shape[1] - state.shape[1]) :]], 1)
        y = short_convolution(x, self.weight, self.bias, state, silu=self.silu)
        return y, kept[:, kept.shape[1] - state.shape[1] :]

    def flops(self, length: int) -> Flops:
        dim, _ = self.weight.shape
        pointwise = dim * ((self.bias is not None) + SILU * self.silu)
        return Flops(contraction=2 * self.weight.numel(), pointwise=pointwise) * length


def short_convolution(
    x: Float[Tensor, "batch length dim"],
    weight: Float[Tensor, "dim width"],
    bias: Float[Tensor, " dim"] | None,
    state: Float[Tensor, "batch past dim"],
    *,
    silu: bool = False,
) -> Float[Tensor, "batch length dim"]:
    """Of inputs that follow those in `state`."""
    if x.numel() and weight.shape[1] <= TAPS:
        kernels = native.kernels("short_convolution", x, weight, state, *(() if bias is None else (bias,)))
        if kernels is not None and x.shape[1] == 1 and not torch.is_grad_enabled():
            y = (torch.cat([state, x], 1) * weight.mT).sum(1, keepdim=True)
            y = y if bias is None else y + bias
            return F.silu(y) if silu else y
        if kernels is not None:
            return native.call(_Kernel, kernels, x, weight, bias, state, silu)
    y = F.conv1d(torch.cat([state, x], 1).mT, weight[:, None], bias, groups=len(weight)).mT
    return F.silu(y.contiguous()) if silu else y


def short_convolution_definition(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, *, silu: bool = False) -> Tensor:
    """The sum as it is written, position by position."""
    seen, width = torch.cat([state, x], 1), weight.shape[1]
    y = torch.stack([(seen[:, t : t + width] * weight.T).sum(1) for t in range(x.shape[1])], 1)
    y = y if bias is None else y + bias
    return y * torch.sigmoid(y) if silu else y


class _Kernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx, kernels: ModuleType, x, weight, bias, state, silu):  # pyright: ignore[reportIncompatibleMethodOverride]
        missing = TAPS - weight.shape[1]
        taps = (F.pad(weight, (missing, 0)) if missing else weight).t().contiguous()
        past = (F.pad(state, (0, 0, missing, 0)) if missing else state).contiguous()
        constant = weight.new_zeros(len(weight)) if bias is None else bias.contiguous()
        inputs, step = flat(x)
        y = x.new_empty(x.shape)
        native.run(kernels.forward, *_work(x), silu, step, inputs, taps, constant, past, y)
        ctx.kernels, ctx.silu, ctx.missing, ctx.biased = kernels, silu, missing, bias is not None
        ctx.save_for_backward(x, taps, constant, past)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, taps, constant, past = ctx.saved_tensors
        inputs, step = flat(x)
        to_x, to_past = x.new_empty(x.shape), torch.empty_like(past)
        to_taps, to_bias = x.new_zeros(len(x), *taps.shape), x.new_zeros(len(x), len(constant))
        arguments = (inputs, taps, constant, past, grad.contiguous(), to_x, to_taps, to_bias, to_past)
        native.run(ctx.kernels.backward, *_work(x), ctx.silu, step, *arguments)
        to_weight, to_state = to_taps.sum(0)[ctx.missing :].t(), to_past[:, ctx.missing :]
        return None, to_x, to_weight, (to_bias.sum(0) if ctx.biased else None), to_state, None


def _work(x: Tensor) -> tuple[int, int]:
    """Items of work and channels of one: all together, or so few that no thread is idle."""
    threads, channels = torch.get_num_threads(), x.shape[2]
    block = min(BLOCK, channels if len(x) >= threads else -(-channels // threads))
    return len(x) * -(-channels // block), block
