"""LongNet: dilated attention, whose cost is linear in length and whose reach is its longest segment.

Ding et al., arXiv:2307.02486, sections 2.2 and 2.3; equations in ops/dilated_attention.py. Gradients pass through the weights of
the branches, while the authors' code holds them constant. Departures: rotary positions instead of xPos, the shared pre-norm
block with the shared channel mixer, and branches for short sequences by default.

Streaming remembers keys and values since all branches began a segment together.
"""

import math
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn

from architectures.backbone import Flops, SequenceMap, State
from architectures.ops.attention import SOFTMAX, appended
from architectures.ops.dilated_attention import Branches, dilated, dilated_kept, dilated_last, dilated_pairs
from architectures.ops.positions import rotate
from architectures.stack import Mixer, Stack


class DilatedAttention(SequenceMap):
    """Multi-head dilated attention; the state is the keys and values since all branches began a segment together."""

    def __init__(self, dim: int, heads: int, branches: Branches, *, causal: bool) -> None:
        super().__init__()
        self.dim, self.heads, self.branches, self.causal = dim, heads, branches, causal
        self.period = math.lcm(*(segment for segment, _ in branches))
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        q, k, v = self._turned(x, 0)
        return self._joined(dilated(q, k, v, self.branches, causal=self.causal))

    def init_state(self, batch: int) -> State:
        empty = self.zeros(batch, self.heads, 0, self.dim // self.heads)
        return empty, empty

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        past, length = state[0].shape[2], x.shape[1]
        if not length:
            return x, state
        left = -past % self.period
        if 0 < left < length:
            first, state = self.stream(x[:, :left], state)
            rest, state = self.stream(x[:, left:], state)
            return torch.cat([first, rest], 1), state
        begun = (past + length) // self.period * self.period
        q, k, v = self._turned(x, past or -begun)  # only distances within a period matter
        if past:
            k, v = appended(state[0], k), appended(state[1], v)
            y = dilated_last(q, k, v, self.branches)
        else:
            y = dilated(q, k, v, self.branches, causal=True)
        return self._joined(y), ((k[:, :, begun:], v[:, :, begun:]) if begun else (k, v))

    def _turned(self, x: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values in heads, the first two with their positions."""
        q, k, v = self.qkv(x).unflatten(2, (3 * self.heads, -1)).transpose(1, 2).chunk(3, 1)
        return rotate(q, start), rotate(k, start), v

    def _joined(self, y: Tensor) -> Tensor:
        return self.out(y.transpose(1, 2).flatten(2))

    def flops(self, length: int) -> Flops:
        pairs = dilated_pairs(length, self.heads, self.branches, causal=self.causal)
        kept, width = dilated_kept(length, self.heads, self.branches), self.dim // self.heads
        return Flops(
            contraction=8 * length * self.dim**2 + 4 * pairs * width,
            mixing=SOFTMAX * pairs + kept * (SOFTMAX + 2 * width),
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
        segments: Annotated[str, "positions in a segment, for each branch"] = "64+128+256+512",
        rates: Annotated[str, "dilation rates of the branches; one of them is 1"] = "1+2+4+8",
        mlp: Annotated[Mixer, "channel mixer after each attention"] = "swiglu",
        hidden: Annotated[int | None, "hidden width of the channel mixer; none given: 8/3 dim (swiglu) or 4 dim"] = None,
    ) -> None:
        if heads < 1 or dim % heads or dim // heads % 2:
            raise ValueError(f"heads={heads} must divide dim={dim} into even parts")
        sizes, steps = _numbers("segments", segments), _numbers("rates", rates)
        if len(sizes) != len(steps):
            raise ValueError(f"segments={segments} has {len(sizes)} branches and rates={rates} has {len(steps)}; give one each")
        if 1 not in steps:
            raise ValueError(f"rates={rates}: without a rate of 1 there are positions that some head never sees")
        branches = tuple(zip(sizes, steps, strict=True))
        super().__init__(
            dim, depth, lambda: DilatedAttention(dim, heads, branches, causal=causal), causal=causal, mlp=mlp, hidden=hidden
        )


def _numbers(name: str, text: str) -> list[int]:
    """Those between the plus signs."""
    numbers = text.split("+")
    if not all(number.isdecimal() and int(number) for number in numbers):
        raise ValueError(f"{name}={text}: give positive integers with + between them, such as 1+2+4")
    return [int(number) for number in numbers]
