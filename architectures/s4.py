"""S4, structured state spaces: one linear state space for each channel, started from HiPPO, then GELU and a gated linear map.

    x'(t) = A x(t) + B u(t),   y(t) = C x(t) + D u(t),   discretised with a step dt of its own;   out = GLU(W gelu(y))

`dplr` is S4: A = diag(a) - p p* starts as HiPPO-LegS in full (Gu et al., arXiv:2111.00396, sections 3 and 4; one vector p on
both sides keeps A stable: Goel et al., arXiv:2202.09729). `diagonal` is S4D: A = diag(a) (Gu et al., arXiv:2206.11893,
sections 3 and 4; initial a: LegS's normal part, Lin -1/2 + i pi n, Inv -1/2 + i N/pi (N/(2n+1) - 1), Real -(n+1)).
There are N/2 conjugate pairs of states and a = -exp(log_decay) + i frequency. dt is log-uniform, C complex and D real normal;
B is sqrt(2n+1) in the basis of LegS (twice what S4D's theorem 3 has), else 1. What makes A, B and dt trains at a tenth of the
learning rate and without weight decay: the 0.001 to 0.01 of the papers' recipes for text and retrieval.

`forward` forms the kernel for the length at hand, S4's from Cauchy products and the Woodbury identity
(architectures/ops/cauchy.py), S4D's as a Vandermonde product, adds D to its first value and multiplies in Fourier space: the
fewest operations, which `flops` declares. `stream` runs the recurrence from a state in chunks (architectures/ops/convolution.py),
and so does `forward` of long sequences on a CPU, where matrix products of several times the operations take less time. Both are
exact at every length, as C trains itself and not C (1 - A^L).

Departures: the layer sits in the shared pre-norm block, where mlp=none leaves out the channel mixer as the papers do.
"""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from architectures.backbone import Flops, SequenceMap, State, Tuning
from architectures.ops import native
from architectures.ops.cauchy import dplr_kernel, dplr_kernel_flops
from architectures.ops.convolution import System, diagonal_kernel, diagonal_kernel_flops, state_space
from architectures.ops.hippo import Complexes, Reals, diagonal_bilinear, diagonal_zoh, dplr_bilinear, legs_normal
from architectures.ops.long_convolution import long_convolution, long_convolution_flops
from architectures.ops.precision import full_precision
from architectures.ops.remember import Remembered
from architectures.stack import Mixer, Norm, Stack, both_ways, branch_norm

GELU = 8
Init = Literal["legs", "lin", "inv", "real"]
Discretisation = Literal["zoh", "bilinear"]
SLOW = Tuning(lr_scale=0.1, decay=False)


