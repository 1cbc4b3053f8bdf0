"""LSTM that looks back: additive attention over its own strictly earlier states.

    h = LSTM(x);   e[t,j] = v . tanh(W_q h[t] + b + W_k h[j]),  j < t
    c[t] = sum_j softmax_j(e[t])[j] h[j],  c[0] = 0;   y[t] = tanh(W [h[t]; c[t]])

Additive scores: Bahdanau et al., arXiv:1409.0473, appendix A.1.2; a language model that attends to its own past as here:
Daniluk et al., arXiv:1702.04521, section 2. Departures: the LSTM never reads c, so that it runs over the whole sequence first
and attention after it in parallel; and the past is the whole past instead of a window. The LSTM is that of ops/gates.py, input
weights uniform in +-1/sqrt(dim), recurrent ones orthogonal for each gate, forget bias 1; the linear maps start as torch's.
"""

from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn

from architectures.backbone import Flops, SequenceMap, State
from architectures.ops import gates
from architectures.ops.additive_attention import additive_attention
from architectures.stack import Mixer, Stack, both_ways


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
        old_keys = old_keys.to(keys.dtype)
        context = additive_attention(queries, keys, h, self.score.weight[0], old_keys, old)
        state = cells, torch.cat([old_keys, keys], 1), torch.cat([old, h], 1)
        return torch.tanh(self.out(torch.cat([h, context], 2))), state

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
