"""RWKV, versions 4 to 7: recurrences with decay for each channel, each block with its own time mix and channel mix.

    x <- LN(x);   in each block x <- x + time_mix(LN(x)), x <- x + channel_mix(LN(x));   at the end LN(x)
    token shift of every input of a mix, and the channel mix: ops/token_shift.py
    time mix: W_o (sigmoid(r) * wkv) in 4, W_o (groupnorm(y) * gate) in 5 to 7, wkv and y by the recurrences in ops/wkv*.py

4  Peng et al., arXiv:2305.13048, section 3: scalar states, decay exp(-exp(w)), a bonus u for the current position.
5  Eagle, 6 Finch: Peng et al., arXiv:2404.05892, section 4: matrix states in heads; in 6 mu and the decay depend on the input
   through low ranks.
7  Goose: Peng et al., arXiv:2503.14456, section 4: the state also forgets by a delta rule, at rates that depend on the input;
   from the second layer on, values are blended with the first layer's.

Initialisation and learning rates are those of the authors' training code (RWKV-LM), where the papers leave them open: mu, decays
and bonus by channel and layer, matrices orthogonal or zero, the decay at twice the learning rate (in 4, the bonus at thrice),
weight decay on large matrices only. Embeddings are small, as a LayerNorm reads them.
Departures: versions 4 and 5 are written with mu for 1 - mu; a head is 64 wide where that divides dim, else its largest divisor
below, and GroupNorm's epsilon, 64e-5 for 64, goes with it. Without causality, a second stack reads backwards and the outputs of
both are added.
"""

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Annotated, ClassVar, Literal, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from architectures.backbone import Backbone, Flops, SequenceMap, State, Tuning
from architectures.ops.precision import few, quick_start
from architectures.ops.silu import gated_silu
from architectures.ops.token_shift import KEPT, ChannelMix, LowRank, Place, Values, moved, projection
from architectures.ops.wkv import LOWEST, wkv4, wkv4_flops, wkv6, wkv6_flops
from architectures.ops.wkv7 import wkv7, wkv7_flops
from architectures.stack import NORM, Residual, both_ways

TWICE = Tuning(lr_scale=2.0, decay=False)
Mixed = tuple[Values, State, Values | None]


