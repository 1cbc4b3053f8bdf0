"""LSTM that looks back: additive attention over its own strictly earlier states.

    h = LSTM(x);   e[t,j] = v . tanh(W_q h[t] + b + W_k h[j]),  j < t
    c[t] = sum_j softmax_j(e[t])[j] h[j],  c[0] = 0;   y[t] = tanh(W [h[t]; c[t]])

Additive scores: Bahdanau et al., arXiv:1409.0473, appendix A.1.2; a language model that attends to its own past as here:
Daniluk et al., arXiv:1702.04521, section 2. Departures: the LSTM never reads c, so that it runs over the whole sequence first
and attention after it in parallel; and the past is the whole past instead of a window. The LSTM is that of ops/gates.py, input
weights uniform in +-1/sqrt(dim), recurrent ones orthogonal for each gate, forget bias 1; the linear maps start as torch's.

The triangle of pairs j < t is cut into squares that need no mask: at level 0, 1, 2, ... every second block of 2^level
positions attends to the block before it, and one softmax over the levels' log-denominators joins what they found. So exactly
L(L-1)/2 pairs are computed. A square is read in slices of queries, and backward recomputes a slice: tanh(...) of all pairs
is never kept.
"""

import math
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from architectures.backbone import Flops, SequenceMap, State
from architectures.ops import gates
from architectures.stack import Mixer, Stack, both_ways

PAIRS = 2**15  # pairs of one sequence that are held at once


class Lookback(SequenceMap):
    """LSTM and attention; the state is the LSTM's (h, c) with the keys W_k h and the states h of all positions so far."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.dim, self.width = dim, width
        self.lstm = nn.LSTM(dim, dim, batch_first=True)
        self.query = nn.Linear(dim, width)
        self.key = nn.Linear(dim, width, bias=False)
        self.score = nn.Linear(width, 1, bias=False)
        self.out = nn.Linear(2 * dim, dim, bias=False)
        gates.initialise_gates(self.lstm)

    def init_state(self, batch: int) -> State:
        cells = self.zeros(1, batch, self.dim), self.zeros(1, batch, self.dim)
        return cells, self.zeros(batch, 0, self.width), self.zeros(batch, 0, self.dim)

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        if not x.shape[1]:
            return x, state
        cells, old_keys, old = state
        h, cells = gates.lstm(self.lstm, x, cells)
        h = h.to(x.dtype)
        queries, keys = self.query(h), self.key(h)
        context = self.look_back(queries, keys, h, old_keys.to(keys.dtype), old)
        state = cells, torch.cat([old_keys.to(keys.dtype), keys], 1), torch.cat([old, h], 1)
        return torch.tanh(self.out(torch.cat([h, context], 2))), state

    def look_back(self, queries: Tensor, keys: Tensor, h: Tensor, old_keys: Tensor, old: Tensor) -> Tensor:
        """c[t] for every position, from all of `old` and what is earlier in `h`."""
        batch, length, _ = h.shape
        nothing = h.new_full((batch, length), -math.inf, dtype=torch.float32 if h.dtype != torch.float64 else h.dtype)
        first = torch.cat([torch.zeros_like(nothing[:, :1]), nothing[:, 1:]], 1)  # the only context there is no past for
        found = [(first, torch.zeros_like(h))]
        if old.shape[1]:
            logs, context = self._square(queries[:, None], old_keys[:, None], old[:, None])
            found = [(logs[:, 0], context[:, 0])]
        size = 1
        while size < length:
            found.append(self._level(queries, keys, h, size, nothing))
            size *= 2
        weights = torch.stack([logs for logs, _ in found]).softmax(0).to(h.dtype)
        return (weights[..., None] * torch.stack([context for _, context in found])).sum(0)

    def _level(self, queries: Tensor, keys: Tensor, h: Tensor, size: int, nothing: Tensor) -> tuple[Tensor, Tensor]:
        """Every second block of `size` positions attends to the one before it; log-denominators and contexts of all positions."""
        length = h.shape[1]
        whole = length - length % (2 * size)
        logs, contexts = [], []
        for start, end in ((0, whole), (whole, length)):
            if end - start <= size:  # no block before the last one is left
                logs.append(nothing[:, start:end])
                contexts.append(torch.zeros_like(h[:, start:end]))
                continue
            pair = (-1, min(2 * size, end - start))
            q, k, v = (part[:, start:end].unflatten(1, pair) for part in (queries, keys, h))
            log, context = self._square(q[:, :, size:], k[:, :, :size], v[:, :, :size])
            logs.append(torch.cat([nothing[:, start:end].unflatten(1, pair)[:, :, :size], log], 2).flatten(1, 2))
            contexts.append(torch.cat([torch.zeros_like(v[:, :, :size]), context], 2).flatten(1, 2))
        return torch.cat(logs, 1), torch.cat(contexts, 1)

    def _square(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All queries of a block attend to all its keys: (batch, blocks, rows) log-denominators and their contexts."""
        rows = max(1, PAIRS // (k.shape[1] * k.shape[2]))
        parts = [checkpoint(self._slice, part, k, v, use_reentrant=False) for part in q.split(rows, 2)]
        logs, contexts = zip(*parts, strict=True)
        return torch.cat(logs, 2), torch.cat(contexts, 2)

    def _slice(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.score(torch.tanh(q[:, :, :, None] + k[:, :, None])).squeeze(-1)
        scores = scores if scores.dtype == torch.float64 else scores.float()
        return scores.logsumexp(-1), F.softmax(scores, -1).to(v.dtype) @ v

    def flops(self, length: int) -> Flops:
        # mixing: the LSTM; for each pair sum and tanh of the score, and five for the softmax
        pairs = length * (length - 1) // 2
        return Flops(
            contraction=length * (20 * self.dim**2 + 4 * self.dim * self.width) + 2 * pairs * (self.width + self.dim),
            mixing=gates.LSTM * length * self.dim + pairs * (2 * self.width + 5),
            pointwise=length * (self.width + self.dim),
        )


class LSTMAttention(Stack):
    """LSTM with additive attention over its own past. Bahdanau et al., arXiv:1409.0473."""

    def __init__(
        self,
        dim: int,
        depth: int,
        *,
        causal: bool = True,
        width: Annotated[int | None, "hidden width of the attention scores; none given: dim"] = None,
        mlp: Annotated[Mixer, "channel mixer after each recurrence"] = "swiglu",
        hidden: Annotated[int | None, "hidden width of the channel mixer; none given: 8/3 dim (swiglu) or 4 dim"] = None,
    ) -> None:
        layer = both_ways(dim, lambda: Lookback(dim, width or dim), causal)
        super().__init__(dim, depth, layer, causal=causal, mlp=mlp, hidden=hidden)
