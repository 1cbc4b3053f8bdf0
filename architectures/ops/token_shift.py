"""What RWKV has around its recurrences: token shift, low ranks, the channel mix, and how they start.

    token shift: x[t] + (x[t-1] - x[t]) mu, for each input of a mix
    low rank:    up(inner(down x))
    channel mix: sigmoid(W_r x_r) * W_v relu(W_k x_k)^2; version 7 has no W_r

Peng et al., arXiv:2305.13048, section 3, arXiv:2404.05892 and arXiv:2503.14456, section 4. What is left open there follows the
authors' training code (RWKV-LM).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from architectures.backbone import Flops, SequenceMap, State, Tuning
from architectures.ops import native
from architectures.stack import Pointwise

KEPT = Tuning(decay=False)
SMALLEST = 2**15  # numbers; below, the calls cost more than the passes
Values = Float[Tensor, "batch length dim"]
Share = Float[Tensor, "*positions dim"]


@dataclass(frozen=True)
class Place:
    """A layer's place in the stack, which initialisation depends on, and the widths."""

    dim: int
    width: int
    layer: int
    depth: int

    @property
    def rising(self) -> float:
        """From 0 in the first layer to 1 in the last."""
        return self.layer / max(self.depth - 1, 1)

    @property
    def falling(self) -> float:
        """From 1 in the first layer to 1 / depth in the last."""
        return 1 - self.layer / self.depth

    @property
    def channel(self) -> Tensor:
        """From 0 in the first channel to 1 in the last."""
        return torch.arange(self.dim) / (self.dim - 1)

    def mu(self, *powers: float) -> Tensor:
        """Shares of the position before, less and less with the channel: a row for each power."""
        return torch.stack([1 - (torch.arange(self.dim) / self.dim) ** power for power in powers])


def projection(inputs: int, outputs: int, gain: float) -> nn.Linear:
    """A linear map without bias, orthogonal or, where the gain is 0, zero."""
    linear = nn.Linear(inputs, outputs, bias=False)
    nn.init.orthogonal_(linear.weight, gain) if gain else nn.init.zeros_(linear.weight)
    return linear


def shifted(x: Values, last: Float[Tensor, "batch dim"]) -> Values:
    """x[t-1] - x[t]; `last` precedes the first."""
    last = last[:, None]
    return (torch.cat([last, x[:, :-1]], 1) if x.shape[1] > 1 else last) - x


def moved(x: Values, last: Float[Tensor, "batch dim"], mus: Float[Tensor, "mixes dim"] | Sequence[Share]) -> Sequence[Values]:
    """x[t] + (x[t-1] - x[t]) mu for each mu; `last` precedes the first position.

    One tensor for each, as a common one costs passes over memory in its gradient; without gradients they are parts of one. Fast
    form: one compiled pass for each there and one back (ops/kernels/token_shift.py), from `SMALLEST` numbers on.
    """
    if x.numel() >= SMALLEST and (kernels := native.kernels("token_shift", x, last, *mus)):
        return native.call(_Kernel, kernels, x, last, *mus)
    delta = shifted(x, last)
    if isinstance(mus, Tensor) and not torch.is_grad_enabled():
        return torch.addcmul(x, delta, mus[:, None, None]).unbind()
    return [torch.addcmul(x, delta, mu) for mu in mus]


class _Kernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx, kernels: ModuleType, x: Tensor, last: Tensor, *mus: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, last, mus = x.contiguous(), last.contiguous(), tuple(mu.contiguous() for mu in mus)
        outputs = tuple(torch.empty_like(x) for _ in mus)
        for mu, out in zip(mus, outputs, strict=True):
            native.run(kernels.forward, kernels.items(x), x, last, _shares(mu), out)
        ctx.kernels = kernels
        ctx.save_for_backward(x, last, *mus)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, last, *mus = ctx.saved_tensors
        to_x, to_last, to_mus = torch.zeros_like(x), torch.zeros_like(last), []
        for mu, grad in zip(mus, grads, strict=True):
            to_mu = x.new_zeros(len(x), _shares(mu).shape[1], x.shape[2])
            arguments = (x, last, _shares(mu), grad.contiguous(), to_x, to_last, to_mu)
            native.run(ctx.kernels.backward, ctx.kernels.items(x), *arguments)
            to_mus.append(to_mu if mu.ndim == 3 else to_mu.sum((0, 1)))
        return None, to_x, to_last, *to_mus


def _shares(mu: Tensor) -> Tensor:
    return mu if mu.ndim == 3 else mu[None, None]


class LowRank(Pointwise):
    """up(inner(down x)), of a rank that grows with the root of dim in steps of 32."""

    tuned: ClassVar[Mapping[str, Tuning]] = {"down": KEPT, "up": KEPT}

    def __init__(self, dim: int, scale: float, inner: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.rank, self.inner = max(32, 32 * round(scale * math.sqrt(dim) / 32)), inner
        self.down = nn.Parameter(torch.zeros(dim, self.rank))
        self.up = nn.Parameter(torch.empty(self.rank, dim))
        nn.init.orthogonal_(self.up, 0.1 * math.sqrt(max(1, self.rank / dim)))

    def forward(self, x: Values) -> Values:
        low = x @ self.down
        return (low if self.inner is None else self.inner(low)) @ self.up

    def flops(self, length: int) -> Flops:
        return Flops(4 * self.down.numel(), pointwise=0 if self.inner is None else self.rank) * length


class ChannelMix(SequenceMap):
    """A wide layer over each position and the one before; the state is the last input. `gated` is not version 7's."""

    tuned: ClassVar[Mapping[str, Tuning]] = {"mu": KEPT}

    def __init__(self, place: Place, version: int, hidden: int) -> None:
        super().__init__()
        dim, self.gated = place.dim, version < 7
        self.mu = nn.Parameter(place.mu(place.falling, place.falling) if self.gated else place.mu(place.falling**4))
        self.key = projection(dim, hidden, math.sqrt(max(1, hidden / dim)) if version == 4 else 1)
        self.value = projection(hidden, dim, 0)
        self.receptance = projection(dim, dim, 0) if self.gated else None

    def init_state(self, batch: int) -> State:
        return self.zeros(batch, self.mu.shape[1])

    def stream(self, x: Values, state: State):
        x_k, *x_r = moved(x, state, self.mu)
        y = self.value(F.relu(self.key(x_k)).square())
        if self.receptance is not None:
            y = torch.sigmoid(self.receptance(x_r[0])) * y
        return y, x[:, -1]

    def flops(self, length: int) -> Flops:
        hidden, dim = self.key.weight.shape
        gate = Flops(2 * dim**2, 2 * dim, 2 * dim) if self.gated else Flops()
        return (Flops(4 * dim * hidden, 3 * dim, 2 * hidden) + gate) * length
