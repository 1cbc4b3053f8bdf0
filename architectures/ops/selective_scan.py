"""Selective scan: h[t] = exp(delta[t] A) * h[t-1] + delta[t] x[t] B[t] for every channel and state, read out as y[t] = h[t] C[t].

Gu & Dao, arXiv:2312.00752, sections 3.2 and 3.3: B and C are those of all channels. Fast form: one compiled loop that never
writes the states of all positions (ops/kernels/selective_scan.py). In tensors they exist for `SPAN` positions at a time. Both
compute them again on the way back.
"""

from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from architectures.backbone import Flops
from architectures.ops import native
from architectures.ops.scan import scan

SPAN = 64
BLOCK = 64  # channels that a compiled loop takes together

Channels = Float[Tensor, "batch length channels"]
States = Float[Tensor, "batch length states"]
Matrices = Float[Tensor, "batch channels states"]


def selective_scan(
    x: Channels, delta: Channels, A: Float[Tensor, "channels states"], B: States, C: States, state: Matrices
) -> tuple[Channels, Matrices]:
    """All h[t] C[t], and the last h."""
    if (kernels := native.kernels("selective_scan", x, delta, A, B, C, state)) is not None:
        y, last = native.call(_Kernel, kernels, x, delta, A.mT, B, C, state.mT)
        return y, last.mT
    outputs = []
    for span in zip(*(tensor.split(SPAN, 1) for tensor in (x, delta, B, C)), strict=True):
        y, state = checkpoint(_expanded_scan, A, state, *span, use_reentrant=False, preserve_rng_state=False)
        outputs.append(y)
    return torch.cat(outputs, 1), state


def selective_scan_definition(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence as it is written."""
    out = []
    for t in range(x.shape[1]):
        state = torch.exp(delta[:, t, :, None] * A) * state + (delta[:, t] * x[:, t])[..., None] * B[:, t, None]
        out.append((state * C[:, t, None]).sum(-1))
    return torch.stack(out, 1), state


def selective_scan_flops(length: int, channels: int, states: int) -> Flops:
    """Contraction: reading h. Mixing: delta A, exp, the product with B and a multiply-add for each state; delta x."""
    return Flops(contraction=2 * channels * states, mixing=5 * channels * states + channels) * length


def _expanded_scan(A: Tensor, state: Tensor, x: Tensor, delta: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    decay = (delta[..., None] * A).exp().flatten(2)
    driven = ((delta * x)[..., None] * B[:, :, None]).flatten(2)
    h = scan(decay, driven, state.flatten(1)).unflatten(2, A.shape)
    return (h @ C[..., None]).squeeze(-1), h[:, -1]


class _Kernel(torch.autograd.Function):
    """The compiled loop, with A and the state as rows of channels."""

    @staticmethod
    def forward(ctx, kernels: ModuleType, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, delta, A, B, C = (t.contiguous() for t in (x, delta, A, B, C))
        y, last = torch.empty_like(x), state.clone(memory_format=torch.contiguous_format)
        marks = x.new_empty(len(x) * native.recorded(ctx), -(-x.shape[1] // kernels.SPAN), *A.shape)
        native.run(kernels.forward, len(x) * _blocks(x), _block(x), x, delta, A, B, C, y, last, marks)
        ctx.kernels = kernels
        ctx.save_for_backward(x, delta, A, B, C, marks)
        return y, last

    @staticmethod
    def backward(ctx, grad: Tensor, to_last: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, delta, A, B, C, marks = ctx.saved_tensors
        blocks = _blocks(x)
        to_x, to_delta, to_A = torch.empty_like(x), torch.empty_like(x), x.new_zeros(len(x), *A.shape)
        to_B, to_C = x.new_empty(2, blocks, *B.shape).unbind()
        to_state = to_last.clone(memory_format=torch.contiguous_format)
        given = x, delta, A, B, C, marks, grad.contiguous()
        native.run(ctx.kernels.backward, len(x) * blocks, _block(x), *given, to_x, to_delta, to_A, to_B, to_C, to_state)
        return None, to_x, to_delta, to_A.sum(0), to_B.sum(0), to_C.sum(0), to_state


def _block(x: Tensor) -> int:
    """Channels of one item of work: at most half of them, so that one sequence is work for two threads."""
    return max(1, min(BLOCK, -(-x.shape[2] // 2)))


def _blocks(x: Tensor) -> int:
    return -(-x.shape[2] // _block(x))
