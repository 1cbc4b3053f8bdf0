"""BigBird: attention among blocks of positions, its cost linear in length. Zaheer et al., arXiv:2007.14062, section 2.

A row is a block of queries. With g first blocks that are global and r random ones, row i sees block j where

    i < g or j < g,   |i - j| <= 1,   or j is one of r blocks drawn from the others, for each layer, head and row anew

and a sequence of no more than g + 2 + r blocks sees all of itself. The causal form is ours, for none is published: keys come
from the past and so do the r blocks, which makes the first g + 2 + r rows dense, and a longer sequence extends a shorter one.
Departures: the authors' code makes the first and the last block global, and a last block moves as a sequence grows; a last
block that is not full is never drawn, so that all layers and heads cost the same.

What a row draws follows from seed, head and row (and in the form that is not causal from the number of blocks). Dense rows
are one call; the others gather their blocks and run at once wherever they see equally many.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from architectures.ops.softmax_attention import softmax_attention
from architectures.ops.watching import watchable


@dataclass(frozen=True)
class BigBird:
    """Positions in a block, global and random blocks, and what the random ones are drawn from."""

    block: int
    first: int
    random: int
    seed: int

    def dense(self, total: int, causal: bool) -> int:
        """Positions at the beginning whose queries see everything, or everything before them."""
        everything = (self.first + 2 + self.random) * self.block
        return min(total, everything if causal or total <= everything else self.first * self.block)

    def runs(self, past: int, total: int, causal: bool) -> list[slice]:
        """The queries that are not dense, cut so that all rows of one run see equally many blocks."""
        start, block, whole = max(past, self.dense(total, causal)), self.block, total // self.block
        edges = [-(-start // block)] if causal else [self.first + 1, whole - 1]
        places = sorted(
            min(max(place, start), total) for place in (start, *(edge * block for edge in edges), whole * block, total)
        )
        return [slice(a, b) for a, b in pairwise(places) if a < b]

    def rows(self, run: slice) -> tuple[int, int]:
        """The first row of a run and how many there are."""
        return run.start // self.block, max(1, (run.stop - run.start) // self.block)

    def window(self, row: int, whole: int, causal: bool) -> tuple[slice, int]:
        """The full blocks that a row gathers as its neighbours, itself among them, and how many others it may draw from."""
        start, stop = max(row - 1, self.first), min(row + (1 if causal else 2), whole)
        return slice(start, stop), (start if causal else whole - (stop - start)) - self.first

    def meets_tail(self, row: int, whole: int, causal: bool) -> bool:
        """Whether a row that is not dense sees the last block where that is not full."""
        return row >= whole - (not causal)

    def chances(self, head: int, row: int, rows: int) -> NDArray[np.float64]:
        """Uniform numbers of each row, which do not depend on where one begins."""
        generator = np.random.PCG64((self.seed, head)).advance(row * self.random)
        return np.random.Generator(generator).random((rows, self.random))


@lru_cache(maxsize=256)
def gathered(pattern: BigBird, heads: int, row: int, rows: int, whole: int, causal: bool) -> NDArray[np.int64]:
    """For each head and each of these rows, which must see equally many: the blocks it gathers, its neighbours last."""
    windows = [pattern.window(i, whole, causal) for i in range(row, row + rows)]
    near = np.array([range(window.start, window.stop) for window, _ in windows], dtype=np.int64)
    others = np.array([count for _, count in windows], dtype=np.int64)
    drawn = np.empty((heads, rows, 0), dtype=np.int64)
    chances = np.stack([pattern.chances(head, row, rows) for head in range(heads)])
    for k in range(min(pattern.random, int(others[0]))):
        pick = (chances[..., k] * (others - k)).astype(np.int64)
        for earlier in np.moveaxis(drawn, 2, 0):  # in ascending order: the pick counts only blocks not yet drawn
            pick = pick + (pick >= earlier)
        drawn = np.sort(np.concatenate([drawn, pick[..., None]], 2), 2)
    drawn = drawn + pattern.first
    drawn = drawn + (drawn >= near[:, :1]) * near.shape[1]
    first = np.broadcast_to(np.arange(pattern.first), (heads, rows, pattern.first))
    return np.concatenate([first, drawn, np.broadcast_to(near, (heads, *near.shape))], 2)


@watchable
def bigbird(q: Tensor, k: Tensor, v: Tensor, pattern: BigBird, *, causal: bool) -> Tensor:
    """(batch, heads, length, width); the queries are those of the last positions, keys and values may go further back."""
    heads, total = k.shape[1:3]
    past, dense, whole = total - q.shape[2], pattern.dense(total, causal), total // pattern.block
    runs = pattern.runs(past, total, causal)
    queries = list(q.split([max(0, dense - past), *(run.stop - run.start for run in runs)], 2))
    out, first = [], queries.pop(0)
    if past < dense:
        reached = [x[:, :, :dense] if causal and dense < total else x for x in (k, v)]
        out.append(softmax_attention(first, *reached, causal=causal))
    tails = [x.split([whole * pattern.block, total % pattern.block], 2) for x in (k, v)]
    blocks = [rearrange(full, "b h (n s) d -> b (h n) s d", s=pattern.block) for full, _ in tails]
    for run, asked in zip(runs, queries, strict=True):
        row, rows = pattern.rows(run)
        table = torch.as_tensor(gathered(pattern, heads, row, rows, whole, causal), device=q.device)
        index = (table + whole * torch.arange(heads, device=q.device)[:, None, None]).flatten()
        met = [rearrange(full.index_select(1, index), "b (r m) s d -> b r (m s) d", r=heads * rows) for full in blocks]
        if pattern.meets_tail(row, whole, causal):
            met = [torch.cat([far, tail], 2) for far, (_, tail) in zip(met, tails, strict=True)]
        part, count, seen = rearrange(asked, "b h (r n) d -> b (h r) n d", r=rows), met[0].shape[2], None
        if causal:
            own = run.start - run.start % pattern.block  # where the row's own block begins, which is the last that it meets
            before = count - min(pattern.block, total - own) + run.start - own
            seen = torch.ones(part.shape[2], count, dtype=torch.bool, device=q.device).tril(before)
        y = softmax_attention(part, *met, seen=seen)
        out.append(rearrange(y, "b (h r) n d -> b h (r n) d", h=heads))
    return torch.cat(out, 2)


def bigbird_definition(q: Tensor, k: Tensor, v: Tensor, pattern: BigBird, *, causal: bool) -> Tensor:
    """All scores, those of blocks that a row does not see at minus infinity, and their softmax."""
    heads, total, block = k.shape[1], k.shape[2], pattern.block
    count, first = -(-total // block), pattern.first
    seen = torch.zeros(heads, total, total, dtype=torch.bool)
    for head in range(heads):
        for row in range(count):
            others = [j for j in range(first, row if causal else total // block) if abs(row - j) > 1]
            drawn = [others.pop(int(chance * len(others))) for chance in pattern.chances(head, row, 1)[0] if others]
            for j in range(count):
                if j < first or row < first or abs(row - j) <= 1 or j in drawn or count <= first + 2 + pattern.random:
                    seen[head, row * block : (row + 1) * block, j * block : (j + 1) * block] = True
    seen = (seen.tril() if causal else seen)[:, total - q.shape[2] :]
    return (q @ k.mT / math.sqrt(q.shape[3])).masked_fill(~seen.to(q.device), -math.inf).softmax(-1) @ v


def bigbird_pairs(length: int, pattern: BigBird, causal: bool) -> int:
    """How many keys all queries of a sequence see, in one head."""
    dense, whole, tail = pattern.dense(length, causal), length // pattern.block, length % pattern.block
    count = dense * (dense + 1) // 2 if causal else dense * length
    for run in pattern.runs(0, length, causal):
        row, rows = pattern.rows(run)
        window, others = pattern.window(row, whole, causal)
        queries = (run.stop - run.start) // rows
        met = (pattern.first + min(pattern.random, others) + window.stop - window.start) * pattern.block
        met += tail * pattern.meets_tail(row, whole, causal)
        ahead = queries * (queries - 1) // 2 if causal else 0
        count += rows * (queries * met - ahead)
    return count
