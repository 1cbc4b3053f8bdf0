"""Linear Recurrent Unit: a complex diagonal linear recurrence, trained by a parallel scan.

    h[t] = lambda * h[t-1] + exp(gamma) * (B x[t])          lambda = exp(-exp(nu) + i exp(theta)), so |lambda| < 1 always
    y[t] = Re(C h[t]) + D * x[t]

Orvieto et al., "Resurrecting Recurrent Neural Networks for Long Sequences", arXiv:2303.06349: section 3.3 (stable exponential
parametrisation), lemma 3.2 (ring initialisation), 3.4 (normalisation gamma = log sqrt(1 - |lambda|^2), then learned), and
appendix A. B has real and imaginary parts N(0, 1/(2 dim)), C N(0, 1/states), D N(0, 1); no conjugate pairs are assumed. Real
parts are the first half of B's rows and of C's columns; the other columns hold -Im C, as Re(C h) needs it.
Nu, theta, gamma and B train at a quarter of the learning rate and without weight decay, as in the paper's long-range recipes.
Departure: the layer sits in the shared pre-norm block with the shared channel mixer, where the paper has a GLU.

With `gate` the recurrence is real and its decay depends on the input (equations and sources: ops/gated_recurrence.py).
`rglru` is the recurrent block of Griffin (De et al., arXiv:2402.19427, sections 2.2 to 2.4):

    y = W_o (gelu(W_y x) * rglru(conv(W_x x)))          conv: causal, one filter of 4 positions for each channel

4/3 dim wide, its gates block-diagonal. exp(-softplus(lambda)) starts uniform by area in the ring from 0.9 to 0.999; weights are
N(0, 1/fan-in), biases zero, filters torch's. `mingru` is W_o h with gate and candidates linear in x (Feng et al.,
arXiv:2410.01201), torch's own initialisation. Both sit in the same shared block.
"""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from architectures.backbone import Flops, SequenceMap, State, Tuning
from architectures.ops.gated_recurrence import MIN_GRU, RG_LRU, min_gru, rg_lru
from architectures.ops.gelu import gelu
from architectures.ops.remember import Remembered
from architectures.ops.scan import planar_scan, planes, scan_flops
from architectures.ops.short_convolution import ShortConvolution
from architectures.stack import Mixer, Norm, Stack, both_ways, branch_norm


class LRU(SequenceMap):
    """One recurrence of `states` complex numbers; the state is its last value."""

    tuned: ClassVar[Mapping[str, Tuning]] = {name: Tuning(lr_scale=0.25, decay=False) for name in ("nu", "theta", "gamma", "B")}

    def __init__(self, dim: int, states: int, r_min: float, r_max: float, phase: float, normalise: bool = True) -> None:
        super().__init__()
        self.dim, self.states = dim, states
        squared_radius = r_min**2 + torch.rand(states) * (r_max**2 - r_min**2)
        self.nu = nn.Parameter(torch.log(-0.5 * torch.log(squared_radius)))
        self.theta = nn.Parameter(torch.log(phase * torch.rand(states).clamp_min(1e-7)))
        # 1 - |lambda|^2 from logarithms: the difference would cancel as |lambda| nears 1
        gamma = 0.5 * torch.log(-torch.expm1(torch.log(squared_radius)))
        self.gamma = nn.Parameter(gamma if normalise else torch.zeros(states), requires_grad=normalise)
        self.B = nn.Parameter(torch.randn(2 * states, dim) / math.sqrt(2 * dim))
        self.C = nn.Parameter(torch.randn(dim, 2 * states) / math.sqrt(states))
        self.D = nn.Parameter(torch.randn(dim))
        self.discretised = Remembered()

    def decay(self) -> Tensor:
        """The eigenvalues lambda, (states,) complex."""
        return torch.exp(torch.complex(-self.nu.exp(), self.theta.exp()))

    def _discrete(self) -> tuple[Tensor, Tensor]:
        """The decay, and what drives the states."""
        return planes(self.decay()), self.gamma.exp().repeat(2)[:, None] * self.B

    def init_state(self, batch: int) -> State:
        return self.zeros(batch, 2 * self.states)

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        decay, drive = self.discretised(self._discrete, self.nu, self.theta, self.gamma, self.B)
        h = planar_scan(decay, F.linear(x, drive).to(state.dtype), state)
        return torch.addcmul(F.linear(h, self.C), x, self.D), h[:, -1] if h.shape[1] else state

    def flops(self, length: int) -> Flops:
        mixing = scan_flops(length, self.states, is_complex=True) + length * (2 * self.states + 2 * self.dim)
        return Flops(contraction=8 * length * self.dim * self.states, mixing=mixing)


