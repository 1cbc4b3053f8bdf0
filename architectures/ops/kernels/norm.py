"""x / sqrt(mean(x^2) + eps) * weight of each row: one pass there, and one back.

An item of work is `block` rows of `x`, (rows, width). `weight` and its gradient are None where there is none.
"""

import math

from architectures.ops.kernels.compiler import kernel


@kernel
def forward(first, last, block, eps, x, weight, y):
    rows, width = x.shape
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for row in range(first * block, min(last * block, rows)):
        given, out, total = x[row], y[row], zero
        for i in range(width):
            total += given[i] * given[i]
        scale = one / math.sqrt(total / x.dtype.type(width) + x.dtype.type(eps))
        for i in range(width):
            out[i] = given[i] * scale if weight is None else given[i] * scale * weight[i]


@kernel
def backward(first, last, block, eps, x, weight, grad, to_x, to_weight):
    """`to_weight` comes in as zeros, and has a row for each item."""
    rows, width = x.shape
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for item in range(first, last):
        for row in range(item * block, min(item * block + block, rows)):
            given, g, out, total, along = x[row], grad[row], to_x[row], zero, zero
            for i in range(width):
                total += given[i] * given[i]
                along += g[i] * given[i] if weight is None else g[i] * given[i] * weight[i]
            scale = one / math.sqrt(total / x.dtype.type(width) + x.dtype.type(eps))
            along *= scale * scale / x.dtype.type(width)
            for i in range(width):
                if weight is None:
                    out[i] = scale * (g[i] - along * given[i])
                else:
                    to_weight[item, i] += g[i] * given[i] * scale
                    out[i] = scale * (g[i] * weight[i] - along * given[i])
