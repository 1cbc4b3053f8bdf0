"""RWKV-4's weighted sums: time outside, a block of channels inside.

An item of work is a block of channels of one sequence. `sums` are a, b and p, which go in as they were before the first position
and come out as they are after the last; `marks` keeps them every SPAN positions, from where the way back computes them again.
"""

import numpy as np

from architectures.ops.kernels.compiler import exact, exp, kernel

BLOCK = 64
SPAN = 32


def items(k):
    """How many items of work there are."""
    return len(k) * -(-k.shape[2] // BLOCK)


@exact
def fading(p, now, w):
    """In this order a small w is not lost beside a large p."""
    return exp((p - now) - w)


@kernel
def forward(first, last, k, v, w, u, y, sums, marks):
    length, dim = k.shape[1], k.shape[2]
    blocks = (dim + BLOCK - 1) // BLOCK
    for item in range(first, last):
        n, low = item // blocks, item % blocks * BLOCK
        high = min(low + BLOCK, dim)
        a, b, p = sums[0, n, low:high], sums[1, n, low:high], sums[2, n, low:high]
        decay, bonus = w[low:high], u[low:high]
        for t in range(length):
            if len(marks) and t % SPAN == 0:
                mark = marks[n, t // SPAN]
                for i in range(high - low):
                    mark[0, low + i], mark[1, low + i], mark[2, low + i] = a[i], b[i], p[i]
            key, value, out = k[n, t, low:high], v[n, t, low:high], y[n, t, low:high]
            for i in range(high - low):
                own = bonus[i] + key[i]
                top = max(p[i], own)
                now = max(p[i] - decay[i], key[i])
                past, own = exp(p[i] - top), exp(own - top)
                keep, new = fading(p[i], now, decay[i]), exp(key[i] - now)
                out[i] = (past * a[i] + own * value[i]) / (past * b[i] + own)
                a[i] = keep * a[i] + new * value[i]
                b[i] = keep * b[i] + new
                p[i] = now


@kernel
def backward(first, last, k, v, w, u, marks, grad, to_sums, to_k, to_v, to_w, to_u):
    length, dim = k.shape[1], k.shape[2]
    blocks = (dim + BLOCK - 1) // BLOCK
    kept = np.empty((6, SPAN, BLOCK), k.dtype)
    p = np.empty(BLOCK, k.dtype)
    for item in range(first, last):
        n, low = item // blocks, item % blocks * BLOCK
        high = min(low + BLOCK, dim)
        decay, bonus = w[low:high], u[low:high]
        to_a, to_b = to_sums[0, n, low:high], to_sums[1, n, low:high]
        sum_w, sum_u = to_w[n, low:high], to_u[n, low:high]
        for span in range((length + SPAN - 1) // SPAN - 1, -1, -1):
            start = span * SPAN
            count = min(SPAN, length - start)
            above, below = kept[0, 0], kept[1, 0]
            for i in range(high - low):
                above[i], below[i], p[i] = marks[n, span, 0, low + i], marks[n, span, 1, low + i], marks[n, span, 2, low + i]
            for t in range(count):
                key, value = k[n, start + t, low:high], v[n, start + t, low:high]
                above, below, keeps, news = kept[0, t], kept[1, t], kept[2, t], kept[3, t]
                pasts, owns = kept[4, t], kept[5, t]
                for i in range(high - low):
                    own = bonus[i] + key[i]
                    top = max(p[i], own)
                    now = max(p[i] - decay[i], key[i])
                    pasts[i], owns[i] = exp(p[i] - top), exp(own - top)
                    keeps[i], news[i] = fading(p[i], now, decay[i]), exp(key[i] - now)
                    p[i] = now
                if t + 1 < count:
                    next_above, next_below = kept[0, t + 1], kept[1, t + 1]
                    for i in range(high - low):
                        next_above[i] = keeps[i] * above[i] + news[i] * value[i]
                        next_below[i] = keeps[i] * below[i] + news[i]
            for t in range(count - 1, -1, -1):
                value, g = v[n, start + t, low:high], grad[n, start + t, low:high]
                above, below, keeps, news = kept[0, t], kept[1, t], kept[2, t], kept[3, t]
                pasts, owns = kept[4, t], kept[5, t]
                key_out, value_out = to_k[n, start + t, low:high], to_v[n, start + t, low:high]
                for i in range(high - low):
                    total = pasts[i] * below[i] + owns[i]
                    up = g[i] / total
                    down = -up * ((pasts[i] * above[i] + owns[i] * value[i]) / total)
                    bonus_grad = owns[i] * (up * value[i] + down)
                    key_out[i] = bonus_grad + news[i] * (to_a[i] * value[i] + to_b[i])
                    value_out[i] = owns[i] * up + news[i] * to_a[i]
                    sum_u[i] += bonus_grad
                    sum_w[i] -= keeps[i] * (to_a[i] * above[i] + to_b[i] * below[i])
                    to_a[i] = keeps[i] * to_a[i] + pasts[i] * up
                    to_b[i] = keeps[i] * to_b[i] + pasts[i] * down