class BlockDiagonal(nn.Module):
    """A linear map of each of `blocks` equal parts by itself."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        part = width // blocks
        self.weight = nn.Parameter(torch.randn(blocks, part, part) / math.sqrt(part))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        parts = rearrange(x, "b l (n i) -> n (b l) i", n=len(self.weight))
        return rearrange(torch.bmm(parts, self.weight), "n (b l) o -> b l (n o)", b=len(x)) + self.bias


class RGLRU(SequenceMap):
    """Griffin's recurrent block; the state is h and the last inputs of the convolution, none before the first position."""

    tuned: ClassVar[Mapping[str, Tuning]] = {"decay": Tuning(decay=False)}

    def __init__(self, dim: int, states: int, blocks: int) -> None:
        super().__init__()
        self.dim, self.states, self.blocks = dim, states, blocks
        self.inputs, self.out = nn.Linear(dim, 2 * states), nn.Linear(states, dim)
        self.conv = ShortConvolution(states, bias=True)
        self.recurrence_gate, self.input_gate = BlockDiagonal(states, blocks), BlockDiagonal(states, blocks)
        squared_radius = 0.9**2 + torch.rand(states) * (0.999**2 - 0.9**2)
        self.decay = nn.Parameter(torch.log(torch.expm1(-0.5 * torch.log(squared_radius))))
        for linear in (self.inputs, self.out):
            nn.init.normal_(linear.weight, std=1 / math.sqrt(linear.in_features))
            nn.init.zeros_(linear.bias)

    def init_state(self, batch: int) -> State:
        return self.zeros(batch, self.states), self.zeros(batch, 0, self.states)

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        if not x.shape[1]:
            return x, state
        h, recent = state
        starts = not recent.shape[1]
        branch, driven = self.inputs(x).chunk(2, -1)
        driven, recent = self.conv.stream(driven, self.conv.init_state(len(x)) if starts else recent)
        x, r, i = (t.to(self.decay.dtype) for t in (driven, self.recurrence_gate(driven), self.input_gate(driven)))
        y = rg_lru(x, r, i, self.decay, None if starts else h)
        return self.out(gelu(branch) * y), (y[:, -1], recent)

    def flops(self, length: int) -> Flops:
        products = 6 * self.dim * self.states + 4 * self.states**2 // self.blocks
        pointwise = 11 * self.states + self.dim  # biases of inputs and output; GELU; its product
        return self.conv.flops(length) + Flops(products, mixing=RG_LRU * self.states, pointwise=pointwise) * length


class MinGRU(SequenceMap):
    """minGRU and an output map; the state is h."""

    def __init__(self, dim: int, states: int) -> None:
        super().__init__()
        self.dim, self.states = dim, states
        self.inputs, self.out = nn.Linear(dim, 2 * states), nn.Linear(states, dim, bias=False)

    def init_state(self, batch: int) -> State:
        return self.zeros(batch, self.states)

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        z, k = self.inputs(x).to(state.dtype).chunk(2, -1)
        h = min_gru(z, k, state)
        return self.out(h), h[:, -1] if h.shape[1] else state

    def flops(self, length: int) -> Flops:
        return Flops(contraction=6 * self.dim * self.states, mixing=MIN_GRU * self.states) * length


class LinearRNN(Stack):
    """Linear recurrent unit (LRU), trained by a parallel scan. Orvieto et al., arXiv:2303.06349; RG-LRU and minGRU by `gate`."""

    def __init__(
        self,
        dim: int,
        depth: int,
        *,
        causal: bool = True,
        gate: Annotated[Literal["none", "rglru", "mingru"], "gates that make the recurrence real and selective"] = "none",
        states: Annotated[int | None, "states of a layer; none given: dim, or with rglru 4/3 dim in whole eights"] = None,
        blocks: Annotated[int, "diagonal blocks of the gates of rglru"] = 4,
        r_min: Annotated[float, "inner radius of the ring of initial eigenvalues"] = 0.9,
        r_max: Annotated[float, "outer radius of the ring, below 1"] = 0.999,
        phase: Annotated[float, "largest initial angle of an eigenvalue, in radians"] = 2 * math.pi,
        normalise: Annotated[bool, "scale what drives a state by gamma, which keeps it at the size of its input"] = True,
        mlp: Annotated[Mixer, "channel mixer after each recurrence"] = "swiglu",
        hidden: Annotated[int | None, "hidden width of the channel mixer; none given: 8/3 dim (swiglu) or 4 dim"] = None,
        norm: Annotated[Norm, "before each branch; instance: over the sequence, for tasks that are not causal"] = "rms",
    ) -> None:
        if not 0 <= r_min < r_max < 1:
            raise ValueError(f"r_min={r_min}, r_max={r_max}: a ring needs 0 <= r_min < r_max < 1")
        width = states or (-(-dim // 6) * 8 if gate == "rglru" else dim)
        if gate == "rglru" and (blocks < 1 or width % blocks):
            raise ValueError(f"blocks={blocks} must divide the {width} states of a layer")

        def layer() -> SequenceMap:
            if gate == "rglru":
                return RGLRU(dim, width, blocks)
            return MinGRU(dim, width) if gate == "mingru" else LRU(dim, width, r_min, r_max, phase, normalise)

        norms = branch_norm(norm, causal)
        super().__init__(dim, depth, both_ways(dim, layer, causal), causal=causal, mlp=mlp, hidden=hidden, norm=norms)
