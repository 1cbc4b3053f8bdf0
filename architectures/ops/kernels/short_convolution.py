"""y[t] = w[0] x[t-3] + w[1] x[t-2] + w[2] x[t-1] + w[3] x[t] + b of each channel, and its SiLU where that is asked for.

An item of work is a block of channels of one sequence. x is flat, its positions `step` numbers apart; `weight` is (4, channels);
`state` has the three positions before the first. The way back sums what it needs before the SiLU again.
"""

import numpy as np

from architectures.ops.kernels.compiler import exp, kernel


@kernel
def forward(first, last, block, silu, step, x, weight, bias, state, y):
    length, channels = y.shape[1], y.shape[2]
    blocks = (channels + block - 1) // block
    one = y.dtype.type(1)
    for item in range(first, last):
        n, low = item // blocks, item % blocks * block
        high = min(low + block, channels)
        w0, w1, w2, w3, b = weight[0, low:high], weight[1, low:high], weight[2, low:high], weight[3, low:high], bias[low:high]
        x0, x1, x2 = state[n, 0, low:high], state[n, 1, low:high], state[n, 2, low:high]
        for t in range(length):
            start = (n * length + t) * step
            x3, out = x[start + low : start + high], y[n, t, low:high]
            if silu:
                for i in range(high - low):
                    total = b[i] + w0[i] * x0[i] + w1[i] * x1[i] + w2[i] * x2[i] + w3[i] * x3[i]
                    out[i] = total / (one + exp(-total))
            else:
                for i in range(high - low):
                    out[i] = b[i] + w0[i] * x0[i] + w1[i] * x1[i] + w2[i] * x2[i] + w3[i] * x3[i]
            x0, x1, x2 = x1, x2, x3


@kernel
def backward(first, last, block, silu, step, x, weight, bias, state, grad, to_x, to_weight, to_bias, to_state):
    """`to_weight` and `to_bias`, which come in as zeros, have a row for each sequence."""
    length, channels = grad.shape[1], grad.shape[2]
    blocks = (channels + block - 1) // block
    one = grad.dtype.type(1)
    for item in range(first, last):
        n, low = item // blocks, item % blocks * block
        high = min(low + block, channels)
        w0, w1, w2, w3, b = weight[0, low:high], weight[1, low:high], weight[2, low:high], weight[3, low:high], bias[low:high]
        to_w0, to_w1 = to_weight[n, 0, low:high], to_weight[n, 1, low:high]
        to_w2, to_w3, to_b = to_weight[n, 2, low:high], to_weight[n, 3, low:high], to_bias[n, low:high]
        x0, x1, x2 = state[n, 0, low:high], state[n, 1, low:high], state[n, 2, low:high]
        d0, d1, d2, d3 = np.zeros_like(b), np.zeros_like(b), np.zeros_like(b), np.zeros_like(b)
        for t in range(length + 3):
            if t < length:
                start = (n * length + t) * step
                x3, g = x[start + low : start + high], grad[n, t, low:high]
                if silu:
                    for i in range(high - low):
                        total = b[i] + w0[i] * x0[i] + w1[i] * x1[i] + w2[i] * x2[i] + w3[i] * x3[i]
                        logistic = one / (one + exp(-total))
                        d3[i] = g[i] * (logistic + total * logistic * (one - logistic))
                else:
                    for i in range(high - low):
                        d3[i] = g[i]
                for i in range(high - low):
                    to_w0[i] += d3[i] * x0[i]
                    to_w1[i] += d3[i] * x1[i]
                    to_w2[i] += d3[i] * x2[i]
                    to_w3[i] += d3[i] * x3[i]
                    to_b[i] += d3[i]
                x0, x1, x2 = x1, x2, x3
            else:
                d3[:] = 0
            out = to_x[n, t - 3, low:high] if t > 2 else to_state[n, t, low:high]
            for i in range(high - low):
                out[i] = w3[i] * d0[i] + w2[i] * d1[i] + w1[i] * d2[i] + w0[i] * d3[i]
            d0, d1, d2, d3 = d1, d2, d3, d0
