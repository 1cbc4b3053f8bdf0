"""Hyena: gates and convolutions as long as the sequence, whose filters are a small network's function of time.

    x_1 ... x_N, v = short_convolution(W_in u)      for n = N ... 2:  z = x_n v,  v = (h_n convolved with z) + D_n z
    y = W_out (x_1 v)                               h_n(t) = exp(-rate t) network(features(t)), one for each channel

Poli et al., arXiv:2302.10866, section 3, as the authors' code (HazyResearch/safari) has it: order N has N gates and N - 1 long
convolutions. Features are t = i / (max_length - 1) and cosines and sines of 2 pi f i / max_length, f linear from 0.0001; the
network has three layers of sines sin(w (A z + b)), w learned and one for all layers, and a linear one without bias, torch's
initialisation throughout. It trains without weight decay. Rates are fixed, linearly spaced over channels from 3.07 to 15.35,
which fall to 0.01 at t = 1.5 and 0.3. D is N(0, 1), the short convolution three positions wide. Two bands, w = 10 and fixed
features are the authors' setting for associative recall. positions=learned makes the features a table of max_length rows that
trains at a hundredth of the rate (their 1e-5 to 1e-3), and refuses longer sequences; fixed ones go on beyond t = 1.

The convolution is by FFT of twice the length. There is no finite state: what entered the long convolutions is remembered, and
convolved again with new positions. Filters are made once for all sequences of a batch. Departure: the shared pre-norm block
around the layer.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from architectures.backbone import Flops, LengthError, SequenceMap, State, Tuning
from architectures.ops.long_convolution import long_convolution, long_convolution_flops
from architectures.ops.precision import full_precision
from architectures.ops.short_convolution import ShortConvolution
from architectures.stack import Mixer, Stack, both_ways

NETWORK = tuple(f"network.{layer}.weight" for layer in range(4))


class Operator(SequenceMap):
    """The layer; the state is the last inputs of the short convolution and all inputs of each long one."""

    tuned: ClassVar[Mapping[str, Tuning]] = dict.fromkeys(NETWORK, Tuning(decay=False))
    band_flops: ClassVar[int] = 3  # the angle, its cosine and its sine

    def __init__(self, dim: int, order: int, max_length: int, bands: int, width: int, frequency: float) -> None:
        super().__init__()
        self.dim, self.order, self.max_length, self.bands = dim, order, max_length, bands
        self.channels = (order - 1) * dim
        self.inputs, self.out = nn.Linear(dim, (order + 1) * dim), nn.Linear(dim, dim)
        self.short = ShortConvolution((order + 1) * dim, width=3, bias=True)
        sizes = [1 + 2 * bands, width, width, width]
        hidden = [nn.Linear(before, after) for before, after in pairwise(sizes)]
        self.network = nn.ModuleList([*hidden, nn.Linear(width, self.channels, bias=False)])
        self.frequency = nn.Parameter(torch.full((width,), float(frequency)))
        self.D = nn.Parameter(torch.randn(self.channels))
        rates = torch.linspace(math.log(100) / 1.5, math.log(100) / 0.3, self.channels)
        self.register_buffer("rates", rates, persistent=False)

    def features(self, time: Float[Tensor, "total 1"]) -> Float[Tensor, "total features"]:
        """What the network reads of each position."""
        bands = torch.linspace(1e-4, self.bands - 1, self.bands, dtype=time.dtype, device=time.device)
        angle = time * (bands * (2 * math.pi * (self.max_length - 1) / self.max_length))
        return torch.cat([time, angle.cos(), angle.sin()], 1)

    def filters(self, total: int) -> Float[Tensor, "convolutions dim total"]:
        """h of each long convolution at lags 0 ... total - 1."""
        time = torch.arange(total, dtype=self.D.dtype, device=self.D.device)[:, None] / (self.max_length - 1)
        *hidden, last = cast(list[nn.Linear], list(self.network))
        x = self.features(time)
        for linear in hidden:
            x = torch.sin(self.frequency * linear(x))
        decayed = last(x) * torch.exp(-time * self.get_buffer("rates"))
        return rearrange(decayed, "l (d o) -> o d l", o=self.order - 1)

    def init_state(self, batch: int) -> State:
        return self.short.init_state(batch), (self.zeros(batch, 0, self.dim),) * (self.order - 1)

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        length = x.shape[1]
        if not length:
            return x, state
        window, pasts = state
        mixed, window = self.short.stream(self.inputs(x), window)
        outer, *gates, v = mixed.to(self.D.dtype).chunk(self.order + 1, -1)  # not rounded under autocast from here on
        with full_precision(v):
            filters = self.filters(pasts[0].shape[1] + length)
        skips = rearrange(self.D, "(d o) -> o d", o=self.order - 1)
        after = []
        for gate, past, h, skip in zip(reversed(gates), pasts, filters, skips, strict=True):
            v = gate * v
            after.append(torch.cat([past, v], 1))
            v = skip * v + long_convolution(after[-1], h)[:, -length:]
        return self.out(outer * v), (window, tuple(after))

    def flops(self, length: int) -> Flops:
        width = len(self.frequency)
        weights = sum(linear.weight.numel() for linear in cast(list[nn.Linear], list(self.network)))
        # time and features; bias, w and sine of three layers; rate times t, its exponential, the window's product
        filters = Flops(2 * weights, 1 + self.band_flops * self.bands + 9 * width + 3 * self.channels) * length
        cost = self.short.flops(length) + long_convolution_flops(length, self.channels) + Flops(shared=filters)
        projections = 2 * (self.order + 2) * self.dim**2
        pointwise = (2 * self.order + 2) * self.dim  # biases of the projections; gates
        return cost + Flops(projections, 2 * self.channels, pointwise) * length


class TableOperator(Operator):
    """The layer with learned features of positions."""

    tuned: ClassVar[Mapping[str, Tuning]] = {**Operator.tuned, "table": Tuning(lr_scale=0.01, decay=False)}
    band_flops: ClassVar[int] = 0

    def __init__(self, dim: int, order: int, max_length: int, bands: int, width: int, frequency: float) -> None:
        super().__init__(dim, order, max_length, bands, width, frequency)
        time = torch.arange(max_length, dtype=self.D.dtype)[:, None] / (max_length - 1)
        self.table = nn.Parameter(super().features(time))

    def features(self, time: Float[Tensor, "total 1"]) -> Float[Tensor, "total features"]:
        if len(time) > self.max_length:
            raise LengthError(f"{len(time)} positions, but max_length={self.max_length} are learned")
        return self.table[: len(time)]


class Hyena(Stack):
    """Implicit long convolutions between gates, in place of attention. Poli et al., arXiv:2302.10866."""

    def __init__(
        self,
        dim: int,
        depth: int,
        *,
        causal: bool = True,
        order: Annotated[int, "gates of a layer; one less are its long convolutions"] = 2,
        positions: Annotated[
            Literal["fixed", "learned"], "features of time: a formula, or a table that refuses longer sequences"
        ] = "fixed",
        max_length: Annotated[int, "positions over which time runs from 0 to 1; rows of the learned table"] = 1024,
        bands: Annotated[int, "frequencies among the features of time"] = 2,
        width: Annotated[int, "hidden width of the network that makes the filters"] = 64,
        frequency: Annotated[float, "initial frequency w of its sines"] = 10.0,
        mlp: Annotated[Mixer, "channel mixer after each operator"] = "swiglu",
        hidden: Annotated[int | None, "hidden width of the channel mixer; none given: 8/3 dim (swiglu) or 4 dim"] = None,
    ) -> None:
        for name, value, least in (("order", order, 2), ("max_length", max_length, 2), ("bands", bands, 1), ("width", width, 1)):
            if value < least:
                raise ValueError(f"{name}={value} must be {least} or more")
        kind = TableOperator if positions == "learned" else Operator
        layer = both_ways(dim, lambda: kind(dim, order, max_length, bands, width, frequency), causal)
        super().__init__(dim, depth, layer, causal=causal, mlp=mlp, hidden=hidden)
