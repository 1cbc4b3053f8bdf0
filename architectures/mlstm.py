"""mLSTM: a matrix memory written with an exponential input gate and read through a normaliser, within a gated block of its own.

    C[t] = f[t] C[t-1] + i[t] v[t] k[t]^T;   n[t] = f[t] n[t-1] + i[t] k[t]           i = exp(i'), f = logistic(f'), for each head
    h[t] = C[t] q[t] / max(|n[t] q[t]|, 1)
    x, z = W_up u;   c = silu(conv(x));   q, k, v = W_q c, W_k c, W_v x;   i', f' = W (q, k, v) + b;   then k / sqrt(width)
    out = W_down ((norm_head(h) + skip * c) * silu(z))

xLSTM (Beck et al., arXiv:2405.04517): sections 2.3 and 2.4, and the appendix's figure of the block. Exp(i') needs a stabiliser m:
C and n are kept multiplied by e^-m, and the 1 above becomes e^-m. The paper's is m[t] = max(log f[t] + m[t-1], i'[t]). No output
and no gradient depends on it, so here it is a constant to differentiation, and never negative, for e^-m not to overflow either.
So the gates of the stabilised state, e^(log f[t] + m[t-1] - m[t]) and e^(i'[t] - m[t]), stay in [0, 1], and C with n as one more
column is linear attention with a decay for each head, in chunks (ops/linear_attention.py).

As in the authors' code: x and z twice as wide as dim; a convolution of 4 taps with bias; W_q, W_k and W_v in blocks of 4 by 4;
norm_head a LayerNorm (eps 1e-5) with a weight for each channel; LayerNorm without bias before each block and after the last.
W_up, W_q, W_k and W_v are N(0, 2 / (5 dim)), W_down N(0, 4 / (depth^2 dim)), skip is one; W is zero, b is N(0, 0.01) for i' and
rises from 3 to 6 over the heads for f'. It has no channel mixer, so `mlp` is none and two layers compare with one of others.
Departures: the inner width is not rounded up to a multiple of 64, nothing is added to the denominator, and embeddings are of the
lab's scale.
"""

import math
from functools import partial
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from architectures.backbone import Flops, SequenceMap, State
from architectures.ops.block_product import SIDE, block_product
from architectures.ops.linear_attention import linear_attention, linear_attention_flops
from architectures.ops.short_convolution import ShortConvolution
from architectures.ops.silu import gated_silu
from architectures.stack import NORM, Mixer, Stack, both_ways

Keys = Float[Tensor, "batch length heads key"]
Values = Float[Tensor, "batch length heads value"]
Gates = Float[Tensor, "batch length heads"]
Memory = Float[Tensor, "batch heads key value+1"]
Stabiliser = Float[Tensor, "batch heads"]


def mlstm(q: Keys, k: Keys, v: Values, i: Gates, f: Gates, memory: Memory, m: Stabiliser) -> tuple[Values, Memory, Stabiliser]:
    """All h, and the last C^T beside n, and m, from gates before their activation."""
    log_f = F.logsigmoid(f)
    with torch.no_grad():
        total = log_f.double().cumsum(1)  # a sum over the whole sequence, which cancels below
        highest = torch.maximum(m[:, None], (i - total).cummax(1).values)
        now = (highest + total).clamp_min(0).to(m.dtype)
        before = torch.cat([m[:, None], now[:, :-1]], 1)
        floor = (-now).exp().clamp_min(torch.finfo(now.dtype).tiny)  # a query of zeros would be 0 / 0
    written = (i - now).exp()[..., None] * k
    read, memory = linear_attention(q, written, F.pad(v, (0, 1), value=1.0), log_f + before - now, memory)
    h, normaliser = read.split([v.shape[-1], 1], -1)
    return h / torch.maximum(normaliser.abs(), floor[..., None]), memory, now[:, -1]


