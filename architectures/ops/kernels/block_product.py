"""Each four numbers of a row times their own matrix of four by four: one pass there, and one back.

An item of work is `block` rows; x is flat, its rows `step` apart. Sums of an item's rows are its own.
"""

from architectures.ops.kernels.compiler import kernel


@kernel
def forward(first, last, block, step, x, weight, y):
    rows, blocks = len(y), len(weight)
    for row in range(first * block, min(last * block, rows)):
        for n in range(blocks):
            at, w = row * step + 4 * n, weight[n]
            a, b, c, d = x[at], x[at + 1], x[at + 2], x[at + 3]
            for o in range(4):
                y[row, 4 * n + o] = a * w[0, o] + b * w[1, o] + c * w[2, o] + d * w[3, o]


@kernel
def backward(first, last, block, step, x, weight, grad, to_x, to_weight):
    """`to_weight` comes in as zeros, one weight for each item; `weight` is turned."""
    rows, blocks = len(grad), len(weight)
    for item in range(first, last):
        for row in range(item * block, min(item * block + block, rows)):
            for n in range(blocks):
                at, w, to_w, own = row * step + 4 * n, weight[n], to_weight[item, n], 4 * n
                a, b, c, d = grad[row, own], grad[row, own + 1], grad[row, own + 2], grad[row, own + 3]
                for i in range(4):
                    to_x[row, own + i] = a * w[0, i] + b * w[1, i] + c * w[2, i] + d * w[3, i]
                for i in range(4):
                    to_w[i, 0] += x[at + i] * a
                    to_w[i, 1] += x[at + i] * b
                    to_w[i, 2] += x[at + i] * c
                    to_w[i, 3] += x[at + i] * d
