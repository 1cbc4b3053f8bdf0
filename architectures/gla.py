"""Gated linear attention: linear attention whose state decays by what is read, a different rate for each key.

    S[t] = diag(a[t]) S[t-1] + k[t]^T v[t];   y[t] = q[t] S[t] / sqrt(width);   out = W_o (silu(W_g x) * norm_head(y))
    a[t] = logistic(W_2 W_1 x[t] + b)^(1/16), W_1 of rank 16

Yang et al., "Gated Linear Attention Transformers with Hardware-Efficient Training", arXiv:2312.06635, sections 4.1 to 4.4; as in
the authors' flash-linear-attention keys are half as wide as dim, and an RMS norm with weights (eps 1e-5) ends each head. The
initial weights are torch's.
"""

import math
from typing import Annotated

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from architectures.backbone import Flops, SequenceMap, State
from architectures.ops.linear_attention import gated_linear_attention, gated_linear_attention_flops
from architectures.ops.norm import RMSNorm
from architectures.ops.silu import gated_silu
from architectures.stack import NORM, Mixer, Stack, both_ways

RANK = 16
TEMPERATURE = 16


class GatedAttention(SequenceMap):
    """Linear attention with a decay for each key; the state is one matrix for each head."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.dim, self.heads = dim, heads
        self.q, self.k = nn.Linear(dim, dim // 2, bias=False), nn.Linear(dim, dim // 2, bias=False)
        self.v, self.gate = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.decay = nn.Sequential(nn.Linear(dim, RANK, bias=False), nn.Linear(RANK, dim // 2))
        self.norm = RMSNorm(dim // heads, eps=1e-5)
        self.out = nn.Linear(dim, dim, bias=False)

    def init_state(self, batch: int) -> State:
        return self.zeros(batch, self.heads, self.dim // 2 // self.heads, self.dim // self.heads)

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        if not x.shape[1]:
            return x, state
        maps = (self.q, self.k, self.v, self.decay)
        q, k, v, decay = (rearrange(map(x).to(state.dtype), "b l (h w) -> b l h w", h=self.heads) for map in maps)
        decay = (F.logsigmoid(decay) / TEMPERATURE).exp()
        y, state = gated_linear_attention(q / math.sqrt(q.shape[-1]), k, v, decay, state)
        return self.out(gated_silu(rearrange(self.norm(y), "b l h w -> b l (h w)"), self.gate(x))), state

    def flops(self, length: int) -> Flops:
        keys = self.dim // 2
        contraction = 4 * self.dim * keys + 6 * self.dim**2 + 2 * RANK * (self.dim + keys)
        # of keys: bias, log of the logistic function, quotient, exp; the scale of q. Of values: norm, silu, product
        each = Flops(contraction, mixing=4 * keys, pointwise=keys + (NORM + 5) * self.dim)
        return gated_linear_attention_flops(length, self.heads, keys // self.heads, self.dim // self.heads) + each * length


class GLA(Stack):
    """Gated linear attention: a decay for each key, read from the input. Yang et al., arXiv:2312.06635."""

    def __init__(
        self,
        dim: int,
        depth: int,
        *,
        causal: bool = True,
        heads: Annotated[int, "heads of linear attention"] = 4,
        mlp: Annotated[Mixer, "channel mixer after each attention"] = "swiglu",
        hidden: Annotated[int | None, "hidden width of the channel mixer; none given: 8/3 dim (swiglu) or 4 dim"] = None,
    ) -> None:
        if heads < 1 or dim % (2 * heads):
            raise ValueError(f"heads={heads} must divide dim={dim} into even parts (keys are half as wide as values)")
        layer = both_ways(dim, lambda: GatedAttention(dim, heads), causal)
        super().__init__(dim, depth, layer, causal=causal, mlp=mlp, hidden=hidden)
