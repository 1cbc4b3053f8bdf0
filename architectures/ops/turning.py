"""Matrices turned, which torch is slow at where there are several, or large ones."""

from jaxtyping import Float
from torch import Tensor

from architectures.ops import native

SMALLEST = 2**17


def turned(x: Float[Tensor, "matrices rows columns"]) -> Float[Tensor, "matrices columns rows"]:
    """A copy with the last two axes the other way round: by a kernel (ops/kernels/turning.py), else matrix by matrix."""
    x, y = x.contiguous(), x.new_empty(x.shape[0], x.shape[2], x.shape[1])
    if x.numel() >= SMALLEST and (kernels := native.kernels("turning", x)):
        native.run(kernels.turn, len(x) * -(-x.shape[1] // kernels.BLOCK), x, y)
        return y
    for out, matrix in zip(y, x, strict=True):
        out.copy_(matrix.T)
    return y
