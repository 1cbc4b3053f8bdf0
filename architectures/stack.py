"""The residual stack that architectures share: x + mixer(norm(x)), x + channel_mixer(norm(x)), a final norm.

Pre-norm blocks as in GPT-2 (Radford et al. 2019, 2.3); the channel mixers are the GELU MLP (Hendrycks & Gimpel,
arXiv:1606.08415), the squared ReLU in its place (So et al., Primer, arXiv:2109.08668), and SwiGLU (Shazeer, arXiv:2002.05202)
with two thirds of the hidden width, so that all cost the same. `moe` is a mixture of SwiGLU experts (ops/experts.py), two of
them active, each half as wide: it costs as much as well, the router apart, and has four times the parameters.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from typing import ClassVar, Literal, cast

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from architectures.backbone import Backbone, Flops, SequenceMap, State
from architectures.ops import norm as norms
from architectures.ops.experts import Experts
from architectures.ops.gelu import gelu
from architectures.ops.precision import few, quick_start
from architectures.ops.silu import gated_silu

NORM = 7  # pointwise operations of a norm, for each element
RMSNorm = partial(norms.RMSNorm, eps=1e-6)
Norm = Literal["rms", "instance"]
Mixer = Literal["swiglu", "gelu", "relu2", "moe", "none"]


class Pointwise(SequenceMap):
    """A map of each position by itself: it remembers nothing."""

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        return self.forward(x), state


class SwiGLU(Pointwise):
    """out(silu(gate x) * up x)."""

    def __init__(self, dim: int, hidden: int, bias: bool = False) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, hidden, bias)
        self.up = nn.Linear(dim, hidden, bias)
        self.out = nn.Linear(hidden, dim, bias)

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        return self.out(gated_silu(self.up(x), self.gate(x)))

    def flops(self, length: int) -> Flops:
        hidden, dim = self.gate.weight.shape
        biases = 0 if self.out.bias is None else 2 * hidden + dim
        return Flops(contraction=6 * dim * hidden, pointwise=5 * hidden + biases) * length


class MLP(Pointwise):
    """out(gelu(up x)), with GPT-2's tanh form of the GELU."""

    activation_flops: ClassVar[int] = 8

    def __init__(self, dim: int, hidden: int, bias: bool = False) -> None:
        super().__init__()
        self.up = nn.Linear(dim, hidden, bias)
        self.out = nn.Linear(hidden, dim, bias)

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        return self.out(self.activation(self.up(x)))

    def activation(self, x: Tensor) -> Tensor:
        return gelu(x)

    def flops(self, length: int) -> Flops:
        hidden, dim = self.up.weight.shape
        biases = 0 if self.out.bias is None else hidden + dim
        return Flops(contraction=4 * dim * hidden, pointwise=self.activation_flops * hidden + biases) * length


