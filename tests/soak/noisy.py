"""Noise of every global generator while training: a resumed run must draw on where it stopped."""

import random

import numpy as np
import torch
from torch import nn

from architectures.backbone import Flops, SequenceMap
from architectures.stack import Stack


class NoisyLayer(SequenceMap):
    """Dropout, and a scale from each generator."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.map = nn.Linear(dim, dim)

    def init_state(self, batch: int):
        return ()

    def stream(self, x, state):
        y = self.map(x)
        if self.training:
            scale = 1 + 0.1 * random.random() + 0.1 * float(np.random.rand())  # noqa: NPY002
            y = scale * nn.functional.dropout(y, 0.3) + 0.01 * torch.randn_like(y)
        return y, state

    def flops(self, length: int) -> Flops:
        return Flops(contraction=2 * length * self.map.weight.numel())


class Noisy(Stack):
    """A map with noise."""

    def __init__(self, dim: int, depth: int, *, causal: bool = True) -> None:
        super().__init__(dim, depth, lambda: NoisyLayer(dim), causal=causal)