def mlstm_definition(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, memory: Tensor, m: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The recurrence as it is written, with the paper's stabiliser."""
    C, n, out = memory[..., :-1].mT, memory[..., -1], []
    for t in range(v.shape[1]):
        forgotten = F.logsigmoid(f[:, t]) + m
        m = torch.maximum(forgotten, i[:, t])
        decay, gate = (forgotten - m).exp()[..., None], (i[:, t] - m).exp()[..., None]
        C = decay[..., None] * C + (gate * v[:, t])[..., None] * k[:, t, :, None]
        n = decay * n + gate * k[:, t]
        normaliser = torch.maximum((n * q[:, t]).sum(-1).abs(), (-m).exp())
        out.append((C * q[:, t, :, None]).sum(-1) / normaliser[..., None])
    return torch.stack(out, 1), torch.cat([C.mT, n[..., None]], -1), m


def mlstm_flops(length: int, heads: int, key: int, value: int) -> Flops:
    """Linear attention, with n as one more value.

    Mixing besides: log f, its sum with m, two comparisons, the decay's exponent; exp(i' - m) and its product with k; exp(-m), the
    size of n q, a comparison and a quotient.
    """
    stabilised = Flops(mixing=10 + key + value) * (length * heads)
    return linear_attention_flops(length, heads, key, value + 1) + stabilised


class MatrixLSTM(SequenceMap):
    """The block inside its residual branch; the state is that of the convolution, C^T beside n for each head, and m."""

    def __init__(self, dim: int, heads: int, depth: int) -> None:
        super().__init__()
        inner, self.dim, self.heads, self.width = 2 * dim, dim, heads, 2 * dim // heads
        self.up = nn.Linear(dim, 2 * inner, bias=False)
        self.convolution = ShortConvolution(inner, bias=True, silu=True)
        self.qk = nn.Parameter(torch.empty(inner // SIDE, SIDE, 2 * SIDE))
        self.v = nn.Parameter(torch.empty(inner // SIDE, SIDE, SIDE))
        self.gates = nn.Linear(3 * inner, 2 * heads)
        self.norm = nn.Parameter(torch.ones(inner))
        self.skip = nn.Parameter(torch.ones(inner))
        self.out = nn.Linear(inner, dim, bias=False)
        for weight in (self.up.weight, self.qk, self.v):
            nn.init.normal_(weight, std=math.sqrt(2 / (5 * dim)))
        nn.init.normal_(self.out.weight, std=2 / (depth * math.sqrt(dim)))
        nn.init.zeros_(self.gates.weight)
        self.gates.bias.data = torch.cat([0.1 * torch.randn(heads), torch.linspace(3, 6, heads)])

    def init_state(self, batch: int) -> State:
        memory = self.zeros(batch, self.heads, self.width, self.width + 1)
        return self.convolution.init_state(batch), memory, self.zeros(batch, self.heads)

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        if not x.shape[1]:
            return x, state
        recent, memory, m = state
        u, z = self.up(x).chunk(2, -1)
        c, recent = self.convolution.stream(u, recent)
        q, k = (block_product(c, weight) for weight in self.qk.chunk(2, -1))
        v = block_product(u, self.v)
        gates = F.linear(torch.cat([q, k, v], -1), self.gates.weight).to(m.dtype) + self.gates.bias
        q, k, v = (t.to(m.dtype).unflatten(-1, (self.heads, -1)) for t in (q, k, v))
        i, f = gates.chunk(2, -1)
        h, memory, m = mlstm(q, k / math.sqrt(self.width), v, i, f, memory, m)
        h = F.layer_norm(h, h.shape[-1:], eps=1e-5).flatten(2) * self.norm
        return self.out(gated_silu(torch.addcmul(h, self.skip, c), z)), (recent, memory, m)

    def flops(self, length: int) -> Flops:
        inner = 2 * self.dim
        contraction = 6 * inner * self.dim + 6 * inner * SIDE + 12 * inner * self.heads
        # biases of the gates; silu, the scale of k, norm, skip (2) and product
        each = Flops(contraction, mixing=2 * self.heads, pointwise=(4 + 1 + NORM + 2 + 1) * inner)
        return mlstm_flops(length, self.heads, self.width, self.width) + self.convolution.flops(length) + each * length


class MLSTM(Stack):
    """Matrix memory with exponential gates, the mLSTM of xLSTM. Beck et al., arXiv:2405.04517."""

    def __init__(
        self,
        dim: int,
        depth: int,
        *,
        causal: bool = True,
        heads: Annotated[int, "heads, each with its own gates and memory"] = 4,
        mlp: Annotated[Mixer, "channel mixer after each block"] = "none",
        hidden: Annotated[int | None, "hidden width of the channel mixer; none given: 8/3 dim (swiglu) or 4 dim"] = None,
    ) -> None:
        if 2 * dim % SIDE:
            raise ValueError(f"dim={dim} must be even: queries, keys and values are made in blocks of {SIDE} of 2 dim")
        if heads < 1 or 2 * dim % heads:
            raise ValueError(f"heads={heads} must divide the inner width, twice dim={dim}")
        layer = both_ways(dim, lambda: MatrixLSTM(dim, heads, depth), causal)
        super().__init__(dim, depth, layer, causal=causal, mlp=mlp, hidden=hidden, norm=partial(nn.LayerNorm, bias=False))
