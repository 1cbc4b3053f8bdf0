"""Causal convolution of each channel by itself: y[t] = sum_j w[j] x[t - width + 1 + j] + b."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from architectures.backbone import Flops, SequenceMap, State


class ShortConvolution(SequenceMap):
    """`width` taps for each channel, uniform in +-1/sqrt(width) as torch's own; the state is the last width - 1 inputs."""

    def __init__(self, dim: int, *, width: int = 4, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, width).uniform_(-1 / math.sqrt(width), 1 / math.sqrt(width)))
        self.bias = nn.Parameter(torch.empty(dim).uniform_(-1 / math.sqrt(width), 1 / math.sqrt(width))) if bias else None

    def init_state(self, batch: int) -> State:
        dim, width = self.weight.shape
        return self.zeros(batch, width - 1, dim)

    def stream(self, x: Float[Tensor, "batch length dim"], state: State):
        if not x.shape[1]:
            return x, state
        seen = torch.cat([state, x], 1)
        y = F.conv1d(seen.mT, self.weight[:, None], self.bias, groups=len(self.weight)).mT
        return y, seen[:, x.shape[1] :]

    def flops(self, length: int) -> Flops:
        return Flops(contraction=2 * self.weight.numel(), pointwise=0 if self.bias is None else len(self.bias)) * length


def short_convolution_definition(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor) -> Tensor:
    """The sum as it is written, position by position."""
    seen, width = torch.cat([state, x], 1), weight.shape[1]
    y = torch.stack([(seen[:, t : t + width] * weight.T).sum(1) for t in range(x.shape[1])], 1)
    return y if bias is None else y + bias