def head_norm(place: Place) -> nn.GroupNorm:
    """Each head by itself; its weights grow with the layer."""
    norm = nn.GroupNorm(place.dim // place.width, place.dim, eps=1e-5 * place.width)
    nn.init.constant_(norm.weight, ((1 + place.layer) / place.depth) ** 0.7)
    return norm


def zigzag(dim: int) -> Tensor:
    """0, 1, -1 in turn."""
    return ((torch.arange(dim) + 1) % 3 - 1).float()


class TimeMix(SequenceMap):
    """What mixes positions; the state is the last input and the recurrence's."""

    mu: nn.Parameter

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.dim, self.width, self.heads = place.dim, place.width, place.dim // place.width

    @abstractmethod
    def mix(self, x: Values, state: State, first: Values | None) -> Mixed:
        """The outputs, the state after them, and the values of the stack's first layer; None is given to that layer."""

    def stream(self, x: Values, state: State):
        return self.mix(x, state, None)[:2]

    def init_state(self, batch: int) -> State:
        return self.zeros(batch, self.dim), self.zeros(batch, self.heads, self.width, self.width)

    def _heads(self, x: Tensor) -> Tensor:
        """In heads, and in the precision of the state even under autocast."""
        return x.unflatten(2, (self.heads, self.width)).to(self.mu.dtype)


class TimeMix4(TimeMix):
    """RWKV-4: sums weighted by exp(k), and their weights."""

    tuned: ClassVar[Mapping[str, Tuning]] = {"mu": KEPT, "decay": TWICE, "bonus": Tuning(lr_scale=3.0, decay=False)}

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        dim = place.dim
        mu = place.mu(place.falling, place.falling, place.falling / 2)
        mu[1] -= 0.3 * place.rising
        self.mu = nn.Parameter(mu)
        self.decay = nn.Parameter(-5 + 8 * place.channel ** (0.7 + 1.3 * place.rising))
        self.bonus = nn.Parameter(math.log(0.3) + 0.5 * zigzag(dim))
        self.value = projection(dim, dim, 1)
        self.key, self.receptance, self.out = (projection(dim, dim, 0) for _ in range(3))

    def init_state(self, batch: int) -> State:
        sums = self.zeros(3, batch, self.dim)
        sums[2] = LOWEST
        return self.zeros(batch, self.dim), sums

    def mix(self, x: Values, state: State, first: Values | None) -> Mixed:
        last, sums = state
        x_k, x_v, x_r = moved(x, last, self.mu)
        k, v = (y.to(self.decay.dtype) for y in (self.key(x_k), self.value(x_v)))
        y, sums = wkv4(k, v, self.decay.exp(), self.bonus, sums)
        return self.out(torch.sigmoid(self.receptance(x_r)) * y), (x[:, -1], sums), first

    def flops(self, length: int) -> Flops:
        shift = Flops(8 * self.dim**2, 7 * self.dim, 2 * self.dim) * length
        return shift + wkv4_flops(length, self.dim)


class TimeMix5(TimeMix):
    """RWKV-5: matrix states with constant decays."""

    tuned: ClassVar[Mapping[str, Tuning]] = {"mu": KEPT, "decay": TWICE, "bonus": KEPT}

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        dim = place.dim
        mu = place.mu(place.falling, place.falling, place.falling / 2, place.falling / 2)
        mu[1] -= 0.3 * place.rising
        self.mu = nn.Parameter(mu)
        self.decay = nn.Parameter(-6 + 5 * place.channel ** (0.7 + 1.3 * place.rising))
        bonus = place.rising * (1 - place.channel) + 0.1 * zigzag(dim)
        self.bonus = nn.Parameter(bonus.view(self.heads, self.width))
        self.value, self.receptance = projection(dim, dim, 1), projection(dim, dim, 1)
        self.key, self.gate = projection(dim, dim, 0.1), projection(dim, dim, 0.1)
        self.out = projection(dim, dim, 0)
        self.norm = head_norm(place)

    def inputs(self, x: Values, last: Tensor) -> tuple[Tensor, ...]:
        """The shifted inputs of k, v, r and gate, and the logarithm of -log decay, which here has no positions."""
        return *moved(x, last, self.mu), self.decay

    def mix(self, x: Values, state: State, first: Values | None) -> Mixed:
        last, matrix = state
        x_k, x_v, x_r, x_g, decay = self.inputs(x, last)
        r, k, v = (self._heads(y) for y in (self.receptance(x_r), self.key(x_k), self.value(x_v)))
        log_decay = -decay.unflatten(-1, self.bonus.shape).to(self.bonus.dtype).exp()
        y, matrix = wkv6(r, k, v, log_decay, self.bonus, matrix)
        y = self.norm(y.flatten(0, 1).flatten(1)).view(x.shape)
        return self.out(gated_silu(y, self.gate(x_g))), (x[:, -1], matrix), first

    def flops(self, length: int) -> Flops:
        return Flops(10 * self.dim**2, 10 * self.dim, (NORM + 5) * self.dim) * length + wkv6_flops(length, self.heads, self.width)


class TimeMix6(TimeMix5):
    """RWKV-6: mu and decay are moved by the input through low ranks, `mu_down`, `mu_up`, `decay_down` and `decay_up`."""

    tuned: ClassVar[Mapping[str, Tuning]] = {
        **TimeMix5.tuned,
        **dict.fromkeys(("mu_x", "mu_down", "mu_up", "decay_down", "decay_up"), KEPT),
    }

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        dim = place.dim
        self.mu_x = nn.Parameter(place.mu(place.falling)[0])
        self.mu = nn.Parameter(torch.cat([self.mu.detach(), place.mu(place.falling)]))
        self.mu_down = nn.Parameter(torch.zeros(dim, 5 * 32))
        self.mu_up = nn.Parameter(torch.empty(5, 32, dim).uniform_(-0.01, 0.01))
        self.decay_down = nn.Parameter(torch.zeros(dim, 64))
        self.decay_up = nn.Parameter(torch.empty(64, dim).uniform_(-0.01, 0.01))

    def inputs(self, x: Values, last: Tensor) -> tuple[Tensor, ...]:
        (x_low,) = moved(x, last, (self.mu_x,))
        low = rearrange(torch.tanh(x_low @ self.mu_down), "b l (five rank) -> five (b l) rank", five=5)
        more = (low @ self.mu_up).unflatten(1, x.shape[:2])
        *mixed, x_w = moved(x, last, [mu + by for mu, by in zip(self.mu.unbind(), more.unbind(), strict=True)])
        return *mixed, self.decay + torch.tanh(x_w @ self.decay_down) @ self.decay_up

    def flops(self, length: int) -> Flops:
        # two low ranks; more than version 5: z, one more input, five sums, and the decay's; tanh
        return super().flops(length) + Flops(20 * 32 * self.dim + 4 * 64 * self.dim, 10 * self.dim, 5 * 32 + 64) * length


class TimeMix7(TimeMix):
    """RWKV-7: matrix states under a generalised delta rule."""

    tuned: ClassVar[Mapping[str, Tuning]] = {"mu": KEPT, "decay": TWICE, "read": KEPT}

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        dim = place.dim
        linear = place.channel - 0.5
        head = torch.linspace(-1, 1, place.width).repeat(self.heads)
        bend = head * head.abs()
        self.mu = nn.Parameter(place.mu(*(power * place.falling for power in (0.2, 0.9, 0.7, 0.7, 0.9, 0.2))))
        self.decay = nn.Parameter(-5.5 + 6 * place.channel ** (1 + place.rising**0.3) + 2.5 * bend)
        self.decay_rank, self.rate_rank = LowRank(dim, 2.5, torch.tanh), LowRank(dim, 2.5)
        self.rate = nn.Parameter(-0.19 + 0.3 * bend + 0.4 * linear)
        self.blends = place.layer > 0
        if self.blends:
            self.blend = nn.Parameter(0.73 - 0.4 * linear)
            self.blend_rank = LowRank(dim, 1.7)
        self.gate_rank = LowRank(dim, 5, torch.sigmoid)
        self.removal = nn.Parameter(0.71 - 0.1 * linear)
        self.replacement = nn.Parameter(torch.full((dim,), 1.02))
        self.read = nn.Parameter(torch.full((self.heads, self.width), -0.04))
        self.receptance, self.value = projection(dim, dim, 1), projection(dim, dim, 1)
        self.key, self.out = projection(dim, dim, 0.1), projection(dim, dim, 0)
        self.norm = head_norm(place)

    def mix(self, x: Values, state: State, first: Values | None) -> Mixed:
        last, matrix = state
        x_r, x_w, x_k, x_v, x_a, x_g = moved(x, last, self.mu)
        r, k, v = self.receptance(x_r), self.key(x_k), self.value(x_v)
        log_decay = -math.exp(-0.5) * torch.sigmoid(self.decay + self.decay_rank(x_w))
        a = torch.sigmoid(self.rate + self.rate_rank(x_a))
        if not self.blends:
            first = v
        else:
            assert first is not None
            v = v + (first - v) * torch.sigmoid(self.blend + self.blend_rank(x_v))
        c = F.normalize(self._heads(k * self.removal), dim=-1)
        r, k, v = (self._heads(y) for y in (r, k * (1 + (a - 1) * self.replacement), v))
        y, matrix = wkv7(r, self._heads(log_decay), k, v, c, self._heads(a), matrix)
        y = self.norm(y.flatten(0, 1).flatten(1)).view(x.shape)
        y = y + ((r * k * self.read).sum(-1, keepdim=True) * v).flatten(2)
        return self.out(y * self.gate_rank(x_g)), (x[:, -1], matrix), first

    def flops(self, length: int) -> Flops:
        # shift 13, decay and rate 5; c 4 and its root and bound, k 4, own position 5, gate, blend 5
        pointwise = (14 + NORM + 5 * self.blends) * self.dim + 2 * self.heads
        total = Flops(8 * self.dim**2, 18 * self.dim, pointwise) * length + wkv7_flops(length, self.heads, self.width)
        for low_rank in [self.decay_rank, self.rate_rank, self.gate_rank, *([self.blend_rank] if self.blends else [])]:
            total = total + low_rank.flops(length)
        return total


class Blocks(SequenceMap):
    """Blocks in one direction, between the norm of the embeddings and the last norm."""

    def __init__(self, dim: int, depth: int, version: int, width: int, hidden: int) -> None:
        super().__init__()
        kind = {4: TimeMix4, 5: TimeMix5, 6: TimeMix6, 7: TimeMix7}[version]
        places = [Place(dim, width, layer, depth) for layer in range(depth)]
        self.dim = dim
        self.before: nn.Module | None = nn.LayerNorm(dim)
        self.after: nn.Module | None = nn.LayerNorm(dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in places)
        self.time_mixes = nn.ModuleList(kind(place) for place in places)
        self.channel_mixes = nn.ModuleList(Residual(nn.LayerNorm(dim), ChannelMix(place, version, hidden)) for place in places)

    def _blocks(self) -> Iterator[tuple[nn.Module, TimeMix, Residual]]:
        """The layers, which a ModuleList knows as modules only."""
        yield from cast(
            Iterable[tuple[nn.Module, TimeMix, Residual]], zip(self.norms, self.time_mixes, self.channel_mixes, strict=True)
        )

    def init_state(self, batch: int) -> State:
        return tuple((time.init_state(batch), channel.init_state(batch)) for _, time, channel in self._blocks())

    def stream(self, x: Values, state: State):
        if not x.shape[1]:
            return x, state
        first, after = None, []
        if self.before is not None:
            x = self.before(x)
        for (norm, time, channel), (in_time, in_channel) in zip(self._blocks(), state, strict=True):
            y, in_time, first = time.mix(norm(x), in_time, first)
            x, in_channel = channel.stream(x + y, in_channel)
            after.append((in_time, in_channel))
        return x if self.after is None else self.after(x), tuple(after)

    def alone(self, index: int) -> "Blocks":
        """Block `index` by itself: the norm of the embeddings belongs to the first; values cannot blend with another's."""
        kept = {name: nn.ModuleList([getattr(self, name)[index]]) for name in ("norms", "time_mixes", "channel_mixes")}
        one = deepcopy(self, {id(getattr(self, name)): blocks for name, blocks in kept.items()})
        one.after = None
        if index:
            one.before = None
        time = one.time_mixes[0]
        if isinstance(time, TimeMix7) and time.blends:
            time.blends = False
            del time.blend, time.blend_rank
        return one

    def flops(self, length: int) -> Flops:
        norms = sum(norm is not None for norm in (self.before, self.after))
        total = Flops(pointwise=norms * NORM * length * self.dim)
        for _, time, channel in self._blocks():
            total = total + time.flops(length) + channel.flops(length) + Flops(pointwise=(NORM + 1) * length * self.dim)
        return total


class RWKV(Backbone):
    """RWKV 4 to 7: recurrences with decay for each channel. Peng et al., arXiv:2305.13048, 2404.05892, 2503.14456."""

    embedding_std = 1e-4 / math.sqrt(3)

    def __init__(
        self,
        dim: int,
        depth: int,
        *,
        causal: bool = True,
        version: Annotated[Literal[4, 5, 6, 7], "4; 5 Eagle; 6 Finch; 7 Goose"] = 7,
        width: Annotated[
            int | None, "channels of a head, from version 5 on; none given: the largest divisor of dim to 64"
        ] = None,
        hidden: Annotated[int | None, "hidden width of the channel mix; none given: 4 dim, in versions 5 and 6 7/2 dim"] = None,
    ) -> None:
        super().__init__(dim, depth, causal=causal)
        width = width or max(divisor for divisor in range(1, 65) if dim % divisor == 0)
        if width < 2 or dim % width:
            raise ValueError(f"width={width} must divide dim={dim}, into heads of 2 channels or more")
        hidden = hidden or (7 * dim // 2 if version in (5, 6) else 4 * dim)
        self.blocks = both_ways(dim, lambda: Blocks(dim, depth, version, width, hidden), causal)()

    def init_state(self, batch: int) -> State:
        if not self.causal:
            raise TypeError("built with causal=False, it reads the whole sequence at once and cannot stream")
        return self.blocks.init_state(batch)

    def forward(self, x: Values) -> Values:
        return self.blocks(x)

    def stream(self, x: Values, state: State):
        with quick_start(few(x)):
            return self.blocks.stream(x, state)

    def flops(self, length: int) -> Flops:
        return self.blocks.flops(length)

    def as_layer(self, index: int) -> SequenceMap:
        if not isinstance(self.blocks, Blocks):
            raise ValueError("without causality rwkv reads in both directions as a whole, not layer by layer")
        return self.blocks.alone(index)
