"""GELU in its tanh form, x/2 (1 + tanh(c (x + a x^3))), c = sqrt(2/pi), a = 0.044715.

Hendrycks & Gimpel, arXiv:1606.08415, section 2.

Fast form: one compiled pass over memory there and one back (ops/kernels/gelu.py), from `SMALLEST` numbers on, below which the
calls cost more than the passes.
"""

import math
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from architectures.ops import native

SMALLEST = 2**18
BLOCK = 8192  # numbers of one item of work
GELU = 8
"""Operations of an element."""


def gelu(x: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    if x.numel() >= SMALLEST and (kernels := native.kernels("gelu", x)):
        return native.call(_Kernel, kernels, x)
    return F.gelu(x, approximate="tanh")


def gelu_definition(x: Tensor) -> Tensor:
    """The formula."""
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class _Kernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx, kernels: ModuleType, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        x = x.contiguous()
        out = torch.empty_like(x)
        native.run(kernels.forward, -(-x.numel() // BLOCK), BLOCK, x.view(-1), out.view(-1))
        ctx.kernels = kernels
        ctx.save_for_backward(x)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        to_x = torch.empty_like(x)
        items = -(-x.numel() // BLOCK)
        native.run(ctx.kernels.backward, items, BLOCK, x.view(-1), grad.contiguous().view(-1), to_x.view(-1))
        return None, to_x
