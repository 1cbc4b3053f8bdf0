"""Fails as it is told: a number that is not finite at a step, in the loss, the gradient or a weight; and says who trains it."""

import os
import time
from typing import Annotated, Literal

import torch
from torch import nn

from architectures.backbone import Flops, SequenceMap
from architectures.stack import Stack

WATCH = "LAB_SOAK_WATCH"


class Broken(torch.autograd.Function):
    """The identity, with a gradient of NaN."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.nan


class FaultyLayer(SequenceMap):
    """A linear map that counts its steps in a buffer, so that a resumed run counts on."""

    def __init__(self, dim: int, step: int, where: str) -> None:
        super().__init__()
        self.map, self.step, self.where = nn.Linear(dim, dim), step, where
        self.register_buffer("steps", torch.zeros(()))

    def init_state(self, batch: int):
        return ()

    def stream(self, x, state):
        y = self.map(x)
        if self.training and x.device.type != "meta":
            self._tell()
            self.steps += 1
            if self.steps == self.step:
                if self.where == "loss":
                    y = y * torch.nan
                elif self.where == "gradient":
                    y = Broken.apply(y)
                elif self.where == "weight":  # as an optimizer would: after the loss
                    self.map.weight.register_hook(self._spoil)
        return y, state

    def _spoil(self, gradient):
        self.map.weight.data[0, 0] = torch.nan
        return gradient

    def _tell(self) -> None:
        """A line in the file of this seed: process and time."""
        if folder := os.environ.get(WATCH):
            file = os.open(os.path.join(folder, str(torch.initial_seed())), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(file, f"{os.getpid()} {time.monotonic()}\n".encode())
            os.close(file)

    def flops(self, length: int) -> Flops:
        return Flops(contraction=2 * length * self.map.weight.numel())


class Faulty(Stack):
    """Not for use."""

    def __init__(
        self,
        dim: int,
        depth: int,
        *,
        causal: bool = True,
        step: Annotated[int, "at which it fails"] = 0,
        where: Annotated[Literal["loss", "gradient", "weight"], "what is no longer finite"] = "loss",
    ) -> None:
        super().__init__(dim, depth, lambda: FaultyLayer(dim, step, where), causal=causal)
