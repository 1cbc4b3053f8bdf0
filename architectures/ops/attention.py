"""Softmax attention: its exact fast forms with their cost, and the layers made of them.

    y[i] = sum_j p[i,j] v[j],   p[i] = softmax_j(q[i] . k[j] / sqrt(d_h) + bias[i,j]) over the j that i sees

i sees j <= i where it is causal, and |i - j| < window where there is one. Fast forms: one fused call; with a window, blocks of
`window` queries that meet their own block of keys and its neighbours, so that cost is linear in length (Longformer,
arXiv:2004.05150, section 3.1, calls it sliding chunks); with a bias, slices of `ROWS` queries, so that no square of
length x length is held; and BigBird's blocks (ops/bigbird.py).

Relative positions (Dai et al., arXiv:1901.02860, section 3.3) score (q + u) k + (q + v) W_r s for s the sinusoid of the
distance, with u and v zero at first; W_r s is computed for each sequence anew, and every slice of `ROWS` queries meets all
distances up to its farthest key. ALiBi: Press et al., arXiv:2108.12409.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from architectures.backbone import Flops, SequenceMap, State, Tuning
from architectures.ops.bigbird import BigBird, bigbird, bigbird_pairs
from architectures.ops.positions import alibi_slopes, distances, rotate, sinusoids
from architectures.ops.softmax_attention import fused, softmax_attention
from architectures.ops.watching import watchable

SOFTMAX = 5  # operations for each score
ROWS = 64

Heads = Float[Tensor, "batch heads length width"]
Bias = Callable[[slice, slice], Tensor]
"""Added to the scores of a slice of queries and a slice of keys, both counted from the first key. It has four axes, or two."""


@watchable
def attend(q: Heads, k: Tensor, v: Tensor, *, causal: bool, window: int | None = None, bias: Bias | None = None) -> Heads:
    """The queries are those of the last positions; keys and values may go further back, and fewer heads of them be shared."""
    new, total = q.shape[2], k.shape[2]
    if new == 1 and bias is None and (window is None or window >= total):
        return _lone(q, k, v)
    k, v = shared(k, q.shape[1]), shared(v, q.shape[1])
    if bias is not None:
        return _biased(q, k, v, causal, window, bias)
    if window is not None and window < total:
        return _banded(q, k, v, causal, window)
    return softmax_attention(q, k, v, causal=causal)


def shared(x: Tensor, heads: int) -> Tensor:
    """Keys or values, each head of which serves as many heads of queries in a row as there are for one (Ainslie et al.,
    arXiv:2305.13245, section 2.2).
    """
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)


def _lone(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One query a head, which sees all keys: those that share keys are queries of one head, and no key is copied."""
    return softmax_attention(q.reshape(*k.shape[:2], -1, q.shape[3]), k, v).reshape(q.shape)


@dataclass
class _Room:
    """A buffer that is longer than what it holds: beyond `used` positions nobody looks."""

    buffer: Tensor
    used: int


