"""Mamba: a state space whose step, input and output are read from the input, within a gated block of its own.

    version 1   x, z = W_in u;   x = silu(conv(x));   delta', B, C = W_x x;   delta = softplus(W_delta delta' + b)
                h[t] = exp(delta[t] A) * h[t-1] + delta[t] x[t] B[t]          for each channel, A < 0 for each of its states
                y[t] = h[t] C[t] + D * x[t];   out = W_out (y * silu(z))
    version 2   z, x, B, C, delta' = W_in u;   x, B, C = silu(conv(x, B, C));   delta = softplus(delta' + b) for each head
                S[t] = exp(delta[t] A) S[t-1] + B[t]^T delta[t] x[t]          for each head, A < 0 one number
                y[t] = C[t] S[t] + D x[t];   out = W_out norm(y * silu(z))

Version 1: Gu & Dao, arXiv:2312.00752, sections 3.2 (selection, ops/selective_scan.py), 3.4 (block) and 3.6 (real
initialisation, rank dim/16). Version 2: Dao & Gu, arXiv:2405.21060, sections 6 (ops/linear_attention.py) and 7.1 (block); B and C
are shared by all heads.
As in the authors' code: inner width twice dim, convolutions of 4 taps with bias, A = -(1, 2, ..., states) or -U(1, 16) for a
head, D = 1, softplus(b) log-uniform in [0.001, 0.1], W_delta uniform in +-rank^-1/2, W_out divided by sqrt(depth), no weight
decay for A, b and D, RMS norm with eps 1e-5. The block has no channel mixer, so `mlp` is none and two layers compare with one of
others. Departure: embeddings are of the lab's scale.
"""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from architectures.backbone import Flops, SequenceMap, State, Tuning
from architectures.ops.linear_attention import linear_attention, linear_attention_flops, step_bias
from architectures.ops.norm import RMSNorm
from architectures.ops.precision import full_precision
from architectures.ops.remember import Remembered
from architectures.ops.selective_scan import selective_scan, selective_scan_flops, selective_step, softplus
from architectures.ops.short_convolution import ShortConvolution
from architectures.ops.silu import gated_silu
from architectures.stack import NORM, Mixer, Stack, both_ways

UNDECAYED = Tuning(decay=False)


class Selective(SequenceMap):
    """The block of version 1; the state is that of the convolution and of every channel."""

    tuned: ClassVar[Mapping[str, Tuning]] = dict.fromkeys(("log_A", "D", "delta.bias"), UNDECAYED)

    def __init__(self, dim: int, states: int, depth: int) -> None:
        super().__init__()
        inner, self.dim, self.states, self.rank = 2 * dim, dim, states, math.ceil(dim / 16)
        self.into = nn.Linear(dim, 2 * inner, bias=False)
        self.convolution = ShortConvolution(inner, bias=True, silu=True)
        self.select = nn.Linear(inner, self.rank + 2 * states, bias=False)
        self.delta = nn.Linear(self.rank, inner)
        nn.init.uniform_(self.delta.weight, -(self.rank**-0.5), self.rank**-0.5)
        self.delta.bias = nn.Parameter(step_bias(inner))
        self.log_A = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.rates = Remembered()
        self.out = nn.Linear(inner, dim, bias=False)
        self.out.weight.data /= math.sqrt(depth)

    def init_state(self, batch: int) -> State:
        return self.convolution.init_state(batch), self.zeros(batch, 2 * self.dim, self.states)

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        if not x.shape[1]:
            return x, state
        recent, h = state
        u, z = self.into(x).chunk(2, -1)
        u, recent = self.convolution.stream(u, recent)
        low, B, C = torch.split_with_sizes(self.select(u), [self.rank, self.states, self.states], -1)
        raw = F.linear(low, self.delta.weight)
        A = self.rates(lambda: -self.log_A.mT.exp().contiguous().mT, self.log_A)
        if step := selective_step(u, raw, self.delta.bias, A, B, C, self.D, z, h):
            y, h = step
            return self.out(y), (recent, h)
        delta = softplus(raw.to(h.dtype) + self.delta.bias)
        u = u.to(h.dtype)
        with full_precision(h):
            y, h = selective_scan(u, delta, A, B.to(h.dtype), C.to(h.dtype), h)
        y = checkpoint(self._read, y, u, z, use_reentrant=False, preserve_rng_state=False)  # what it makes is not kept
        return y, (recent, h)

    def _read(self, y: Tensor, u: Tensor, z: Tensor) -> Tensor:
        return self.out(gated_silu(torch.addcmul(y, self.D, u), z))

    def flops(self, length: int) -> Flops:
        inner = 2 * self.dim
        contraction = 2 * inner * (2 * self.dim + 2 * self.rank + 2 * self.states + self.dim)
        # bias, softplus and skip (2); silu and product
        each = Flops(contraction, mixing=4 * inner, pointwise=5 * inner)
        return selective_scan_flops(length, inner, self.states) + self.convolution.flops(length) + each * length


