"""x <- x power + left from chunk to chunk of a sequence, with the x before each of them.

An item of work is a channel. `left` and `starts` are (channels, batch, chunks, n), `power` is (channels, n, n); `x`, (channels,
batch, n), becomes the last. Against time where `back` is 1.
"""

import numpy as np

from architectures.ops.kernels.compiler import kernel


@kernel
def carry(first, last, back, left, power, x, starts):
    batch, count, n = left.shape[1:]
    after = np.empty(n, x.dtype)
    for item in range(first, last):
        matrix = power[item]
        for b in range(batch):
            now = x[item, b]
            for step in range(count):
                chunk = count - 1 - step if back else step
                arrived, before = left[item, b, chunk], starts[item, b, chunk]
                for i in range(n):
                    before[i], after[i] = now[i], arrived[i]
                for j in range(0, n - 3, 4):
                    a, b_, c, d = now[j], now[j + 1], now[j + 2], now[j + 3]
                    row, second, third, fourth = matrix[j], matrix[j + 1], matrix[j + 2], matrix[j + 3]
                    for i in range(n):
                        after[i] += a * row[i] + b_ * second[i] + c * third[i] + d * fourth[i]
                for j in range(n - n % 4, n):
                    a, row = now[j], matrix[j]
                    for i in range(n):
                        after[i] += a * row[i]
                for i in range(n):
                    now[i] = after[i]


@kernel
def carry_diagonal(first, last, back, left, power, x, starts):
    """The same, where `power` is (channels, n): real parts of a diagonal, then the imaginary ones; so are those of x."""
    batch, count, n = left.shape[1:]
    half = n // 2
    for item in range(first, last):
        along, across = power[item, :half], power[item, half:]
        for b in range(batch):
            real, turn = x[item, b, :half], x[item, b, half:]
            for step in range(count):
                chunk = count - 1 - step if back else step
                arrived, before = left[item, b, chunk], starts[item, b, chunk]
                for i in range(half):
                    now, beside = real[i], turn[i]
                    before[i], before[half + i] = now, beside
                    real[i] = now * along[i] - beside * across[i] + arrived[i]
                    turn[i] = now * across[i] + beside * along[i] + arrived[half + i]
