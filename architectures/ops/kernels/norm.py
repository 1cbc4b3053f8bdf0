"""x / sqrt(mean(x^2) + eps) * weight of each row: one pass there, and one back.

An item of work is `block` rows of `x`, (rows, width). `scales` are 1 / sqrt(mean(x^2) + eps).
"""

import math

from architectures.ops.kernels.compiler import kernel


@kernel
def forward(first, last, block, eps, x, weight, scales, y):
    rows, width = x.shape
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for row in range(first * block, min(last * block, rows)):
        given, out, total = x[row], y[row], zero
        for i in range(width):
            total += given[i] * given[i]
        scale = one / math.sqrt(total / x.dtype.type(width) + x.dtype.type(eps))
        scales[row] = scale
        for i in range(width):
            out[i] = given[i] * scale * weight[i]


@kernel
def backward(first, last, block, x, weight, scales, grad, to_x, to_weight):
    """`to_weight` comes in as zeros, and has a row for each item."""
    rows, width = x.shape
    zero = x.dtype.type(0)
    for item in range(first, last):
        to_w = to_weight[item]
        for row in range(item * block, min(item * block + block, rows)):
            given, g, out, scale, along = x[row], grad[row], to_x[row], scales[row], zero
            for i in range(width):
                through = g[i] * given[i]
                along += through * weight[i]
                to_w[i] += through * scale
            along *= scale * scale / x.dtype.type(width)
            for i in range(width):
                out[i] = scale * (g[i] * weight[i] - along * given[i])