def eigenvalues(init: Init, modes: int) -> Complexes:
    """Initial a, one of each conjugate pair."""
    n = np.arange(modes // 2)
    match init:
        case "legs":
            return legs_normal(modes)[0]
        case "lin":
            return -0.5 + 1j * math.pi * n
        case "inv":
            return -0.5 + 1j * modes / math.pi * (modes / (2 * n + 1) - 1)
        case "real":
            return -(n + 1) + 0j


class Diagonal(SequenceMap):
    """S4D with its gated output; the state is x of each channel."""

    tuned: ClassVar[Mapping[str, Tuning]] = dict.fromkeys(("log_dt", "log_decay", "frequency", "B"), SLOW)
    long: ClassVar[int] = 2048
    """Positions from which on it trains in chunks on a CPU."""

    def __init__(self, dim: int, modes: int, init: Init, discretisation: Discretisation, dt_min: float, dt_max: float) -> None:
        super().__init__()
        self.dim, self.pairs = dim, modes // 2
        self.discretise = diagonal_zoh if discretisation == "zoh" else diagonal_bilinear
        a = eigenvalues(init, modes)
        drive = math.sqrt(2) * legs_normal(modes)[1] if init == "legs" else np.ones(self.pairs)
        self.log_dt = nn.Parameter(math.log(dt_min) + torch.rand(dim, 1) * math.log(dt_max / dt_min))
        self.log_decay = nn.Parameter(self._for_channels(np.log(-a.real)))
        self.frequency = nn.Parameter(self._for_channels(a.imag))
        self.B = nn.Parameter(self._for_channels(np.stack([drive, 0 * drive], -1)))
        self.C = nn.Parameter(torch.randn(dim, self.pairs, 2) * math.sqrt(0.5))
        self.D = nn.Parameter(torch.randn(dim))
        self.out = nn.Linear(dim, 2 * dim)
        self.discretised = Remembered()

    def _for_channels(self, values: Reals) -> Tensor:
        return torch.tensor(values, dtype=torch.get_default_dtype()).repeat(self.dim, *[1] * values.ndim)

    def poles(self) -> Tensor:
        """a, (dim, pairs) complex."""
        return torch.complex(-self.log_decay.exp(), self.frequency)

    def system(self) -> System:
        """The discrete state space."""
        decay, gain = self.discretise(self.poles(), self.log_dt.exp())
        return System(decay, gain * torch.view_as_complex(self.B), torch.view_as_complex(self.C), self.D)

    def kernel(self, length: int) -> Float[Tensor, "dim length"]:
        """K."""
        system = self.system()
        return diagonal_kernel(system.decay, system.drive * system.read, length)

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        if x.is_cpu and x.shape[1] >= self.long and native.reformed():
            return self.stream(x, self.init_state(len(x)))[0]
        with full_precision(x):
            kernel = self.kernel(x.shape[1])
            kernel = kernel + F.pad(self.D[:, None], (0, x.shape[1] - 1))
            y = long_convolution(x.to(self.D.dtype), kernel)
        return self.gated(y)

    def init_state(self, batch: int) -> State:
        return torch.view_as_complex(self.zeros(batch, self.dim, self.pairs, 2))

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        if not x.shape[1]:
            return x, state
        with full_precision(x):
            system = self.discretised(self.system, *self.parameters(recurse=False))
            y, state = state_space(system, x.to(self.D.dtype), state)
        return self.gated(y), state

    def gated(self, y: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        """The map of each position at the end."""
        return F.glu(self.out(F.gelu(y)))

    def kernel_flops(self, length: int) -> Flops:
        """Operations of `kernel`, from the discrete state space on."""
        return diagonal_kernel_flops(length, self.dim, self.pairs) + Flops(mixing=6 * self.dim * self.pairs)

    def flops(self, length: int) -> Flops:
        pointwise = length * self.dim * (GELU + 2 + 2)  # two biases; logistic function and product of the gate
        made = self.kernel_flops(length) + Flops(mixing=self.dim)  # D
        each = Flops(4 * length * self.dim**2, pointwise=pointwise, shared=made)
        return long_convolution_flops(length, self.dim) + each


class DiagonalPlusLowRank(Diagonal):
    """S4: the diagonal system whose own output p* x is fed back; the state is x."""

    tuned: ClassVar[Mapping[str, Tuning]] = {**Diagonal.tuned, "P": SLOW}
    long: ClassVar[int] = 1024

    def __init__(self, dim: int, modes: int, dt_min: float, dt_max: float) -> None:
        super().__init__(dim, modes, "legs", "bilinear", dt_min, dt_max)
        low_rank = legs_normal(modes)[1]
        self.P = nn.Parameter(self._for_channels(np.stack([low_rank, 0 * low_rank], -1)))

    def system(self) -> System:
        p, b, c = (torch.view_as_complex(parameter) for parameter in (self.P, self.B, self.C))
        decay, drive, push, sense = dplr_bilinear(self.poles(), p, b, self.log_dt.exp())
        return System(decay, drive, c, self.D, (push, sense))

    def kernel(self, length: int) -> Float[Tensor, "dim length"]:
        p, b = torch.view_as_complex(self.P), torch.view_as_complex(self.B)
        return dplr_kernel(self.poles(), p, b, self.log_dt.exp(), self.system(), length)

    def kernel_flops(self, length: int) -> Flops:
        return dplr_kernel_flops(length, self.dim, self.pairs)


class S4(Stack):
    """Structured state spaces: S4 (Gu et al., arXiv:2111.00396), and S4D (arXiv:2206.11893) with kernel=diagonal."""

    def __init__(
        self,
        dim: int,
        depth: int,
        *,
        causal: bool = True,
        kernel: Annotated[Literal["dplr", "diagonal"], "S4 (diagonal plus low rank) or S4D"] = "dplr",
        init: Annotated[Init, "where the eigenvalues start; dplr starts from legs"] = "legs",
        discretisation: Annotated[Discretisation | None, "none given: zoh for diagonal; dplr has bilinear only"] = None,
        modes: Annotated[int, "states of each channel (N), an even number: half as many complex ones"] = 64,
        dt_min: Annotated[float, "smallest initial step"] = 0.001,
        dt_max: Annotated[float, "largest initial step"] = 0.1,
        mlp: Annotated[Mixer, "channel mixer after each state space; the papers have none"] = "swiglu",
        hidden: Annotated[int | None, "hidden width of the channel mixer; none given: 8/3 dim (swiglu) or 4 dim"] = None,
        norm: Annotated[Norm, "before each branch; instance: over the sequence, for tasks that are not causal"] = "rms",
    ) -> None:
        if modes < 2 or modes % 2:
            raise ValueError(f"modes={modes} must be even: states come in conjugate pairs")
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"dt_min={dt_min}, dt_max={dt_max}: steps need 0 < dt_min <= dt_max")
        if kernel == "dplr" and (init != "legs" or discretisation == "zoh"):
            raise ValueError("kernel=dplr is LegS by the bilinear rule; other init or discretisation need kernel=diagonal")

        def layer() -> SequenceMap:
            if kernel == "dplr":
                return DiagonalPlusLowRank(dim, modes, dt_min, dt_max)
            return Diagonal(dim, modes, init, discretisation or "zoh", dt_min, dt_max)

        norms = branch_norm(norm, causal)
        super().__init__(dim, depth, both_ways(dim, layer, causal), causal=causal, mlp=mlp, hidden=hidden, norm=norms)
