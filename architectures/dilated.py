"""LongNet: dilated attention, whose cost is linear in length and whose reach is its longest segment.

A branch (w, r) cuts the sequence into segments of w positions; in each, head j keeps the positions j mod r, + r, + 2r, ... and
attends among them. With D_i the softmax denominator of branch i at a position and head that it keeps, and y_i what it found:

    y = sum_i D_i / (sum_k D_k) y_i,   over the branches that keep the position

which is one softmax over all that any branch sees, counted as often as it is seen. Ding et al., arXiv:2307.02486, sections 2.2
and 2.3; gradients pass through the D_i, while the authors' code holds them constant. Departures: rotary positions instead of
xPos, the shared pre-norm block with the shared channel mixer, and branches for short sequences by default.

Kept positions are gathered and attend in slices of `ROWS` queries to all keys up to the slice's last one, so some masked
scores are computed, and declared. Streaming remembers the inputs of the current longest segment and reads that again.
"""

import math
from typing import Annotated

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from architectures.backbone import Flops, SequenceMap, State
from architectures.ops.attention import SOFTMAX, slices
from architectures.ops.positions import rotate
from architectures.stack import Mixer, Stack

ROWS = 16
Branches = tuple[tuple[int, int], ...]


def dilated(q: Tensor, k: Tensor, v: Tensor, branches: Branches, *, causal: bool) -> Tensor:
    """(batch, heads, length, width) queries, keys and values to outputs, by all branches (w, r)."""
    found = [_branch(q, k, v, segment, rate, causal) for segment, rate in branches]
    weights = torch.stack([logs for _, logs in found]).softmax(0).to(v.dtype)
    return (weights[..., None] * torch.stack([y for y, _ in found])).sum(0)


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


def dilated_scores(length: int, branches: Branches, *, causal: bool) -> int:
    """Scores that one head computes."""
    total = 0
    for segment, rate in branches:
        for count, size in ((length // segment, segment), (1, length % segment)):
            kept = -(-size // rate)
            total += count * sum((rows.stop - rows.start) * (rows.stop if causal else kept) for rows in slices(kept, kept, ROWS))
    return total


def _branch(q: Tensor, k: Tensor, v: Tensor, segment: int, rate: int, causal: bool) -> tuple[Tensor, Tensor]:
    """Outputs of one branch and the logarithms of its denominators, which are -inf where it keeps nothing."""
    length = q.shape[2]
    whole = length - length % segment
    parts = []
    for start, stop in ((0, whole), (whole, length)):
        if start < stop:
            pieces = (-1, min(segment, stop - start))
            one, two, three = (t[:, :, start:stop].unflatten(2, pieces) for t in (q, k, v))
            parts.append([t.flatten(2, 3) for t in _segments(one, two, three, rate, causal)])
    ys, logs = zip(*parts, strict=True)
    return torch.cat(ys, 2), torch.cat(logs, 2)


def _segments(q: Tensor, k: Tensor, v: Tensor, rate: int, causal: bool) -> tuple[Tensor, Tensor]:
    """All segments of one size: (batch, heads, segments, size, width)."""
    batch, heads, count, size, width = q.shape
    kept = -(-size // rate)
    offset = torch.arange(heads, device=q.device) % rate
    pick = offset.view(heads, 1, 1, 1, 1).expand(batch, heads, count, kept, 1, width)

    def spread(x: Tensor) -> Tensor:
        return nn.functional.pad(x, (0, 0, 0, kept * rate - size)).unflatten(3, (kept, rate))

    q, k, v = (spread(t).gather(4, pick).squeeze(4) for t in (q, k, v))
    place = torch.arange(kept, device=q.device)
    missing = place * rate + offset[:, None] >= size  # only in a last segment
    ys, logs = [], []
    for rows, part in zip(slices(kept, kept, ROWS), q.split(ROWS, 3), strict=True):
        keys = rows.stop if causal else kept
        scores = part @ k[..., :keys, :].mT / math.sqrt(width)
        scores = scores if scores.dtype == torch.float64 else scores.float()
        hidden = (place[rows, None] < place[:keys]) if causal else missing[:, None, None, :keys]
        scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min / 2)  # rows without a key are cut off below
        ys.append(scores.softmax(-1).to(v.dtype) @ v[..., :keys, :])
        logs.append(scores.logsumexp(-1))
    y, log = torch.cat(ys, 3), torch.cat(logs, 3)
    y = y.new_zeros(*y.shape[:4], rate, width).scatter(4, pick, y[..., None, :])
    log = log.new_full((*log.shape, rate), -math.inf).scatter(4, pick[..., 0], log[..., None])
    return y.flatten(3, 4)[:, :, :, :size], log.flatten(3, 4)[:, :, :, :size]


class DilatedAttention(SequenceMap):
    """Multi-head dilated attention; the state is the inputs since the longest segment began."""

    def __init__(self, dim: int, heads: int, branches: Branches, *, causal: bool) -> None:
        super().__init__()
        self.dim, self.heads, self.branches, self.causal = dim, heads, branches, causal
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        q, k, v = rearrange(self.qkv(x), "b l (three h d) -> three b h l d", three=3, h=self.heads).unbind(0)
        y = dilated(rotate(q, 0), rotate(k, 0), v, self.branches, causal=self.causal)
        return self.out(rearrange(y, "b h l d -> b l (h d)"))

    def init_state(self, batch: int) -> State:
        return self.zeros(batch, 0, self.dim)

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        if not x.shape[1]:
            return x, state
        seen = torch.cat([state.to(x.dtype), x], 1)
        longest = max(segment for segment, _ in self.branches)
        return self.forward(seen)[:, state.shape[1] :], seen[:, seen.shape[1] - seen.shape[1] % longest :]

    def flops(self, length: int) -> Flops:
        scores, branches = dilated_scores(length, self.branches, causal=self.causal), len(self.branches)
        joined = length * branches * (SOFTMAX * self.heads + 2 * self.dim)
        return Flops(
            contraction=8 * length * self.dim**2 + 4 * scores * self.dim,
            mixing=SOFTMAX * scores * self.heads + joined,
            pointwise=6 * length * self.dim,
        )


class Dilated(Stack):
    """Dilated attention (LongNet). Ding et al., arXiv:2307.02486."""

    def __init__(
        self,
        dim: int,
        depth: int,
        *,
        causal: bool = True,
        heads: Annotated[int, "attention heads"] = 4,
        segment: Annotated[int, "positions in the shortest segments, which are attended to densely"] = 64,
        growth: Annotated[int, "factor of segment and dilation rate from one branch to the next"] = 2,
        branches: Annotated[int, "branches of ever longer segments and higher rates"] = 4,
        mlp: Annotated[Mixer, "channel mixer after each attention"] = "swiglu",
        hidden: Annotated[int | None, "hidden width of the channel mixer; none given: 8/3 dim (swiglu) or 4 dim"] = None,
    ) -> None:
        if heads < 1 or dim % heads or dim // heads % 2:
            raise ValueError(f"heads={heads} must divide dim={dim} into even parts")
        if segment < 1 or growth < 1 or branches < 1:
            raise ValueError(f"segment={segment}, growth={growth}, branches={branches}: each is at least 1")
        shape = tuple((segment * growth**branch, growth**branch) for branch in range(branches))
        super().__init__(
            dim, depth, lambda: DilatedAttention(dim, heads, shape, causal=causal), causal=causal, mlp=mlp, hidden=hidden
        )
