"""Transformer decoder: multi-head softmax attention over all earlier positions.

    q, k, v = W x;   y = W_o concat_h softmax(q k^T / sqrt(d_h)) v          Vaswani et al., arXiv:1706.03762, section 3.2

Presets: `llama` has RMSNorm, rotary positions, SwiGLU and no biases (Touvron et al., arXiv:2302.13971, section 2.2; rotary
positions: Su et al., arXiv:2104.09864, in the half-split pairing; initialisation is torch's, LLaMA's is not published).
`gpt2` has LayerNorm, learned positions, a GELU MLP and biases, weights N(0, 0.02) and those that write to the residual
divided by sqrt(2 depth), reading embeddings of the same small scale (Radford et al. 2019, section 2.3).
"""

import math
from typing import Annotated, Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from architectures.backbone import Flops, LengthError, SequenceMap, State
from architectures.stack import Mixer, RMSNorm, Stack

SOFTMAX = 5  # operations for each score
Positions = Literal["rope", "learned", "none"]
PRESETS: dict[str, dict[str, Any]] = {
    "llama": {"norm": "rms", "positions": "rope", "mlp": "swiglu", "bias": False},
    "gpt2": {"norm": "layer", "positions": "learned", "mlp": "gelu", "bias": True},
}


def rotate(x: Float[Tensor, "*batch length dim"], start: int) -> Float[Tensor, "*batch length dim"]:
    """Turn the pair (x[m], x[m + dim/2]) at position p by the angle p * 10000^(-2m/dim); the first position is `start`."""
    length, dim = x.shape[-2:]
    frequency = 10_000 ** (-torch.arange(0, dim, 2, device=x.device, dtype=torch.float64) / dim)
    angle = torch.arange(start, start + length, device=x.device, dtype=torch.float64)[:, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


class Attention(SequenceMap):
    """Multi-head attention; the state is the keys and values of all positions so far."""

    def __init__(self, dim: int, heads: int, *, causal: bool, rope: bool, bias: bool) -> None:
        super().__init__()
        self.dim, self.heads, self.causal, self.rope = dim, heads, causal, rope
        self.qkv = nn.Linear(dim, 3 * dim, bias)
        self.out = nn.Linear(dim, dim, bias)

    def init_state(self, batch: int) -> State:
        empty = self.zeros(batch, self.heads, 0, self.dim // self.heads)
        return empty, empty

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        qkv = rearrange(self.qkv(x), "b l (three h d) -> three b h l d", three=3, h=self.heads)
        qk, v = qkv.split([2, 1])  # unlike indexing, its backward fills no zeros
        past = state[0].shape[2]
        q, k = (rotate(qk, past) if self.rope else qk).unbind(0)
        v = v.squeeze(0)
        if past:
            k, v = torch.cat([state[0].to(k.dtype), k], 2), torch.cat([state[1].to(v.dtype), v], 2)
        new = x.shape[1]
        seen = torch.ones(new, past + new, dtype=torch.bool, device=x.device).tril(past) if past else None
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=self.causal and not past)
        return self.out(rearrange(y, "b h l d -> b l (h d)")), (k, v)

    def flops(self, length: int) -> Flops:
        pairs = length * (length + 1) // 2 if self.causal else length * length
        rotary = 6 * length * self.dim if self.rope else 0
        biases = 0 if self.out.bias is None else 4 * length * self.dim
        return Flops(
            contraction=8 * length * self.dim**2 + 4 * pairs * self.dim,
            mixing=SOFTMAX * pairs * self.heads,
            pointwise=rotary + biases,
        )


class Transformer(Stack):
    """Softmax attention. Vaswani et al. 2017; LLaMA's form by default, GPT-2's as a preset."""

    def __init__(
        self,
        dim: int,
        depth: int,
        *,
        causal: bool = True,
        preset: Annotated[Literal["llama", "gpt2"], "the published layer that the settings below start from"] = "llama",
        heads: Annotated[int, "attention heads"] = 4,
        norm: Annotated[Literal["rms", "layer"] | None, "normalisation; none given: the preset's"] = None,
        positions: Annotated[Positions | None, "where order comes from; none given: the preset's"] = None,
        mlp: Annotated[Mixer | None, "channel mixer; none given: the preset's"] = None,
        bias: Annotated[bool | None, "biases in linear maps and LayerNorm; none given: the preset's"] = None,
        hidden: Annotated[int | None, "hidden width of the channel mixer; none given: 8/3 dim (swiglu) or 4 dim"] = None,
        max_length: Annotated[int, "rows of the table of learned positions"] = 1024,
    ) -> None:
        given = {"norm": norm, "positions": positions, "mlp": mlp, "bias": bias}
        form = PRESETS[preset] | {name: value for name, value in given.items() if value is not None}
        rope, biases = form["positions"] == "rope", form["bias"]
        if heads < 1 or dim % heads or (rope and dim // heads % 2):
            raise ValueError(f"heads={heads} must divide dim={dim}" + (" into even parts (rope turns pairs)" if rope else ""))
        make_norm = RMSNorm if form["norm"] == "rms" else lambda width: nn.LayerNorm(width, bias=biases)

        def layer() -> SequenceMap:
            return Attention(dim, heads, causal=causal, rope=rope, bias=biases)

        super().__init__(dim, depth, layer, causal=causal, mlp=form["mlp"], hidden=hidden, norm=make_norm, bias=biases)
        self.table = nn.Parameter(torch.randn(max_length, dim) * 0.02) if form["positions"] == "learned" else None
        if preset == "gpt2":
            self.embedding_std = 0.02
            self._initialise_gpt2()

    def _initialise_gpt2(self) -> None:
        for name, parameter in self.layers.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * self.depth) if name.endswith("out.weight") else 1))
            elif name.endswith(".bias"):
                nn.init.zeros_(parameter)

    def _placed(self, x: Tensor, start: int) -> Tensor:
        """`x` with the learned positions from `start` on."""
        if self.table is None:
            return x
        if start + x.shape[1] > len(self.table):
            raise LengthError(f"{start + x.shape[1]} positions, but max_length={len(self.table)} are learned")
        return x + self.table[start : start + x.shape[1]]

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        return super().forward(self._placed(x, 0))

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        return super().stream(self._placed(x, state[0][0].shape[2]), state)

    def flops(self, length: int) -> Flops:
        return super().flops(length) + Flops(pointwise=0 if self.table is None else length * self.dim)
