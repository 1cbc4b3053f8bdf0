"""S5, simplified state spaces: one linear state space for all channels of a layer, diagonal, trained by a parallel scan.

    x[t] = exp(lambda dt) x[t-1] + (exp(lambda dt) - 1) / lambda * (B u[t])        y[t] = 2 Re(C x[t]) + D * u[t]
    g = gelu(y);   out = g * sigmoid(W g)

Smith et al., "Simplified State Space Layers for Sequence Modeling", arXiv:2208.04933: section 3.2 (diagonal system, zero-order
hold, a step dt for each state), 3.3 and appendix B.1 (lambda from the normal part of HiPPO-LegS, in blocks; B and C drawn in
its basis; conjugate pairs of which one is kept). B and C start as real matrices of variance 1 / fan-in turned into the
eigenbasis: real parts are the first half of B's rows and of C's columns, the other columns hold -Im C. dt is log-uniform, D is
N(0, 1). The real part of lambda is kept below -0.0001, the authors' option for stability.
Lambda, B and dt train at a quarter of the learning rate and without weight decay, the ratio 0.001 : 0.004 of the paper's recipes.
Departure: the layer sits in the shared pre-norm block with the shared channel mixer; mlp=none leaves that out, as the paper does.
"""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from architectures.backbone import Flops, SequenceMap, State, Tuning
from architectures.ops.hippo import Reals, diagonal_zoh, legs_normal
from architectures.ops.remember import Remembered
from architectures.ops.scan import joined, planar_scan, planes, scan_flops
from architectures.stack import Mixer, Norm, Stack, both_ways, branch_norm

GELU = 8
SLOW = Tuning(lr_scale=0.25, decay=False)


class StateSpace(SequenceMap):
    """One state space of `states` states in conjugate pairs, and its gate; the state is x, one of each pair."""

    tuned: ClassVar[Mapping[str, Tuning]] = dict.fromkeys(("decay", "frequency", "log_dt", "B"), SLOW)

    def __init__(self, dim: int, states: int, blocks: int, dt_min: float, dt_max: float) -> None:
        super().__init__()
        self.dim, self.pairs = dim, states // 2
        poles, _, vectors = legs_normal(states // blocks)
        poles, basis = np.tile(poles, blocks), np.kron(np.eye(blocks), vectors)
        self.decay = nn.Parameter(_tensor(poles.real))
        self.frequency = nn.Parameter(_tensor(poles.imag))
        self.log_dt = nn.Parameter(math.log(dt_min) + torch.rand(self.pairs) * math.log(dt_max / dt_min))
        into, out_of = torch.randn(states, dim) / math.sqrt(dim), torch.randn(dim, states) / math.sqrt(states)
        self.B = nn.Parameter(torch.cat([_tensor(part.T) @ into for part in (basis.real, -basis.imag)]))
        self.C = nn.Parameter(torch.cat([out_of @ _tensor(part) for part in (basis.real, -basis.imag)], 1))
        self.D = nn.Parameter(torch.randn(dim))
        self.gate = nn.Linear(dim, dim)
        self.discretised = Remembered()

    def init_state(self, batch: int) -> State:
        return self.zeros(batch, 2 * self.pairs)

    def _discrete(self) -> tuple[Tensor, Tensor, Tensor]:
        """The decay, and what drives and reads the states."""
        poles = torch.complex(self.decay.clamp(max=-1e-4), self.frequency)
        decay, gain = diagonal_zoh(poles, self.log_dt.exp())
        return planes(decay), planes(gain * joined(self.B.T)).T, 2 * self.C

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        parameters = self.decay, self.frequency, self.log_dt, self.B, self.C
        decay, drive, read = self.discretised(self._discrete, *parameters)
        h = planar_scan(decay, F.linear(x, drive).to(state.dtype), state)
        g = F.gelu(torch.addcmul(F.linear(h, read), x, self.D))
        return g * torch.sigmoid(self.gate(g)), h[:, -1] if h.shape[1] else state

    def flops(self, length: int) -> Flops:
        # gain: 6 a pair; 2 Re: 2 a pair; skip: 2 a channel
        mixing = scan_flops(length, self.pairs, is_complex=True) + length * (8 * self.pairs + 2 * self.dim)
        contraction = length * (8 * self.dim * self.pairs + 2 * self.dim**2)
        return Flops(contraction, mixing, length * self.dim * (GELU + 3))


class S5(Stack):
    """Simplified state space layers (S5). Smith et al., arXiv:2208.04933."""

    def __init__(
        self,
        dim: int,
        depth: int,
        *,
        causal: bool = True,
        states: Annotated[int | None, "states of a layer, half as many complex ones; none given: as many as dim"] = None,
        blocks: Annotated[int, "equal HiPPO systems that the states start as"] = 4,
        dt_min: Annotated[float, "smallest initial step"] = 0.001,
        dt_max: Annotated[float, "largest initial step"] = 0.1,
        mlp: Annotated[Mixer, "channel mixer after each state space; the paper has none"] = "swiglu",
        hidden: Annotated[int | None, "hidden width of the channel mixer; none given: 8/3 dim (swiglu) or 4 dim"] = None,
        norm: Annotated[Norm, "before each branch; instance: over the sequence, for tasks that are not causal"] = "rms",
    ) -> None:
        size = states or dim
        if size < 2 or blocks < 1 or size % (2 * blocks):
            raise ValueError(f"states={size} must be an even number for each of blocks={blocks}")
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"dt_min={dt_min}, dt_max={dt_max}: steps need 0 < dt_min <= dt_max")

        def layer() -> SequenceMap:
            return StateSpace(dim, size, blocks, dt_min, dt_max)

        norms = branch_norm(norm, causal)
        super().__init__(dim, depth, both_ways(dim, layer, causal), causal=causal, mlp=mlp, hidden=hidden, norm=norms)


def _tensor(values: Reals) -> Tensor:
    return torch.tensor(values, dtype=torch.get_default_dtype())