class SquaredReLU(MLP):
    """out(max(up x, 0)^2)."""

    activation_flops: ClassVar[int] = 2

    def activation(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


class BothWays(SequenceMap):
    """One map reads forwards and a second one backwards; their outputs are added. It sees the whole sequence."""

    def __init__(self, dim: int, layer: Callable[[], SequenceMap]) -> None:
        super().__init__()
        self.dim = dim
        self.forwards, self.backwards = layer(), layer()

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        return self.forwards(x) + self.backwards(x.flip(1)).flip(1)

    def flops(self, length: int) -> Flops:
        return self.forwards.flops(length) + self.backwards.flops(length) + Flops(pointwise=length * self.dim)


class Residual(SequenceMap):
    """x + inner(norm(x))."""

    dropout: float = 0.0
    """Share of what a branch adds that training drops; lab/model.py sets it where a recipe asks."""

    def __init__(self, norm: nn.Module, inner: SequenceMap) -> None:
        super().__init__()
        self.norm, self.inner = norm, inner

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        return x + self.dropped(self.inner(self.norm(x)))

    def init_state(self, batch: int) -> State:
        return self.inner.init_state(batch)

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        y, state = self.inner.stream(self.norm(x), state)
        return x + self.dropped(y), state

    def dropped(self, y: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        """What a branch adds, after dropout in training."""
        return F.dropout(y, self.dropout) if self.dropout and self.training else y

    def flops(self, length: int) -> Flops:
        return self.inner.flops(length) + Flops(pointwise=(NORM + 1) * length * self.norm.get_parameter("weight").numel())


class Layers(Backbone):
    """Layers one after the other, each with its own residual branches, and a final norm."""

    def __init__(self, dim: int, layers: Sequence[SequenceMap], depth: int, norm: nn.Module, *, causal: bool) -> None:
        super().__init__(dim, depth, causal=causal)
        self.layers = nn.ModuleList(layers)
        self.norm: nn.Module | None = norm

    @property
    def _maps(self) -> list[SequenceMap]:
        """The layers, which a ModuleList knows as modules only."""
        return cast(list[SequenceMap], list(self.layers))

    def _closed(self, x: Tensor) -> Tensor:
        return x if self.norm is None else self.norm(x)

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        for layer in self.layers:
            x = layer(x)
        return self._closed(x)

    def init_state(self, batch: int) -> State:
        if not self.causal:
            raise TypeError("built with causal=False, it reads the whole sequence at once and cannot stream")
        return tuple(layer.init_state(batch) for layer in self._maps)

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        after = []
        with quick_start(few(x)):
            for layer, before in zip(self._maps, state, strict=True):
                x, now = layer.stream(x, before)
                after.append(now)
            return self._closed(x), tuple(after)

    def flops(self, length: int) -> Flops:
        total = Flops() if self.norm is None else Flops(pointwise=NORM * length * self.dim)
        for layer in self._maps:
            total = total + layer.flops(length)
        return total

    def as_layer(self, index: int) -> SequenceMap:
        each = len(self.layers) // self.depth
        alone = deepcopy(self, {id(self.layers): self.layers[index * each : (index + 1) * each]})
        alone.depth, alone.norm = 1, None
        return alone


class Stack(Layers):
    """`depth` blocks of a sequence mixer and a channel mixer, each in its own residual branch, and a final norm.

    layer: makes one sequence mixer; with `causal=False` it must make one that reads the whole sequence.
    mlp, hidden: the channel mixer and its hidden width; None is 4 dim, 8/3 dim for SwiGLU, or 4/3 dim for each expert.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        layer: Callable[[], SequenceMap],
        *,
        causal: bool = True,
        mlp: Mixer = "swiglu",
        hidden: int | None = None,
        norm: Callable[[int], nn.Module] = RMSNorm,
        bias: bool = False,
    ) -> None:
        layers: list[SequenceMap] = []
        for _ in range(depth):
            layers.append(Residual(norm(dim), layer()))
            if mlp != "none":
                layers.append(Residual(norm(dim), channel_mixer(mlp, dim, hidden, bias)))
        last = RMSNorm if norm is norms.InstanceNorm else norm  # a pooled answer reads the mean, which that would take away
        super().__init__(dim, layers, depth, last(dim), causal=causal)


def branch_norm(kind: Norm, causal: bool) -> Callable[[int], nn.Module]:
    """What makes the norm before each branch.

    `instance` stands in for the batch norm of the published recipes for images as sequences (S4, S5, LRU), in which rows of a
    batch would meet: without a norm over positions none of the three learns Pathfinder in reasonable time (docs/pathfinder.md).

    Raises:
        ValueError: an instance norm in a causal stack; it sees the whole sequence.
    """
    if kind == "instance" and causal:
        raise ValueError("norm=instance sees the whole sequence; causal tasks need norm=rms")
    return norms.InstanceNorm if kind == "instance" else RMSNorm


def channel_mixer(kind: Literal["swiglu", "gelu", "relu2", "moe"], dim: int, hidden: int | None, bias: bool) -> SequenceMap:
    """A new one."""
    if kind == "moe":
        return Experts(dim, lambda: SwiGLU(dim, hidden or -(-4 * dim // 3), bias))
    if kind == "swiglu":
        return SwiGLU(dim, hidden or -(-8 * dim // 3), bias)
    return (MLP if kind == "gelu" else SquaredReLU)(dim, hidden or 4 * dim, bias)


def both_ways(dim: int, layer: Callable[[], SequenceMap], causal: bool) -> Callable[[], SequenceMap]:
    """`layer` itself where the stack is causal, else a pair of them reading in both directions."""
    return layer if causal else lambda: BothWays(dim, layer)
