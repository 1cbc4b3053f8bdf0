"""h[t] = exp(delta[t] A) * h[t-1] + delta[t] x[t] B[t], read out as h[t] C[t]: a block of channels inside, its states around it.

An item of work is a block of channels of one sequence. States are rows of channels: A is (states, channels), `state` (batch,
states, channels), which goes in as it was before the first position and comes out as it is after the last; `marks` keeps it every
SPAN positions, from where the way back computes it again. What channels share is summed for each block by itself.
"""

import math

import numpy as np

from architectures.ops.kernels.compiler import exp, kernel

SPAN = 32


@kernel
def forward(first, last, block, x, delta, A, B, C, y, state, marks):
    length, channels, states = x.shape[1], x.shape[2], A.shape[0]
    blocks = (channels + block - 1) // block
    driven = np.empty(block, x.dtype)
    for item in range(first, last):
        n, low = item // blocks, item % blocks * block
        high = min(low + block, channels)
        for t in range(length):
            if len(marks) and t % SPAN == 0:
                for s in range(states):
                    marks[n, t // SPAN, s, low:high] = state[n, s, low:high]
            step, value, out = delta[n, t, low:high], x[n, t, low:high], y[n, t, low:high]
            for i in range(high - low):
                driven[i] = step[i] * value[i]
                out[i] = 0
            for s in range(states):
                rate, h, b, c = A[s, low:high], state[n, s, low:high], B[n, t, s], C[n, t, s]
                for i in range(high - low):
                    h[i] = exp(step[i] * rate[i]) * h[i] + driven[i] * b
                    out[i] += h[i] * c


@kernel
def step(first, last, x, raw, bias, A, B, C, D, gate, state, y, after):
    """One position, from `state` to `after`, with what is around it: delta = softplus(raw + bias), (y + D x) silu(gate)."""
    channels, states = x.shape[2], A.shape[0]
    one, large = x.dtype.type(1), x.dtype.type(20)
    delta, driven = np.empty(channels, x.dtype), np.empty(channels, x.dtype)
    for n in range(first, last):
        value, before, out, z = x[n, 0], raw[n, 0], y[n, 0], gate[n, 0]
        for i in range(channels):
            total = before[i] + bias[i]
            delta[i] = total if total > large else math.log1p(exp(total))
            driven[i] = delta[i] * value[i]
            out[i] = D[i] * value[i]
        for s in range(states):
            rate, h, now, b, c = A[s], state[n, s], after[n, s], B[n, 0, s], C[n, 0, s]
            for i in range(channels):
                now[i] = exp(delta[i] * rate[i]) * h[i] + driven[i] * b
                out[i] += now[i] * c
        for i in range(channels):
            out[i] *= z[i] / (one + exp(-z[i]))


@kernel
def backward(first, last, block, x, delta, A, B, C, marks, grad, to_x, to_delta, to_A, to_B, to_C, to_state):
    """`to_A` comes in as zeros, and is (batch, states, channels); `to_B` and `to_C` are (blocks, batch, length, states)."""
    length, channels, states = x.shape[1], x.shape[2], A.shape[0]
    blocks = (channels + block - 1) // block
    kept = np.empty((SPAN + 1, states, block), x.dtype)
    decays = np.empty((SPAN, states, block), x.dtype)
    driven, to_driven = np.empty(block, x.dtype), np.empty(block, x.dtype)
    zero = x.dtype.type(0)
    for item in range(first, last):
        n, part = item // blocks, item % blocks
        low = part * block
        high = min(low + block, channels)
        for span in range((length + SPAN - 1) // SPAN - 1, -1, -1):
            start = span * SPAN
            count = min(SPAN, length - start)
            for s in range(states):
                kept[0, s, : high - low] = marks[n, span, s, low:high]
            for t in range(count):
                step, value = delta[n, start + t, low:high], x[n, start + t, low:high]
                for i in range(high - low):
                    driven[i] = step[i] * value[i]
                for s in range(states):
                    rate, decay, before, now = A[s, low:high], decays[t, s], kept[t, s], kept[t + 1, s]
                    b = B[n, start + t, s]
                    for i in range(high - low):
                        decay[i] = exp(step[i] * rate[i])
                        now[i] = decay[i] * before[i] + driven[i] * b
            for t in range(count - 1, -1, -1):
                step, value, g = delta[n, start + t, low:high], x[n, start + t, low:high], grad[n, start + t, low:high]
                to_step, to_value = to_delta[n, start + t, low:high], to_x[n, start + t, low:high]
                for i in range(high - low):
                    driven[i] = step[i] * value[i]
                    to_driven[i] = 0
                    to_step[i] = 0
                for s in range(states):
                    rate, decay, before, now = A[s, low:high], decays[t, s], kept[t, s], kept[t + 1, s]
                    d, to_rate = to_state[n, s, low:high], to_A[n, s, low:high]
                    b, c = B[n, start + t, s], C[n, start + t, s]
                    to_b, to_c = zero, zero
                    for i in range(high - low):
                        total = d[i] + g[i] * c
                        to_c += g[i] * now[i]
                        to_b += total * driven[i]
                        to_driven[i] += total * b
                        d[i] = total * decay[i]
                        through = d[i] * before[i]
                        to_step[i] += through * rate[i]
                        to_rate[i] += through * step[i]
                    to_B[part, n, start + t, s] = to_b
                    to_C[part, n, start + t, s] = to_c
                for i in range(high - low):
                    to_step[i] += to_driven[i] * value[i]
                    to_value[i] = to_driven[i] * step[i]
