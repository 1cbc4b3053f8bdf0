"""A product with a block-diagonal matrix: each equal part of x times its own small matrix.

Fast form, of blocks of four by four: one compiled pass over memory there and one back (ops/kernels/block_product.py), as four
numbers are too few for a product of matrices. Elsewhere a batch of products, for which x is copied.
"""

from types import ModuleType

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from architectures.ops import native
from architectures.ops.silu import flat

SIDE = 4
ROWS = 512  # of one item of work


def block_product(
    x: Float[Tensor, "batch length inputs"], weight: Float[Tensor, "blocks into out"]
) -> Float[Tensor, "batch length outputs"]:
    """Part n of x times `weight[n]`."""
    if x.numel() and weight.shape[1:] == (SIDE, SIDE) and (kernels := native.kernels("block_product", x, weight)):
        return native.call(_Kernel, kernels, x, weight)
    parts = rearrange(x, "b l (n i) -> n (b l) i", n=len(weight))
    return rearrange(torch.bmm(parts, weight), "n (b l) o -> b l (n o)", b=len(x))


def block_product_definition(x: Tensor, weight: Tensor) -> Tensor:
    """The product with the whole matrix."""
    return x @ torch.block_diag(*weight)


class _Kernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx, kernels: ModuleType, x: Tensor, weight: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (given, step), y, rows = flat(x), x.new_empty(x.shape), len(x) * x.shape[1]
        native.run(kernels.forward, -(-rows // ROWS), ROWS, step, given, weight.contiguous(), y.flatten(0, 1))
        ctx.kernels = kernels
        ctx.save_for_backward(x, weight)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        (given, step), to_x, rows = flat(x), x.new_empty(x.shape), grad.contiguous().flatten(0, 1)
        items = -(-len(rows) // ROWS)
        to_weight = x.new_zeros(items, *weight.shape)
        turned = weight.mT.contiguous()
        native.run(ctx.kernels.backward, items, ROWS, step, given, turned, rows, to_x.flatten(0, 1), to_weight)
        return None, to_x, to_weight.sum(0)
