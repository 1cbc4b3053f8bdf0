"""The residual stack that architectures share: x + mixer(norm(x)), x + channel_mixer(norm(x)), a final norm.

Pre-norm blocks as in GPT-2 (Radford et al. 2019, 2.3); the channel mixers are the GELU MLP (Hendrycks & Gimpel,
arXiv:1606.08415), the squared ReLU in its place (So et al., Primer, arXiv:2109.08668), and SwiGLU (Shazeer, arXiv:2002.05202)
with two thirds of the hidden width, so that all cost the same.
"""

from collections.abc import Callable
from functools import partial
from typing import ClassVar, Literal, cast

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from architectures.backbone import Backbone, Flops, SequenceMap, State

NORM = 7  # pointwise operations of a norm, for each element
RMSNorm = partial(nn.RMSNorm, eps=1e-6)
Mixer = Literal["swiglu", "gelu", "relu2", "none"]


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
        return self.out(F.silu(self.gate(x)) * self.up(x))

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
        return F.gelu(x, approximate="tanh")

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

    def __init__(self, norm: nn.Module, inner: SequenceMap) -> None:
        super().__init__()
        self.norm, self.inner = norm, inner

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        return x + self.inner(self.norm(x))

    def init_state(self, batch: int) -> State:
        return self.inner.init_state(batch)

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        y, state = self.inner.stream(self.norm(x), state)
        return x + y, state

    def flops(self, length: int) -> Flops:
        return self.inner.flops(length) + Flops(pointwise=(NORM + 1) * length * self.norm.get_parameter("weight").numel())


class Stack(Backbone):
    """`depth` blocks of a sequence mixer and a channel mixer, each in its own residual branch, and a final norm.

    layer: makes one sequence mixer; with `causal=False` it must make one that reads the whole sequence.
    mlp, hidden: the channel mixer and its hidden width; None is 4 dim, or 8/3 dim for SwiGLU.
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
        super().__init__(dim, depth, causal=causal)
        kinds = {"swiglu": (SwiGLU, -(-8 * dim // 3)), "gelu": (MLP, 4 * dim), "relu2": (SquaredReLU, 4 * dim)}
        layers: list[SequenceMap] = []
        for _ in range(depth):
            layers.append(Residual(norm(dim), layer()))
            if mlp != "none":
                kind, default = kinds[mlp]
                layers.append(Residual(norm(dim), kind(dim, hidden or default, bias)))
        self.layers = nn.ModuleList(layers)
        self.norm = norm(dim)

    @property
    def _maps(self) -> list[SequenceMap]:
        """The layers, which a ModuleList knows as modules only."""
        return cast(list[SequenceMap], list(self.layers))

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)

    def init_state(self, batch: int) -> State:
        if not self.causal:
            raise TypeError("built with causal=False, it reads the whole sequence at once and cannot stream")
        return tuple(layer.init_state(batch) for layer in self._maps)

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        after = []
        for layer, before in zip(self._maps, state, strict=True):
            x, now = layer.stream(x, before)
            after.append(now)
        return self.norm(x), tuple(after)

    def flops(self, length: int) -> Flops:
        total = Flops(pointwise=NORM * length * self.dim)
        for layer in self._maps:
            total = total + layer.flops(length)
        return total


def both_ways(dim: int, layer: Callable[[], SequenceMap], causal: bool) -> Callable[[], SequenceMap]:
    """`layer` itself where the stack is causal, else a pair of them reading in both directions."""
    return layer if causal else lambda: BothWays(dim, layer)
