"""The recurrences of RWKV 4, 5 and 6, in parallel over positions, from any state.

RWKV-4, for each channel, with w > 0 and positive sums a and b:

    y[t] = (a + exp(u + k[t]) v[t]) / (b + exp(u + k[t]));   a <- exp(-w) a + exp(k[t]) v[t],  b <- exp(-w) b + exp(k[t])

Peng et al., arXiv:2305.13048, section 3 and, for the running maximum p, its appendix. Sums are kept divided by exp(p[t]) with
p[t] = max(p[t-1] - w, k[t]), so that nothing overflows; y does not depend on p, hence p has no gradient.

RWKV-5 and 6, for each head, with a state S of key channels by value channels and decays exp(l[t]) for each key channel:

    y[t] = r[t] (S + diag(u) k[t]^T v[t]);   S <- diag(exp l[t]) S + k[t]^T v[t]        arXiv:2404.05892, section 4

Fast form: one compiled loop over time for each (ops/kernels/wkv4.py, wkv6.py). In tensors: the sums of RWKV-4, scaled as above,
are first-order recurrences, which `scan` runs. For a matrix state a sequence is cut into chunks. What a position reads within its
chunk is summed over levels: at the level of m, the second half of each block of 2m positions reads the first half. Both are
scaled to the border between them, by decays to the power of sums of l that are negative, so that no decay is too strong and no
number is ever divided by a decay. `scan` carries S from chunk to chunk. What is left over of a sequence is cut into smaller
chunks, each half as long: no padding.
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
from architectures.ops.scan import scan

CHUNK = 32
LOWEST = -1e38  # the running maximum before the first position
WKV4 = 24
"""Operations of a position and channel: p (2), the decay (3), exp(k - p) (2), its product with v, two recurrences (4),
max(p, u + k) (2), two powers (4), numerator (3), denominator (2), quotient."""

Values = Float[Tensor, "batch length dim"]
Heads = Float[Tensor, "batch length heads width"]
Matrices = Float[Tensor, "batch heads width width"]
Sums = Float[Tensor, "3 batch dim"]
"""a, b and p."""


def wkv4(k: Values, v: Values, w: Float[Tensor, "dim"], u: Float[Tensor, "dim"], initial: Sums) -> tuple[Values, Sums]:
    """All y, and the sums after the last position, from `initial`."""
    if kernels := native.kernels("wkv4", k, v, w, u, initial):
        y, after = native.call(_Sums, kernels, k, v, w, u, initial)
        return y, after
    a, b, start = initial
    with torch.no_grad():
        elapsed = w.double() * torch.arange(1, k.shape[1] + 1, device=k.device)[:, None]
        highest = torch.cat([start[:, None].double(), k + elapsed], 1).cummax(1).values[:, 1:]
        p = (highest - elapsed).to(k.dtype)
    before = torch.cat([start[:, None], p[:, :-1]], 1)
    decay, weight = torch.exp(before - p - w), torch.exp(k - p)  # in this order a small w is not lost beside a large p
    above, below = scan(decay, weight * v, a), scan(decay, weight, b)
    own = u + k
    top = torch.maximum(before, own).detach()
    past, own = torch.exp(before - top), torch.exp(own - top)
    above_before, below_before = (torch.cat([first[:, None], h[:, :-1]], 1) for first, h in ((a, above), (b, below)))
    y = (past * above_before + own * v) / (past * below_before + own)
    return y, torch.stack([above[:, -1], below[:, -1], p[:, -1]])


def wkv4_definition(k: Tensor, v: Tensor, w: Tensor, u: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    """Position by position."""
    (a, b, p), out = initial, []
    for t in range(k.shape[1]):
        top = torch.maximum(p, u + k[:, t])
        past, own = torch.exp(p - top), torch.exp(u + k[:, t] - top)
        out.append((past * a + own * v[:, t]) / (past * b + own))
        top = torch.maximum(p - w, k[:, t])
        past, own = torch.exp(p - w - top), torch.exp(k[:, t] - top)
        a, b, p = past * a + own * v[:, t], past * b + own, top
    return torch.stack(out, 1), torch.stack([a, b, p])


def wkv4_flops(length: int, dim: int) -> Flops:
    """Sequential cost."""
    return Flops(mixing=WKV4 * length * dim)


def wkv6(
    r: Heads,
    k: Heads,
    v: Heads,
    log_decay: Float[Tensor, "*positions heads width"],
    bonus: Float[Tensor, "heads width"],
    initial: Matrices,
) -> tuple[Heads, Matrices]:
    """All y, and S after the last position, from S = `initial`. A decay that is constant has no positions."""
    if kernels := native.kernels("wkv6", r, k, v, log_decay, bonus, initial):
        y, after = native.call(_Matrices, kernels, r, k, v, log_decay, bonus, initial)
        return y, after
    if (found := fla.kernels("rwkv6", r.shape[1], initial)) is not None:
        return fla.wkv6(found, r, k, v, log_decay, bonus, initial)
    log_decay = log_decay.expand_as(r)
    with full_precision(r):
        sizes = [chunk * count for chunk, count in chunks(r.shape[1])]
        outputs, state = [], initial
        parts = zip(*(x.split(sizes, 1) for x in (r, k, v, log_decay)), strict=True)
        for (chunk, _), part in zip(chunks(r.shape[1]), parts, strict=True):
            own_r, own_k, own_v, own_decay = (rearrange(x, "b (n c) h d -> b h n c d", c=chunk) for x in part)
            y, state = _in_chunks(own_r, own_k, own_v, own_decay, bonus, state)
            outputs.append(rearrange(y, "b h n c d -> b (n c) h d"))
        return torch.cat(outputs, 1), state


def wkv6_definition(r: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, bonus: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    """Position by position."""
    state, out = initial, []
    log_decay = log_decay.expand_as(r)
    for t in range(r.shape[1]):
        new = k[:, t, :, :, None] * v[:, t, :, None, :]
        out.append((r[:, t, :, :, None] * (state + bonus[:, :, None] * new)).sum(2))
        state = log_decay[:, t, :, :, None].exp() * state + new
    return torch.stack(out, 1), state


def wkv6_flops(length: int, heads: int, width: int) -> Flops:
    """What the chunks execute, with the sequential cost of the recurrence of S. As a recurrence S is updated and read; its own
    position takes 5, the decay an exp and a product."""
    total = Flops()
    for chunk, count in chunks(length):
        levels, pairs = chunk.bit_length() - 1, chunk * (chunk - 1) // 2
        # own position 4; powers at the borders of chunks 6, S's decay 1, sum 1; a level: powers 3, sum 1/2
        elementwise = chunk * width * 12 + chunk * width * 7 * levels // 2 + width + 2 * width**2
        total = total + Flops(4 * chunk * width**2 + 4 * pairs * width, elementwise) * (count * heads)
    return total.or_cheaper(Flops(4 * width**2, width**2 + 6 * width) * (length * heads))


def chunks(length: int) -> list[tuple[int, int]]:
    """Sizes of chunks and how many of each, in order, that make up a sequence."""
    found, chunk = [], CHUNK
    while length:
        count, length = divmod(length, chunk)
        if count:
            found.append((chunk, count))
        chunk //= 2
    return found


def sums_before(x: Tensor) -> Tensor:
    """The sum of all earlier rows, for each row."""
    return F.pad(x[..., :-1, :], (0, 0, 1, 0)).cumsum(-2)


def sums_after(x: Tensor) -> Tensor:
    """The sum of all later rows, for each row."""
    return F.pad(x[..., 1:, :], (0, 0, 0, 1)).flip(-2).cumsum(-2).flip(-2)


class _Sums(torch.autograd.Function):
    """RWKV-4's compiled loop."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx, kernels: ModuleType, k: Tensor, v: Tensor, w: Tensor, u: Tensor, initial: Tensor
    ) -> tuple[Tensor, Tensor]:
        k, v, w, u = (x.contiguous() for x in (k, v, w, u))
        ctx.kernels = kernels
        sums, y = initial.clone(memory_format=torch.contiguous_format), torch.empty_like(k)
        marks = k.new_empty(len(k) * native.recorded(ctx), -(-k.shape[1] // kernels.SPAN), 3, k.shape[2])
        native.run(kernels.forward, kernels.items(k), k, v, w, u, y, sums, marks)
        ctx.save_for_backward(k, v, w, u, initial, marks)
        return y, sums

    @staticmethod
    def backward(ctx, grad: Tensor, to_after: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        k, v, w, u, initial, marks = ctx.saved_tensors
        a, b, _ = initial
        to_sums, to_k, to_v = to_after[:2].clone(memory_format=torch.contiguous_format), torch.empty_like(k), torch.empty_like(v)
        to_w, to_u = torch.zeros_like(a), torch.zeros_like(a)
        grads = (grad.contiguous(), to_sums, to_k, to_v, to_w, to_u)
        native.run(ctx.kernels.backward, ctx.kernels.items(k), k, v, w, u, marks, *grads)
        to_a, to_b = to_sums
        return None, to_k, to_v, to_w.sum(0), to_u.sum(0), torch.stack([to_a, to_b, a * to_a + b * to_b])


class _Matrices(torch.autograd.Function):
    """RWKV-6's compiled loop."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx, kernels: ModuleType, r: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, bonus: Tensor, initial: Tensor
    ) -> tuple[Tensor, Tensor]:
        r, k, v, bonus = (x.contiguous() for x in (r, k, v, bonus))
        ctx.kernels, ctx.constant = kernels, log_decay.ndim == 2
        decay = (log_decay[None, None] if ctx.constant else log_decay).contiguous().exp()
        batch, length, heads, width = r.shape
        y, after = torch.empty_like(r), initial.clone(memory_format=torch.contiguous_format)
        marks = r.new_empty(batch * native.recorded(ctx), heads, -(-length // kernels.SPAN), width, width)
        native.run(kernels.forward, batch * heads, r, k, v, decay, bonus, y, after, marks)
        ctx.save_for_backward(r, k, v, decay, bonus, marks)
        return y, after

    @staticmethod
    def backward(ctx, grad: Tensor, grad_after: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        r, k, v, decay, bonus, marks = ctx.saved_tensors
        batch, _, heads, _ = r.shape
        to_r, to_k, to_v = torch.empty_like(r), torch.empty_like(k), torch.empty_like(v)
        to_decay, to_bonus = r.new_zeros(batch, *decay.shape[1:]), r.new_zeros(batch, *bonus.shape)
        to_initial = grad_after.clone(memory_format=torch.contiguous_format)
        grads = (grad.contiguous(), to_initial, to_r, to_k, to_v, to_decay, to_bonus)
        native.run(ctx.kernels.backward, batch * heads, r, k, v, decay, bonus, marks, *grads)
        return None, to_r, to_k, to_v, to_decay.sum((0, 1)) if ctx.constant else to_decay, to_bonus.sum(0), to_initial


def _in_chunks(r: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, bonus: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    own = (r * bonus[:, None, None] * k).sum(-1, keepdim=True) * v
    y = _with_earlier(own, r, k, v, log_decay)
    new = (k * sums_after(log_decay).exp()).mT @ v
    decay = log_decay.sum(-2).exp()[..., None].expand_as(new)
    flat, first = "b h n i j -> (b h) n (i j)", rearrange(initial, "b h i j -> (b h) (i j)")
    ends = scan(rearrange(decay, flat), rearrange(new, flat), first)
    starts = torch.cat([first[:, None], ends[:, :-1]], 1).view_as(new)
    return y + (r * sums_before(log_decay).exp()) @ starts, ends[:, -1].view_as(initial)


def _with_earlier(y: Tensor, r: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
    """`y` and what each position reads of the earlier ones in its chunk, a chunk along the last axis but one."""
    half = r.shape[-2] // 2
    if not half:
        return y
    y, r, k, v, log_decay = (x.unflatten(-2, (2, half)) for x in (y, r, k, v, log_decay))
    first, second = _with_earlier(y, r, k, v, log_decay).unbind(-3)
    _, reader = r.unbind(-3)
    key, _ = k.unbind(-3)
    value, _ = v.unbind(-3)
    until, since = log_decay.unbind(-3)
    scores = (reader * sums_before(since).exp()) @ (key * sums_after(until).exp()).mT
    return torch.cat([first, second + scores @ value], -2)
