"""x[t] + (x[t-1] - x[t]) mu[t]: one pass there, and one back, for each mu.

An item of work is a block of channels of one sequence. `mu` is of one batch and length where it does not change with them;
`initial` is what precedes the first position.
"""

import numpy as np

from architectures.ops.kernels.compiler import kernel

BLOCK = 64


def items(x):
    """How many items of work there are."""
    return len(x) * -(-x.shape[2] // BLOCK)


@kernel
def forward(first, last, x, initial, mu, out):
    length, dim = x.shape[1], x.shape[2]
    blocks = (dim + BLOCK - 1) // BLOCK
    for item in range(first, last):
        n, low = item // blocks, item % blocks * BLOCK
        channels = slice(low, min(low + BLOCK, dim))
        for t in range(length):
            before = x[n, t - 1, channels] if t else initial[n, channels]
            now, share, y = x[n, t, channels], mu[n % mu.shape[0], t % mu.shape[1], channels], out[n, t, channels]
            for i in range(len(now)):
                y[i] = now[i] + (before[i] - now[i]) * share[i]


@kernel
def backward(first, last, x, initial, mu, grad, to_x, to_initial, to_mu):
    """Adds to `to_x`, `to_initial` and `to_mu`, which is of one length where `mu` is."""
    length, dim = x.shape[1], x.shape[2]
    blocks = (dim + BLOCK - 1) // BLOCK
    passed = np.empty(BLOCK, x.dtype)
    for item in range(first, last):
        n, low = item // blocks, item % blocks * BLOCK
        channels = slice(low, min(low + BLOCK, dim))
        passed[:] = 0
        for t in range(length - 1, -1, -1):
            before = x[n, t - 1, channels] if t else initial[n, channels]
            now, share, g = x[n, t, channels], mu[n % mu.shape[0], t % mu.shape[1], channels], grad[n, t, channels]
            to_now, to_share = to_x[n, t, channels], to_mu[n, t % mu.shape[1], channels]
            for i in range(len(now)):
                earlier = g[i] * share[i]
                to_share[i] += g[i] * (before[i] - now[i])
                to_now[i] += g[i] - earlier + passed[i]
                passed[i] = earlier
        to_before = to_initial[n, channels]
        for i in range(len(to_before)):
            to_before[i] += passed[i]
