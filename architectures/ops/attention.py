"""Softmax attention in three exact forms, its positions and its cost.

    y[i] = sum_j p[i,j] v[j],   p[i] = softmax_j(q[i] . k[j] / sqrt(d_h) + bias[i,j]) over the j that i sees

i sees j <= i where it is causal, and |i - j| < window where there is one. Fast forms: one fused call; with a window, blocks of
`window` queries that meet their own block of keys and its neighbours, so that cost is linear in length (Longformer,
arXiv:2004.05150, section 3.1, calls it sliding chunks); with a bias, slices of `ROWS` queries, so that no square of
length x length is held.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

SOFTMAX = 5  # operations for each score
ROWS = 64

Heads = Float[Tensor, "batch heads length width"]
Bias = Callable[[slice, slice], Tensor]
"""Added to the scores of a slice of queries and a slice of keys, both counted from the first key. It has four axes, or two."""


def attend(q: Heads, k: Tensor, v: Tensor, *, causal: bool, window: int | None = None, bias: Bias | None = None) -> Heads:
    """The queries are those of the last positions; keys and values may go further back."""
    new, total = q.shape[2], k.shape[2]
    past = total - new
    if bias is not None:
        return _biased(q, k, v, causal, window, bias)
    if window is not None and window < total:
        return _banded(q, k, v, causal, window)
    seen = torch.ones(new, total, dtype=torch.bool, device=q.device).tril(past) if past else None
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=causal and not past)


def attend_definition(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, window: int | None, bias: Bias | None) -> Tensor:
    """All scores, those not seen at minus infinity, and their softmax."""
    new, total = q.shape[2], k.shape[2]
    scores = q @ k.mT / math.sqrt(q.shape[3])
    rows, columns = slice(total - new, total), slice(0, total)
    if bias is not None:
        scores = scores + bias(rows, columns)
    return scores.masked_fill(~visible(rows, columns, causal, window, q.device), -math.inf).softmax(-1) @ v


def visible(rows: slice, columns: slice, causal: bool, window: int | None, device: torch.device) -> Bool[Tensor, "rows columns"]:
    """Which keys the queries see."""
    away = distances(rows, columns, device)
    seen = away >= 0 if causal else torch.ones_like(away, dtype=torch.bool)
    return seen if window is None else seen & (away.abs() < window)


def distances(rows: slice, columns: slice, device: torch.device) -> Tensor:
    """How far each key lies behind each query."""
    return torch.arange(rows.start, rows.stop, device=device)[:, None] - torch.arange(columns.start, columns.stop, device=device)


def pairs(length: int, causal: bool, window: int | None = None) -> int:
    """How many keys all queries of a sequence see."""
    reach = min(length, window or length)
    behind = reach * (reach - 1) // 2 + (length - reach) * (reach - 1)  # keys strictly before a query
    return length + behind * (1 if causal else 2)


def reached(rows: slice, total: int, causal: bool, window: int | None) -> slice:
    """The keys that any of these queries sees."""
    if window is None:
        return slice(0, rows.stop if causal else total)
    return slice(max(0, rows.start - window + 1), rows.stop if causal else min(total, rows.stop + window - 1))


def slices(new: int, total: int, rows: int) -> list[slice]:
    """The last `new` of `total` positions, `rows` at a time."""
    return [slice(start, min(start + rows, total)) for start in range(total - new, total, rows)]


def _biased(q: Tensor, k: Tensor, v: Tensor, causal: bool, window: int | None, bias: Bias) -> Tensor:
    total, out = k.shape[2], []
    for rows, part in zip(slices(q.shape[2], total, ROWS), q.split(ROWS, 2), strict=True):
        columns = reached(rows, total, causal, window)
        hidden = ~visible(rows, columns, causal, window, q.device)
        mask = bias(rows, columns).to(q.dtype).masked_fill(hidden, -math.inf)
        out.append(F.scaled_dot_product_attention(part, k[:, :, columns], v[:, :, columns], attn_mask=mask))
    return torch.cat(out, 2)


def _banded(q: Tensor, k: Tensor, v: Tensor, causal: bool, window: int) -> Tensor:
    """Blocks whose neighbours are whole run at once; the first and the last ones by themselves."""
    total, parts = k.shape[2], slices(q.shape[2], k.shape[2], window)
    past = parts[0].start
    neighbours = 2 if causal else 3
    inner = max(0, (total - past) // window - neighbours + 1)

    def edge(rows: slice) -> Tensor:
        columns = reached(rows, total, causal, window)
        seen = visible(rows, columns, causal, window, q.device)
        part = q[:, :, rows.start - past : rows.stop - past]
        return F.scaled_dot_product_attention(part, k[:, :, columns], v[:, :, columns], attn_mask=seen)

    def blocks(x: Tensor, first: int, count: int) -> Tensor:
        return x[:, :, first : first + count * window].unflatten(2, (count, window))

    out = [edge(parts[0])]
    if inner:
        seen = visible(slice(window, 2 * window), slice(0, neighbours * window), causal, window, q.device)
        near = [
            torch.cat([blocks(x, past + side * window, inner) for side in range(neighbours)], 3).transpose(1, 2).flatten(0, 1)
            for x in (k, v)
        ]
        y = F.scaled_dot_product_attention(blocks(q, window, inner).transpose(1, 2).flatten(0, 1), *near, attn_mask=seen)
        out.append(y.unflatten(0, (len(q), inner)).transpose(1, 2).flatten(2, 3))
    return torch.cat([*out, *(edge(rows) for rows in parts[1 + inner :])], 2)


def rotate(x: Float[Tensor, "*batch length dim"], start: int) -> Float[Tensor, "*batch length dim"]:
    """Turn the pair (x[m], x[m + dim/2]) at position p by the angle p * 10000^(-2m/dim); the first position is `start`."""
    length, dim = x.shape[-2:]
    frequency = 10_000 ** (-torch.arange(0, dim, 2, device=x.device, dtype=torch.float64) / dim)
    angle = torch.arange(start, start + length, device=x.device, dtype=torch.float64)[:, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x.chunk(2, -1)
    turned = torch.cat([first * cos - second * sin, first * sin + second * cos], -1)
    return turned if turned.stride(-1) == 1 else turned.contiguous()  # fused attention asks for it; heads two wide may lack it


def sinusoids(start: int, stop: int, like: Float[Tensor, "*any dim"]) -> Float[Tensor, "length dim"]:
    """Positions from `start` on, which may be negative: sines, then cosines, of p * 10000^(-2m/dim), as wide as `like`."""
    dim = like.shape[-1]
    frequency = 10_000 ** (-torch.arange(0, dim, 2, device=like.device, dtype=torch.float64) / dim)
    angle = torch.arange(start, stop, device=like.device, dtype=torch.float64)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], 1).to(like.dtype)


def alibi_slopes(heads: int) -> list[float]:
    """2^(-8/heads), 2^(-16/heads), ..., 2^-8: what a score loses with each position of distance."""
    return [2 ** (-8 * (head + 1) / heads) for head in range(heads)]
