"""A gate y * silu(z), silu(z) = z sigmoid(z) (Hendrycks & Gimpel, arXiv:1606.08415; Ramachandran et al., arXiv:1710.05941).

Fast form: one compiled pass over memory there and one back (ops/kernels/silu.py), from `SMALLEST` numbers on; below, the calls
cost more than the passes. Only y and z are kept for the way back.
"""

from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from architectures.ops import native

SMALLEST = 2**18
NUMBERS = 8192  # that one item of work has, in whole rows
SILU = 4
"""Operations of an element."""

Rows = Float[Tensor, "*axes rows width"]


def gated_silu(y: Rows, z: Rows) -> Rows:
    """y * silu(z)."""
    if y.numel() >= SMALLEST and (kernels := native.kernels("silu", y, z)):
        return native.call(_Kernel, kernels, y, z)
    return y * F.silu(z)


def gated_silu_definition(y: Tensor, z: Tensor) -> Tensor:
    """The formula."""
    return y * z / (1 + torch.exp(-z))


def flat(x: Rows) -> tuple[Tensor, int]:
    """All its numbers as one row, and how far apart its rows are: a part of the last axis of a tensor is not copied."""
    pairs = zip(x.shape[1:-1], x.stride()[:-2], x.stride()[1:-1], strict=True)
    if x.stride(-1) == 1 and all(outer == size * inner for size, outer, inner in pairs):
        return native.flat(x), x.stride(-2)
    return x.contiguous().view(-1), x.shape[-1]


class _Kernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx, kernels: ModuleType, y: Tensor, z: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        out = y.new_empty(y.shape)
        (y_flat, y_step), (z_flat, z_step) = flat(y), flat(z)
        native.run(kernels.forward, *_work(y), y_step, z_step, y_flat, z_flat, out.view(-1))
        ctx.kernels = kernels
        ctx.save_for_backward(y, z)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        y, z = ctx.saved_tensors
        to_y, to_z = y.new_empty(y.shape), y.new_empty(y.shape)
        (y_flat, y_step), (z_flat, z_step) = flat(y), flat(z)
        arguments = (y_step, z_step, y_flat, z_flat, grad.contiguous().view(-1), to_y.view(-1), to_z.view(-1))
        native.run(ctx.kernels.backward, *_work(y), *arguments)
        return None, to_y, to_z


def _work(y: Tensor) -> tuple[int, int, int]:
    """Items of work, rows of one, and numbers of a row."""
    width = y.shape[-1]
    rows = max(1, NUMBERS // width)
    return -(-(y.numel() // width) // rows), rows, width
