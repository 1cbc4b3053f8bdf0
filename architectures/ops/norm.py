"""Root mean square norm: y = x / sqrt(mean(x^2) + eps) * weight over the last axis (Zhang & Sennrich, arXiv:1910.07467).

And the instance norm, over the positions of a sequence instead, each channel by itself (Ulyanov et al., arXiv:1607.08022).

Fast form of the first: one compiled pass over memory there and one back (ops/kernels/norm.py), without gradients or from
`SMALLEST` numbers on; below, what autograd does around it costs more. Elsewhere torch's own runs, which on a CPU is a row of
pointwise operations.
"""

from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from architectures.ops import native

SMALLEST = 2**15
ROWS = 256  # that one item of work has


class RMSNorm(nn.RMSNorm):
    """torch's, by the fast form."""

    def forward(self, x: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes width"]:
        return rms_norm(x, self.weight, torch.finfo(x.dtype).eps if self.eps is None else self.eps)


class InstanceNorm(nn.Module):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias, of all positions and in the dtype of the weights."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width)), eps

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        variance, mean = torch.var_mean(x.to(self.weight.dtype), 1, correction=0, keepdim=True)
        scale = self.weight * (variance + self.eps).rsqrt()
        return torch.addcmul(self.bias - mean * scale, x.to(self.weight.dtype), scale).to(x.dtype)


def rms_norm(x: Float[Tensor, "*axes width"], weight: Float[Tensor, " width"] | None, eps: float) -> Float[Tensor, "*axes width"]:
    """Without weights where there are none."""
    tensors = (x,) if weight is None else (x, weight)
    if (x.numel() >= SMALLEST or not torch.is_grad_enabled()) and (kernels := native.kernels("norm", *tensors)):
        return native.call(_Kernel, kernels, x, weight, eps)
    return F.rms_norm(x, x.shape[-1:], weight, eps)


def rms_norm_definition(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """The formula."""
    y = x / (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return y if weight is None else y * weight


class _Kernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx, kernels: ModuleType, x: Tensor, weight: Tensor | None, eps: float) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = x.contiguous(), None if weight is None else weight.contiguous()
        y, width = torch.empty_like(x), x.shape[-1]
        items = -(-x.numel() // (ROWS * width))
        native.run(kernels.forward, items, ROWS, eps, x.view(-1, width), weight, y.view(-1, width))
        ctx.kernels, ctx.eps = kernels, eps
        ctx.save_for_backward(x, weight)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        rows, to_x = x.view(-1, x.shape[-1]), torch.empty_like(x)
        items = -(-len(rows) // ROWS)
        to_weight = None if weight is None else x.new_zeros(items, x.shape[-1])
        arguments = (rows, weight, grad.contiguous().view_as(rows), to_x.view_as(rows), to_weight)
        native.run(ctx.kernels.backward, items, ROWS, ctx.eps, *arguments)
        return None, to_x, None if to_weight is None else to_weight.sum(0), None
