"""The recurrence of RWKV-7, a delta rule with decays and rates for each channel, in parallel over positions, from any state.

    y[t] = S[t]^T r[t];   S[t] = diag(exp l[t]) S[t-1] - (a[t] * c[t]) (c[t]^T S[t-1]) + k[t] v[t]^T

for each head, with S of key channels by value channels. Peng et al., arXiv:2503.14456, section 4 (their S is the transpose).

Fast form: one compiled loop over time (ops/kernels/wkv7.py). In tensors: within a chunk, what c removes, c[t]^T S[t-1], is a unit
lower triangular system in S at the chunk's start and the values; it is solved for all chunks at once, and a loop over chunks
carries S. Keys are divided by the decay since the chunk's start: there l must be above -2.5, which RWKV-7 keeps by construction
(l > -0.61), or that overflows.
"""

from types import ModuleType

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from architectures.backbone import Flops
from architectures.ops import fla, native
from architectures.ops.precision import full_precision
from architectures.ops.wkv import chunks, sums_after

Heads = Float[Tensor, "batch length heads width"]
Matrices = Float[Tensor, "batch heads width width"]


def wkv7(r: Heads, log_decay: Heads, k: Heads, v: Heads, c: Heads, a: Heads, initial: Matrices) -> tuple[Heads, Matrices]:
    """All y, and S after the last position, from S = `initial`."""
    if kernels := native.kernels("wkv7", r, log_decay, k, v, c, a, initial):
        y, after = native.call(_Matrices, kernels, r, log_decay, k, v, c, a, initial)
        return y, after
    if (found := fla.kernels("rwkv7", r.shape[1], initial)) is not None:
        return fla.wkv7(found, r, log_decay, k, v, c, a, initial)
    with full_precision(r):
        sizes = [chunk * count for chunk, count in chunks(r.shape[1])]
        outputs, state = [], initial
        parts = zip(*(x.split(sizes, 1) for x in (r, log_decay, k, v, c, -a * c)), strict=True)
        for (chunk, _), part in zip(chunks(r.shape[1]), parts, strict=True):
            y, state = _in_chunks([rearrange(x, "b (n c) h d -> b h n c d", c=chunk) for x in part], state)
            outputs.append(rearrange(y, "b h n c d -> b (n c) h d"))
        return torch.cat(outputs, 1), state


def wkv7_definition(
    r: Tensor, log_decay: Tensor, k: Tensor, v: Tensor, c: Tensor, a: Tensor, initial: Tensor
) -> tuple[Tensor, Tensor]:
    """Position by position."""
    state, out = initial, []
    for t in range(r.shape[1]):
        removed = torch.einsum("bhi,bhij->bhj", c[:, t], state)
        state = log_decay[:, t, :, :, None].exp() * state
        state = (
            state - torch.einsum("bhi,bhj->bhij", a[:, t] * c[:, t], removed) + torch.einsum("bhi,bhj->bhij", k[:, t], v[:, t])
        )
        out.append(torch.einsum("bhi,bhij->bhj", r[:, t], state))
    return torch.stack(out, 1), state


def wkv7_flops(length: int, heads: int, width: int) -> Flops:
    """What the chunks execute. As a recurrence S meets c, is updated twice and read; the decay takes an exp and a product."""
    total = own = Flops(mixing=length * heads * width)  # a c
    for chunk, count in chunks(length):
        contraction = 14 * chunk**2 * width + 8 * chunk * width**2
        # sums of l (2), their powers (4) and products with those (6), two sums of products; the carry; the triangular system
        mixing = 14 * chunk * width + 3 * width**2 + 2 * width * chunk * (chunk - 1)
        total = total + Flops(contraction, mixing) * (count * heads)
    return total.or_cheaper(own + Flops(8 * width**2, width**2 + width) * (length * heads))


class _Matrices(torch.autograd.Function):
    """The compiled loop."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx, kernels: ModuleType, r: Tensor, log_decay: Tensor, k: Tensor, v: Tensor, c: Tensor, a: Tensor, initial: Tensor
    ) -> tuple[Tensor, Tensor]:
        given = [x.contiguous() for x in (r, log_decay.exp(), k, v, c, a)]
        ctx.kernels = kernels
        batch, length, heads, width = r.shape
        y, after = torch.empty_like(given[0]), initial.clone(memory_format=torch.contiguous_format)
        marks = r.new_empty(batch * native.recorded(ctx), heads, -(-length // kernels.SPAN), width, width)
        removals = r.new_empty(batch * native.recorded(ctx), length, heads, width)
        native.run(kernels.forward, batch * heads, *given, y, removals, after, marks)
        ctx.save_for_backward(*given, removals, marks)
        return y, after

    @staticmethod
    def backward(ctx, grad: Tensor, grad_after: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        *given, removals, marks = ctx.saved_tensors
        batch, _, heads, _ = given[0].shape
        to_initial = grad_after.clone(memory_format=torch.contiguous_format)
        grads = [torch.empty_like(x) for x in given]
        native.run(ctx.kernels.backward, batch * heads, *given, removals, marks, grad.contiguous(), to_initial, *grads)
        return None, *grads, to_initial


def _in_chunks(parts: list[Tensor], state: Tensor) -> tuple[Tensor, Tensor]:
    r, log_decay, k, v, c, erase = parts
    chunk, width = r.shape[-2:]
    until, rest = log_decay.cumsum(-2), sums_after(log_decay).exp()
    since, growth = until.exp(), (-until).exp()
    reader = r * since
    remover = c * F.pad(until[..., :-1, :], (0, 0, 1, 0)).exp()
    keys = torch.cat([erase * growth, k * growth], -2)
    by_remover, by_reader = (torch.cat([remover, reader], -2) @ keys.mT).split(chunk, -2)
    erased, added = by_remover.split(chunk, -1)
    right = torch.cat([remover, added.tril(-1) @ v], -1)
    system = torch.linalg.solve_triangular(-erased.tril(-1), right, upper=False, unitriangular=True)
    from_state, from_values = system.split(width, -1)
    written = (k * rest).mT @ v
    decay = since[..., -1, :, None]
    starts, removals = [], []
    for share, constant, eraser, new, kept in zip(
        *(x.unbind(2) for x in (from_state, from_values, (erase * rest).mT, written, decay)), strict=True
    ):
        starts.append(state)
        removals.append(share @ state + constant)
        state = kept * state + eraser @ removals[-1] + new
    scores = torch.cat([half.tril() for half in by_reader.split(chunk, -1)], -1)
    y = reader @ torch.stack(starts, 2) + scores @ torch.cat([torch.stack(removals, 2), v], -2)
    return y, state
