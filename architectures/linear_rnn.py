"""Linear Recurrent Unit: a complex diagonal linear recurrence, trained by a parallel scan.

    h[t] = lambda * h[t-1] + exp(gamma) * (B x[t])          lambda = exp(-exp(nu) + i exp(theta)), so |lambda| < 1 always
    y[t] = Re(C h[t]) + D * x[t]

Orvieto et al., "Resurrecting Recurrent Neural Networks for Long Sequences", arXiv:2303.06349: section 3.3 (stable exponential
parametrisation), lemma 3.2 (ring initialisation), 3.4 (normalisation gamma = log sqrt(1 - |lambda|^2), then learned), and
appendix A. B has real and imaginary parts N(0, 1/(2 dim)), C N(0, 1/states), D N(0, 1); no conjugate pairs are assumed.
Nu, theta, gamma and B train at a quarter of the learning rate and without weight decay, as in the paper's long-range recipes.
Departure: the layer sits in the shared pre-norm block with the shared channel mixer, where the paper has a GLU.
"""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from architectures.backbone import Flops, SequenceMap, State, Tuning
from architectures.ops.scan import scan, scan_flops
from architectures.stack import Mixer, Stack, both_ways


class LRU(SequenceMap):
    """One recurrence of `states` complex numbers; the state is its last value."""

    tuned: ClassVar[Mapping[str, Tuning]] = {name: Tuning(lr_scale=0.25, decay=False) for name in ("nu", "theta", "gamma", "B")}

    def __init__(self, dim: int, states: int, r_min: float, r_max: float, phase: float) -> None:
        super().__init__()
        self.dim, self.states = dim, states
        squared_radius = r_min**2 + torch.rand(states) * (r_max**2 - r_min**2)
        self.nu = nn.Parameter(torch.log(-0.5 * torch.log(squared_radius)))
        self.theta = nn.Parameter(torch.log(phase * torch.rand(states).clamp_min(1e-7)))
        # 1 - |lambda|^2 from logarithms: the difference would cancel as |lambda| nears 1
        self.gamma = nn.Parameter(0.5 * torch.log(-torch.expm1(torch.log(squared_radius))))
        self.B = nn.Parameter(torch.randn(2 * states, dim) / math.sqrt(2 * dim))
        self.C = nn.Parameter(torch.randn(dim, 2 * states) / math.sqrt(states))
        self.D = nn.Parameter(torch.randn(dim))

    def decay(self) -> Tensor:
        """The eigenvalues lambda, (states,) complex."""
        return torch.exp(torch.complex(-self.nu.exp(), self.theta.exp()))

    def init_state(self, batch: int) -> State:
        return torch.view_as_complex(self.zeros(batch, self.states, 2))

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        driven = (x @ self.B.T).to(self.gamma.dtype).unflatten(-1, (self.states, 2)) * self.gamma.exp()[:, None]
        h = scan(self.decay(), torch.view_as_complex(driven), state)
        y = rearrange(torch.view_as_real(h), "b l n parts -> b l (n parts)") @ self.C.T + self.D * x
        return y, h[:, -1] if h.shape[1] else state

    def flops(self, length: int) -> Flops:
        mixing = scan_flops(length, self.states, is_complex=True) + length * (2 * self.states + 2 * self.dim)
        return Flops(contraction=8 * length * self.dim * self.states, mixing=mixing)


class LinearRNN(Stack):
    """Linear recurrent unit (LRU), trained by a parallel scan. Orvieto et al., arXiv:2303.06349."""

    def __init__(
        self,
        dim: int,
        depth: int,
        *,
        causal: bool = True,
        states: Annotated[int | None, "complex states of a layer; none given: as many as dim"] = None,
        r_min: Annotated[float, "inner radius of the ring of initial eigenvalues"] = 0.9,
        r_max: Annotated[float, "outer radius of the ring, below 1"] = 0.999,
        phase: Annotated[float, "largest initial angle of an eigenvalue, in radians"] = 2 * math.pi,
        mlp: Annotated[Mixer, "channel mixer after each recurrence"] = "swiglu",
        hidden: Annotated[int | None, "hidden width of the channel mixer; none given: 8/3 dim (swiglu) or 4 dim"] = None,
    ) -> None:
        if not 0 <= r_min < r_max < 1:
            raise ValueError(f"r_min={r_min}, r_max={r_max}: a ring needs 0 <= r_min < r_max < 1")

        def layer() -> SequenceMap:
            return LRU(dim, states or dim, r_min, r_max, phase)

        super().__init__(dim, depth, both_ways(dim, layer, causal), causal=causal, mlp=mlp, hidden=hidden)
