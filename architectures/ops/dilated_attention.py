"""Dilated attention: its exact fast form, the definition and what it costs.

A branch (w, r) cuts the sequence into segments of w positions; in each, head j keeps the positions j mod r, + r, + 2r, ... and
attends among them. With D_i the softmax denominator of branch i at a position and head that it keeps, and y_i what it found:

    y = sum_i D_i / D y_i,   D = sum_k D_k,   over the branches that keep the position

which is one softmax over all that any branch sees, counted as often as it is seen. Ding et al., arXiv:2307.02486, sections 2.2
and 2.3. One branch has to be dense, or positions would be left that some head never sees.

Fast form: heads that start at the same position keep the same ones, and these are a strided view; each such piece is one call of
fused attention, or of its form for short sequences (ops/softmax_attention.py), which gives y_i and log D_i. Backward, with
P = exp(score) / D over all branches' scores, a score's gradient is P (dy . v - dy . y), where both y and D are those of the sum:
so each piece is one call of that attention's own backward that is given those in place of the piece's, and the gradient through
D_i is part of it.

A few positions that follow many meet all keys at once: the logarithm of how often a key is seen is added to its score.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from architectures.ops.softmax_attention import attended, fused, gradients, short
from architectures.ops.watching import watchable

ROWS = 64  # queries that meet all keys at once
FUSED = ("cpu", "meta")
"""Devices whose fused attention gives denominators for every type."""
Branches = tuple[tuple[int, int], ...]
"""Positions in a segment, and the rate."""
Heads = Float[Tensor, "batch heads length width"]
Earlier = Float[Tensor, "batch heads total width"]


@watchable
def dilated(q: Heads, k: Heads, v: Heads, branches: Branches, *, causal: bool) -> Heads:
    """All branches, one of which is dense."""
    return _Dilated.apply(q.contiguous(), k.contiguous(), v.contiguous(), branches, causal)


def dilated_last(q: Heads, k: Earlier, v: Earlier, branches: Branches) -> Heads:
    """What the last positions find, whose queries alone are given, where it is causal; all branches begin with the first key."""
    out, total = [], k.shape[2]
    start = total - q.shape[2]
    for part in q.split(ROWS, 2):
        stop = start + part.shape[2]
        seen = _log_counts(start, stop, q.shape[1], branches, q.dtype, q.device)
        out.append(fused(part, k[:, :, :stop], v[:, :, :stop], seen))
        start = stop
    return torch.cat(out, 2) if out[1:] else out[0]


def dilated_definition(q: Tensor, k: Tensor, v: Tensor, branches: Branches, *, causal: bool) -> Tensor:
    """A mask of length x length for each branch and head; powers of all branches, their sum, and the mean."""
    heads, length = q.shape[1:3]
    place = torch.arange(length)
    top = bottom = torch.zeros(())
    for segment, rate in branches:
        same = place[:, None] // segment == place // segment
        kept = torch.stack([place % segment % rate == head % rate for head in range(heads)])
        seen = same & kept[:, :, None] & kept[:, None] & ((place[:, None] >= place) | (not causal))
        powers = torch.exp(q @ k.mT / math.sqrt(q.shape[3])) * seen
        top, bottom = top + powers @ v, bottom + powers.sum(3, keepdim=True)
    return top / bottom


@dataclass(frozen=True)
class Piece:
    """Segments of one size, from `start` on, and in them every `rate`-th position and head from `offset` on."""

    start: int
    count: int
    size: int
    rate: int
    offset: int

    def of(self, x: Tensor) -> Tensor:
        """A view of (batch, heads, length, ...): (batch, heads, segments, kept, ...)."""
        every = slice(self.offset, None, self.rate)
        stop = self.start + self.count * self.size
        return x[:, every, self.start : stop].unflatten(2, (self.count, self.size))[:, :, :, every]

    @property
    def kept(self) -> int:
        """Positions of a segment."""
        return len(range(self.offset, self.size, self.rate))

    def heads(self, heads: int) -> int:
        """Heads that keep these positions, of so many."""
        return len(range(self.offset, heads, self.rate))


@cache
def pieces(length: int, heads: int, branches: Branches) -> tuple[Piece, ...]:
    """All of a sequence: whole segments, and the last one where it is shorter."""

    def cut() -> Iterator[Piece]:
        for segment, rate in sorted(branches, key=lambda branch: branch[1]):  # the dense one first, which is placed as it is
            whole = length // segment
            for start, count, size in ((0, whole, segment), (whole * segment, 1, length % segment)):
                if count:
                    yield from (Piece(start, count, size, rate, offset) for offset in range(min(rate, heads, size)))

    return tuple(cut())


def dilated_kept(length: int, heads: int, branches: Branches) -> int:
    """Positions that all branches and heads keep."""
    return sum(piece.heads(heads) * piece.count * piece.kept for piece in pieces(length, heads, branches))


def dilated_pairs(length: int, heads: int, branches: Branches, *, causal: bool) -> int:
    """Keys that all kept positions see, in all branches and heads."""
    total = 0
    for piece in pieces(length, heads, branches):
        keys = piece.kept + 1 if causal else 2 * piece.kept
        total += piece.heads(heads) * piece.count * piece.kept * keys // 2
    return total


@lru_cache(maxsize=1)  # layers share it
def _log_counts(start: int, stop: int, heads: int, branches: Branches, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Logarithms of how often positions from `start` on see those before `stop`: (1, heads, queries, keys)."""
    with torch.inference_mode(False), torch.no_grad():
        segment, rate = torch.tensor(branches, device=device).T[..., None]
        place = torch.arange(stop, device=device)
        part, offset = place // segment, place % segment % rate
        kept = offset[:, None] == (torch.arange(heads, device=device) % rate)[..., None]
        same = part[:, start:, None] == part[:, None]
        seen = same[:, None] & kept[:, :, start:, None] & kept[:, :, None]
        return seen.sum(0).tril(start).to(dtype).log()[None]


