"""RetNet: linear attention whose state turns and decays at fixed rates, a different one for each head.

    S[t] = gamma R S[t-1] + k[t]^T v[t];   y[t] = q[t] S[t] / sqrt(width);   out = W_o (silu(W_g x) * norm_head(y))

gamma = 1 - 2^(-5 - head); R turns the keys' pair m by the angle 10000^(-m / (pairs - 1)), which is rotary positions in q and k.
Sun et al., "Retentive Network", arXiv:2307.08621: equations 1 to 7 (chunks) and 8 (gamma, gate); details after the authors'
torchscale: values twice as wide as keys, an RMS norm of each head without weights, Xavier initial weights of gain 2^-2.5, and
1/2 for W_o. The paper's normalisations of the scores cancel in that norm and are left out.
The state is kept in the frame of its last position, so that no position is counted.
Departure: the shared pre-norm block with the shared channel mixer; the paper's is `mlp=gelu` with `hidden` twice dim.
"""

import math
from functools import lru_cache
from typing import Annotated

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from architectures.backbone import Flops, SequenceMap, State
from architectures.ops.linear_attention import linear_attention, linear_attention_flops
from architectures.ops.norm import rms_norm
from architectures.ops.retention import retention_step
from architectures.ops.silu import gated_silu
from architectures.stack import NORM, Mixer, Stack, both_ways


def turn(x: Float[Tensor, "*batch width"], rotor: Complex[Tensor, "*#batch pairs"]) -> Float[Tensor, "*batch width"]:
    """Turn each pair (x[2m], x[2m + 1]), as a complex number."""
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * rotor
    return torch.view_as_real(turned).flatten(-2)


@lru_cache(maxsize=16)
def one_position(heads: int, width: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "2 heads pairs"]:
    """What is left of a pair along and across, when its head has decayed and it has turned: gamma cos and gamma sin."""
    with torch.inference_mode(False), torch.no_grad():
        angle = angles(width, device)
        return (log_decays(heads, device).exp()[:, None] * torch.stack([angle.cos(), angle.sin()])[:, None]).to(dtype)


def log_decays(heads: int, device: torch.device) -> Float[Tensor, " heads"]:
    """log gamma in float64."""
    return torch.log1p(-(2.0 ** (-5 - torch.arange(heads, dtype=torch.float64, device=device))))


def angles(width: int, device: torch.device) -> Float[Tensor, " pairs"]:
    """Of one position, in float64."""
    return 10_000 ** -torch.linspace(0, 1, width // 2, dtype=torch.float64, device=device)


class Retention(SequenceMap):
    """Multi-scale retention; the state is one matrix for each head."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.dim, self.heads = dim, heads
        self.q, self.k = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.v, self.gate = nn.Linear(dim, 2 * dim, bias=False), nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(2 * dim, dim, bias=False)
        for linear in (self.q, self.k, self.v, self.gate):
            nn.init.xavier_uniform_(linear.weight, gain=2**-2.5)
        nn.init.xavier_uniform_(self.out.weight, gain=2**-1)

    def init_state(self, batch: int) -> State:
        return self.zeros(batch, self.heads, self.dim // self.heads, 2 * self.dim // self.heads)

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        length, width = x.shape[1], self.dim // self.heads
        if not length:
            return x, state
        q, k, v = (map(x).to(state.dtype).view(*x.shape[:2], self.heads, -1) for map in (self.q, self.k, self.v))
        step = retention_step(q, k, v, one_position(self.heads, width, state.dtype, x.device), state) if length == 1 else None
        y, state = step or self._turned(q, k, v, state)
        y = rms_norm(y, None, 1e-6).flatten(2)
        return self.out(gated_silu(y, self.gate(x))), state

    def _turned(self, q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Linear attention of turned queries and keys, and the state turned back."""
        length, width = q.shape[1], q.shape[3]
        angle = torch.arange(1, length + 1, device=q.device)[:, None, None] * angles(width, q.device)
        log_decay = log_decays(self.heads, q.device).to(state.dtype).expand(1, length, -1)
        rotor = torch.polar(torch.ones_like(angle), angle)
        turns, scaled = (r.to(state.dtype.to_complex()) for r in (rotor, rotor / math.sqrt(width)))
        y, state = linear_attention(turn(q, turns), turn(k, scaled), v, log_decay, state)
        return y, turn(state.mT, turns[-1].conj()).mT

    def flops(self, length: int) -> Flops:
        keys, values = self.dim // self.heads, 2 * self.dim // self.heads
        turned = 3 * self.heads * keys * values  # the state, once
        # rotations (3 for each of q and k), norm, silu and product
        each = Flops(contraction=16 * self.dim**2, pointwise=6 * self.dim + (NORM + 5) * 2 * self.dim)
        return linear_attention_flops(length, self.heads, keys, values) + Flops(mixing=turned) + each * length


class RetNet(Stack):
    """Retention: linear attention with fixed decay and rotation. Sun et al., arXiv:2307.08621."""

    def __init__(
        self,
        dim: int,
        depth: int,
        *,
        causal: bool = True,
        heads: Annotated[int, "heads, each with its own decay"] = 4,
        mlp: Annotated[Mixer, "channel mixer after each retention"] = "swiglu",
        hidden: Annotated[int | None, "hidden width of the channel mixer; none given: 8/3 dim (swiglu) or 4 dim"] = None,
    ) -> None:
        if heads < 1 or dim % (2 * heads):
            raise ValueError(f"heads={heads} must divide dim={dim} into even parts (positions turn pairs)")
        layer = both_ways(dim, lambda: Retention(dim, heads), causal)
        super().__init__(dim, depth, layer, causal=causal, mlp=mlp, hidden=hidden)