class Dual(SequenceMap):
    """The block of version 2; the state is that of the convolution, and one matrix for each head."""

    tuned: ClassVar[Mapping[str, Tuning]] = dict.fromkeys(("log_A", "D", "delta_bias"), UNDECAYED)

    def __init__(self, dim: int, states: int, width: int, depth: int) -> None:
        super().__init__()
        inner, self.dim, self.states, self.width, self.heads = 2 * dim, dim, states, width, 2 * dim // width
        self.into = nn.Linear(dim, 2 * inner + 2 * states + self.heads, bias=False)
        self.convolution = ShortConvolution(inner + 2 * states, bias=True, silu=True)
        self.delta_bias = nn.Parameter(step_bias(self.heads))
        self.log_A = nn.Parameter(torch.empty(self.heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = RMSNorm(inner, eps=1e-5)
        self.out = nn.Linear(inner, dim, bias=False)
        self.out.weight.data /= math.sqrt(depth)

    def init_state(self, batch: int) -> State:
        return self.convolution.init_state(batch), self.zeros(batch, self.heads, self.states, self.width)

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        if not x.shape[1]:
            return x, state
        inner, (recent, S) = 2 * self.dim, state
        z, xBC, delta = torch.split_with_sizes(self.into(x), [inner, inner + 2 * self.states, self.heads], -1)
        xBC, recent = self.convolution.stream(xBC, recent)
        u, B, C = torch.split_with_sizes(xBC.to(S.dtype), [inner, self.states, self.states], -1)
        delta = F.softplus(delta.to(S.dtype) + self.delta_bias)
        u = u.unflatten(2, (self.heads, self.width))
        y, S = linear_attention(C[:, :, None], B[:, :, None], delta[..., None] * u, -self.log_A.exp() * delta, S)
        y = torch.addcmul(y, self.D[:, None], u).flatten(2)
        return self.out(self.norm(gated_silu(y, z))), (recent, S)

    def flops(self, length: int) -> Flops:
        inner, convolved = 2 * self.dim, 2 * self.dim + 2 * self.states
        contraction = 2 * self.dim * (inner + convolved + self.heads) + 2 * inner * self.dim
        # delta x and skip (2); bias and softplus of delta and its product with A; silu, product, norm
        each = Flops(contraction, mixing=3 * inner + 3 * self.heads, pointwise=(5 + NORM) * inner)
        attended = linear_attention_flops(length, self.heads, self.states, self.width, groups=1)
        return attended + self.convolution.flops(length) + each * length


class Mamba(Stack):
    """Selective state space. Gu & Dao, arXiv:2312.00752; as state-space duality, Dao & Gu, arXiv:2405.21060."""

    def __init__(
        self,
        dim: int,
        depth: int,
        *,
        causal: bool = True,
        version: Annotated[Literal[1, 2], "1: every channel and state decays by itself; 2: every head"] = 2,
        states: Annotated[int | None, "states of a channel; none given: 16, or 128 in version 2"] = None,
        width: Annotated[int | None, "channels of a head of version 2; none given: the most that divide 2 dim, up to 64"] = None,
        mlp: Annotated[Mixer, "channel mixer after each block"] = "none",
        hidden: Annotated[int | None, "hidden width of the channel mixer; none given: 8/3 dim (swiglu) or 4 dim"] = None,
    ) -> None:
        states = states or (16 if version == 1 else 128)
        width = width or max(size for size in range(1, 65) if 2 * dim % size == 0)
        if width < 1 or 2 * dim % width:
            raise ValueError(f"width={width} must divide the inner width, twice dim={dim}")

        def layer() -> SequenceMap:
            return Selective(dim, states, depth) if version == 1 else Dual(dim, states, width, depth)

        super().__init__(dim, depth, both_ways(dim, layer, causal), causal=causal, mlp=mlp, hidden=hidden)