def appended(old: Tensor, new: Tensor) -> Tensor:
    """`new` after `old` along the length. Without gradients room is left for what follows, so that not all that was before is
    copied for each position; `old` keeps its values, and whoever appends to it a second time gets a copy.
    """
    if torch.is_grad_enabled():
        return torch.cat([old.to(new.dtype), new], 2)
    past, total = old.shape[2], old.shape[2] + new.shape[2]
    room: _Room | None = getattr(old, "room", None)
    if (
        room is None
        or room.used != past
        or room.buffer.shape[2] < total
        or room.buffer.dtype != new.dtype
        or room.buffer.is_inference() != torch.is_inference_mode_enabled()
    ):
        room = _Room(new.new_empty(*new.shape[:2], total + total // 2 + 32, new.shape[3]), past)
        room.buffer[:, :, :past] = old
    room.buffer.narrow(2, past, new.shape[2]).copy_(new)
    room.used = total
    both = room.buffer.narrow(2, 0, total)
    both.room = room  # pyright: ignore[reportAttributeAccessIssue]
    return both


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
        out.append(fused(part, k[:, :, columns], v[:, :, columns], mask))
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
        return softmax_attention(part, k[:, :, columns], v[:, :, columns], seen=seen)

    def blocks(x: Tensor, first: int, count: int) -> Tensor:
        return x[:, :, first : first + count * window].unflatten(2, (count, window))

    out = [edge(parts[0])]
    if inner:
        seen = visible(slice(window, 2 * window), slice(0, neighbours * window), causal, window, q.device)
        near = [
            torch.cat([blocks(x, past + side * window, inner) for side in range(neighbours)], 3).transpose(1, 2).flatten(0, 1)
            for x in (k, v)
        ]
        y = softmax_attention(blocks(q, window, inner).transpose(1, 2).flatten(0, 1), *near, seen=seen)
        out.append(y.unflatten(0, (len(q), inner)).transpose(1, 2).flatten(2, 3))
    return torch.cat([*out, *(edge(rows) for rows in parts[1 + inner :])], 2)


class Attention(SequenceMap):
    """Multi-head attention; the state is the keys and values of all positions so far, or of the last ones in a window."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        causal: bool,
        rope: bool,
        bias: bool,
        kv_heads: int | None = None,
        window: int | None = None,
        alibi: bool = False,
        blocks: BigBird | None = None,
    ) -> None:
        super().__init__()
        self.dim, self.heads, self.kv_heads, self.width = dim, heads, kv_heads or heads, dim // heads
        self.causal, self.rope, self.window, self.alibi, self.blocks = causal, rope, window, alibi, blocks
        self.qkv = nn.Linear(dim, dim + 2 * self.kv_heads * self.width, bias)
        self.out = nn.Linear(dim, dim, bias)

    def init_state(self, batch: int) -> State:
        empty = self.zeros(batch, self.kv_heads, 0, self.width)
        return empty, empty

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        if not x.shape[1]:
            return x, state
        split = self.qkv(x).unflatten(2, (-1, self.width)).transpose(1, 2)
        past = state[0].shape[2]
        if self.rope and self.window is None:
            qk, v = torch.split_with_sizes(split, [self.heads + self.kv_heads, self.kv_heads], 1)
            q, k = torch.split_with_sizes(rotate(qk, past), [self.heads, self.kv_heads], 1)
        else:
            q, k, v = torch.split_with_sizes(split, [self.heads, self.kv_heads, self.kv_heads], 1)
        if past:
            k, v = appended(state[0], k), appended(state[1], v)
        state = k, v
        if self.window is not None:
            kept = slice(max(0, k.shape[2] - self.window + 1), None)
            state = k[:, :, kept], v[:, :, kept]
        if self.rope and self.window is not None:  # only distances matter, and a window forgets how long it has run
            q, k = rotate(q, past), rotate(k, 0)
        q, bias = self.placed(q, k.shape[2])
        if self.blocks is None:
            y = attend(q, k, v, causal=self.causal, window=self.window, bias=bias)
        else:
            y = bigbird(q, shared(k, self.heads), shared(v, self.heads), self.blocks, causal=self.causal)
        return self.out(y.transpose(1, 2).flatten(2)), state

    def placed(self, q: Tensor, total: int) -> tuple[Tensor, Bias | None]:
        """The queries that meet the keys, and what is added to their scores."""
        if not self.alibi:
            return q, None
        slopes = torch.tensor(alibi_slopes(self.heads), device=q.device, dtype=q.dtype)[None, :, None, None]
        return q, lambda rows, columns: -slopes * distances(rows, columns, q.device).abs()

    def pairs(self, length: int) -> int:
        """How many keys all queries of a sequence see, in one head."""
        if self.blocks is not None:
            return bigbird_pairs(length, self.blocks, self.causal)
        return pairs(length, self.causal, self.window)

    def flops(self, length: int) -> Flops:
        seen, keys = self.pairs(length), self.kv_heads * self.width
        rotary = 3 * length * (self.dim + keys) if self.rope else 0
        biases = 0 if self.out.bias is None else 2 * length * (self.dim + keys)
        return Flops(
            contraction=4 * length * self.dim * (self.dim + keys) + 4 * seen * self.dim,
            mixing=(SOFTMAX + self.alibi) * seen * self.heads,
            pointwise=rotary + biases,
        )


class RelativeAttention(Attention):
    """Attention whose scores also read the distance, with learned biases u (content) and v (place) of the queries."""

    tuned: ClassVar[Mapping[str, Tuning]] = {"content": Tuning(), "place": Tuning()}

    def __init__(self, dim: int, heads: int, **settings: Any) -> None:
        super().__init__(dim, heads, **settings)
        self.distance = nn.Linear(dim, dim, bias=False)
        self.content = nn.Parameter(torch.zeros(heads, 1, self.width))
        self.place = nn.Parameter(torch.zeros(heads, 1, self.width))

    def placed(self, q: Tensor, total: int) -> tuple[Tensor, Bias | None]:
        past, (low, high) = total - q.shape[2], self._range(total)
        waves = sinusoids(low, high, self.distance.weight).expand(len(q), -1, -1)
        keys = rearrange(self.distance(waves), "b n (h d) -> b h d n", h=self.heads)
        queries = (q + self.place) / math.sqrt(self.width)

        def bias(rows: slice, columns: slice) -> Tensor:
            met = self._met(rows, columns, total)
            scores = queries[:, :, rows.start - past : rows.stop - past] @ keys[..., met.start - low : met.stop - low]
            place = (distances(rows, columns, q.device) - met.start).clamp(0, met.stop - met.start - 1)
            return scores.gather(3, place.expand(*scores.shape[:2], -1, -1))

        return q + self.content, bias

    def _range(self, total: int) -> tuple[int, int]:
        """Distances there are from a query to the keys it sees."""
        reach = min(total, self.window or total)
        return 0 if self.causal else 1 - reach, reach

    def _met(self, rows: slice, columns: slice, total: int) -> slice:
        """Distances that these queries meet among these keys."""
        low, high = self._range(total)
        return slice(max(low, rows.start - columns.stop + 1), min(high, rows.stop - columns.start))

    def flops(self, length: int) -> Flops:
        low, high = self._range(length)
        scores = 0
        for rows in slices(length, length, ROWS):
            met = self._met(rows, reached(rows, length, self.causal, self.window), length)
            scores += (rows.stop - rows.start) * (met.stop - met.start)
        placed = Flops(
            contraction=2 * (high - low) * self.dim**2 + 2 * scores * self.dim,
            mixing=self.pairs(length) * self.heads,
            pointwise=2 * length * self.dim,
        )
        met, keys = 2 * self.pairs(length) * self.dim, Flops(contraction=2 * (high - low) * self.dim**2)
        return super().flops(length) + placed.or_cheaper(replace(placed, contraction=met, shared=keys))
