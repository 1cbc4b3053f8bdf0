"""Selective scan: h[t] = exp(delta[t] A) * h[t-1] + delta[t] x[t] B[t] for every channel and state, read out as y[t] = h[t] C[t].

Gu & Dao, arXiv:2312.00752, sections 3.2 and 3.3: B and C are those of all channels. Fast form: one compiled loop that never
writes the states of all positions (ops/kernels/selective_scan.py). In tensors the sequence is cut into chunks of `SPAN`
positions, which advance together, as many as have `NUMBERS` states: once from zero, for what each hands to the next, and once
from the states that `scan` makes of that. Both forms keep the states at borders and compute the others again on the way back.
"""

from collections.abc import Iterator
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from architectures.backbone import Flops
from architectures.ops import native
from architectures.ops.scan import scan

SPAN, NUMBERS = 32, 2**18
BLOCK = 64  # channels that a compiled loop takes together

Channel = Float[Tensor, " channels"]
Channels = Float[Tensor, "batch length channels"]
States = Float[Tensor, "batch length states"]
Rates = Float[Tensor, "channels states"]
Matrices = Float[Tensor, "batch channels states"]


def selective_scan(x: Channels, delta: Channels, A: Rates, B: States, C: States, state: Matrices) -> tuple[Channels, Matrices]:
    """All h[t] C[t], and the last h."""
    if (kernels := native.kernels("selective_scan", x, delta, A, B, C, state)) is not None:
        y, last = native.call(_Kernel, kernels, x, delta, A.mT, B, C, state.mT)
        return y, last.mT
    y, last = native.call(_Chunks, x, delta, A.mT, B, C, state.mT)
    return y, last.mT


def selective_step(
    x: Channels, raw: Channels, bias: Channel, A: Rates, B: States, C: States, D: Channel, gate: Channels, state: Matrices
) -> tuple[Channels, Matrices] | None:
    """(y + D x) silu(gate) of one position, with delta = softplus(raw + bias), and the next h: one compiled loop.

    None for more positions, where gradients are asked for, and where kernels cannot take these tensors.
    """
    given = x, raw, bias, A.mT, B, C, D, gate, state.mT
    if x.shape[1] != 1 or torch.is_grad_enabled() or (kernels := native.kernels("selective_scan", *given)) is None:
        return None
    arrays = [tensor.contiguous() for tensor in given]
    y, after = torch.empty_like(arrays[0]), torch.empty_like(arrays[-1])
    native.run(kernels.step, len(x), *arrays, y, after)
    return y, after.mT


def selective_scan_definition(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence as it is written."""
    out = []
    for t in range(x.shape[1]):
        state = torch.exp(delta[:, t, :, None] * A) * state + (delta[:, t] * x[:, t])[..., None] * B[:, t, None]
        out.append((state * C[:, t, None]).sum(-1))
    return torch.stack(out, 1), state


def softplus(x: Channels) -> Channels:
    """log(1 + exp x), of which only the result is kept: the scan needs it anyhow."""
    return native.call(_Softplus, x)


def selective_scan_flops(length: int, channels: int, states: int) -> Flops:
    """Contraction: reading h. Mixing: delta A, exp, the product with B and a multiply-add for each state; delta x."""
    return Flops(contraction=2 * channels * states, mixing=5 * channels * states + channels) * length


class _Softplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        y = F.softplus(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (y,) = ctx.saved_tensors
        return -grad * torch.expm1(-y)


class _Chunks(torch.autograd.Function):
    """The form in tensors, with A and states as rows of channels."""

    @staticmethod
    def forward(ctx, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        A, y, borders = A.contiguous(), torch.empty_like(x), []
        for x_, delta_, B_, C_, y_ in _pieces(A, x, delta, B, C, y):
            driven, h = delta_ * x_, state[:, None]
            if x_.shape[1] > 1:
                ends = state.new_zeros(())
                for decay, new in _positions(driven, delta_, A, B_):
                    ends = torch.addcmul(new, decay, ends)
                h = _starts(delta_, A, ends, state)
            borders.append(h)
            for t, (decay, new) in enumerate(_positions(driven, delta_, A, B_)):
                h = torch.addcmul(new, decay, h)
                y_[:, :, t] = (C_[:, :, t, None] @ h).squeeze(2)
            state = h[:, -1]
        ctx.save_for_backward(x, delta, A, B, C, *borders)
        return y, state.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, to_state: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, delta, A, B, C, *borders = ctx.saved_tensors
        to_x, to_delta, to_A, to_B, to_C = (torch.empty_like(t) for t in (x, delta, A, B, C))
        to_A.zero_()
        pieces = list(_pieces(A, x, delta, B, C, grad, to_x, to_delta, to_B, to_C))
        for (x_, delta_, B_, C_, grad_, *to), start in zip(reversed(pieces), reversed(borders), strict=True):
            driven, states, decays = delta_ * x_, [start], []
            for decay, new in _positions(driven, delta_, A, B_):
                decays.append(decay)
                states.append(torch.addcmul(new, decay, states[-1]))
            steps, d = range(len(decays) - 1, -1, -1), to_state[:, None]
            if x_.shape[1] > 1:
                ends = torch.zeros_like(start)
                for t in steps:
                    ends = (grad_[:, :, t, None] * C_[:, :, t, :, None]).add_(ends).mul_(decays[t])
                d = _starts(delta_.flip(1), A, ends.flip(1), to_state).flip(1)
            to_rates = torch.zeros_like(start)
            for t in steps:
                x_t, delta_t, B_t, C_t, grad_t, driven_t = (part[:, :, t] for part in (x_, delta_, B_, C_, grad_, driven))
                d = (grad_t[:, :, None] * C_t[..., None]).add_(d)
                to_driven = (B_t[:, :, None] @ d).squeeze(2)
                to_B_t, to_C_t = d @ driven_t[..., None], states.pop() @ grad_t[..., None]
                d.mul_(decays[t])
                through = d * states[-1]
                to_rates.addcmul_(through, delta_t[:, :, None])
                to_delta_t = torch.addcmul(through.mul_(A).sum(2), to_driven, x_t)
                for out, part in zip(to, (to_driven * delta_t, to_delta_t, to_B_t.squeeze(3), to_C_t.squeeze(3)), strict=True):
                    out[:, :, t] = part
            to_A += to_rates.sum((0, 1))
            to_state = d[:, 0]
        return to_x, to_delta, to_A, to_B, to_C, to_state


def _pieces(A: Tensor, *sequences: Tensor) -> Iterator[list[Tensor]]:
    """The next chunks of each, (batch, chunks, positions, width)."""
    batch, length, _ = sequences[0].shape
    most, first = max(1, NUMBERS // max(1, batch * A.numel())), 0
    while first < length:
        size = min(SPAN, length - first)
        count = min(most, (length - first) // size)
        yield [x[:, first : first + count * size].unflatten(1, (count, size)) for x in sequences]
        first += count * size


def _positions(driven: Tensor, delta: Tensor, A: Tensor, B: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The decay of the states and what enters them, for each position of a chunk."""
    for t in range(driven.shape[2]):
        yield (delta[:, :, t, None] * A).exp_(), driven[:, :, t, None] * B[:, :, t, :, None]


def _starts(delta: Tensor, A: Tensor, ends: Tensor, first: Tensor) -> Tensor:
    """What each chunk starts from, by what it would end with from zero."""
    decay = (delta.sum(2)[:, :, None] * A).exp()
    after = scan(decay.flatten(2), ends.flatten(2), first.flatten(1)).view_as(ends)
    return torch.cat([first[:, None], after[:, :-1]], 1)


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