class _Dilated(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, branches: Branches, causal: bool) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        cut = pieces(q.shape[2], q.shape[1], branches)
        found = [_attend(piece.of(q), piece.of(k), piece.of(v), causal) for piece in cut]
        total = found[0][1].new_full(q.shape[:3], -math.inf)
        for piece, (_, log) in zip(cut, found, strict=True):
            torch.logaddexp(piece.of(total), log, out=piece.of(total))
        parts = (
            (y.to(total.dtype), (log - piece.of(total)).exp_()[..., None]) for piece, (y, log) in zip(cut, found, strict=True)
        )
        y, weight = next(parts)
        out = _placed(cut[0], y.mul_(weight), q.shape)
        for piece, (y, weight) in zip(cut[1:], parts, strict=True):
            piece.of(out).addcmul_(y, weight)
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, total)
        ctx.cut, ctx.causal = cut, causal
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        grad, saved = grad.contiguous(), ctx.saved_tensors  # read once, or activations cannot be computed again
        parts = (_gradients(piece.of(grad), *(piece.of(x) for x in saved), causal=ctx.causal) for piece in ctx.cut)
        sums = [_placed(ctx.cut[0], part, grad.shape) for part in next(parts)]
        for piece, some in zip(ctx.cut[1:], parts, strict=True):
            for whole, part in zip(sums, some, strict=True):
                piece.of(whole).add_(part)
        return *sums, None, None


def _placed(piece: Piece, part: Tensor, shape: torch.Size) -> Tensor:
    """A tensor of that shape, the part where it belongs and zeros elsewhere; the part itself where it is all."""
    if part.numel() == shape.numel():
        return part.reshape(shape)
    out = part.new_zeros(shape)
    piece.of(out).copy_(part)
    return out


def _attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """Attention within segments, (batch, heads, segments, kept, width), and the logarithms of the denominators."""
    if q.device.type in FUSED:
        four = _four(q), _four(k), _four(v)
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        y, log = attended(*four, causal=causal) if short(*four) else flash(*four, 0.0, causal)
        return y.reshape(q.shape), log.reshape(q.shape[:-1])
    scores = _scores(q, k, causal)
    log = scores.logsumexp(-1)
    return (scores - log[..., None]).exp().to(v.dtype) @ v, log


def _gradients(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, log: Tensor, *, causal: bool) -> list[Tensor]:
    """Those of queries, keys and values, for outputs and denominators that may be sums over more than this piece."""
    if q.device.type in FUSED:
        given = _four(grad), _four(q), _four(k), _four(v), _four(y)
        logs = log.reshape(given[0].shape[:3]).contiguous()  # fused attention takes them to be
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        found = gradients(*given, logs, causal=causal) if short(*given[1:4]) else flash(*given, logs, 0.0, causal)
        return [x.reshape(q.shape) for x in found]
    powers = (_scores(q, k, causal) - log[..., None]).exp()
    to_scores = powers * (grad @ v.mT - (grad * y).sum(-1, keepdim=True)) / math.sqrt(q.shape[-1])
    to_scores = to_scores.to(q.dtype)
    return [to_scores @ k, to_scores.mT @ q, powers.to(grad.dtype).mT @ grad]


def _four(x: Tensor) -> Tensor:
    """The axes of fused attention, without a copy."""
    return x.flatten(0, 2)[:, None] if x.is_contiguous() else x.flatten(0, 1)


def _scores(q: Tensor, k: Tensor, causal: bool) -> Tensor:
    """All of them, for devices that are not in `FUSED`."""
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    scores = scores if scores.dtype == torch.float64 else scores.float()
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(hidden, -math.inf) if causal else scores
