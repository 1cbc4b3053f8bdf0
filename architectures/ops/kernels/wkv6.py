"""RWKV-5 and 6: one head of one sequence is an item of work, and its state, in `states`, stays in the core's own memory.

`states` go in as they were before the first position and come out as they are after the last; `marks` keeps them every SPAN
positions, from where the way back computes them again. `decay` is a factor, of length 1 and batch 1 where it is constant.
"""

import numpy as np

from architectures.ops.kernels.compiler import kernel

SPAN = 32


@kernel
def forward(first, last, r, k, v, decay, bonus, y, states, marks):
    length, heads, width = r.shape[1], r.shape[2], r.shape[3]
    for item in range(first, last):
        n, head = item // heads, item % heads
        state, bonuses = states[n, head], bonus[head]
        for t in range(length):
            if len(marks) and t % SPAN == 0:
                marks[n, head, t // SPAN] = state
            keep = decay[min(n, decay.shape[0] - 1), min(t, decay.shape[1] - 1), head]
            reader, key, value, out = r[n, t, head], k[n, t, head], v[n, t, head], y[n, t, head]
            own = bonuses[0] * reader[0] * key[0]
            for i in range(1, width):
                own += bonuses[i] * reader[i] * key[i]
            for j in range(width):
                out[j] = own * value[j]
            for i in range(width):
                row, reads, writes, keeps = state[i], reader[i], key[i], keep[i]
                for j in range(width):
                    out[j] += reads * row[j]
                    row[j] = keeps * row[j] + writes * value[j]


@kernel
def backward(first, last, r, k, v, decay, bonus, marks, grad, to_states, to_r, to_k, to_v, to_log_decay, to_bonus):
    length, heads, width = r.shape[1], r.shape[2], r.shape[3]
    kept = np.empty((SPAN, width, width), r.dtype)
    for item in range(first, last):
        n, head = item // heads, item % heads
        d, bonuses, sums = to_states[n, head], bonus[head], to_bonus[n, head]
        for span in range((length + SPAN - 1) // SPAN - 1, -1, -1):
            start = span * SPAN
            count = min(SPAN, length - start)
            kept[0] = marks[n, head, span]
            for s in range(count - 1):
                t = start + s
                keep = decay[min(n, decay.shape[0] - 1), min(t, decay.shape[1] - 1), head]
                key, value = k[n, t, head], v[n, t, head]
                for i in range(width):
                    row, following, writes, keeps = kept[s, i], kept[s + 1, i], key[i], keep[i]
                    for j in range(width):
                        following[j] = keeps * row[j] + writes * value[j]
            for s in range(count - 1, -1, -1):
                t = start + s
                keep = decay[min(n, decay.shape[0] - 1), min(t, decay.shape[1] - 1), head]
                fades = to_log_decay[n, min(t, decay.shape[1] - 1), head]
                reader, key, value, g = r[n, t, head], k[n, t, head], v[n, t, head], grad[n, t, head]
                reader_out, key_out, value_out = to_r[n, t, head], to_k[n, t, head], to_v[n, t, head]
                along = g[0] * value[0]
                own = bonuses[0] * reader[0] * key[0]
                for i in range(1, width):
                    along += g[i] * value[i]
                    own += bonuses[i] * reader[i] * key[i]
                for j in range(width):
                    value_out[j] = own * g[j]
                for i in range(width):
                    row, change, reads, writes, keeps = kept[s, i], d[i], reader[i], key[i], keep[i]
                    read = g[0] * row[0]
                    written = change[0] * value[0]
                    faded = change[0] * row[0]
                    for j in range(1, width):
                        read += g[j] * row[j]
                        written += change[j] * value[j]
                        faded += change[j] * row[j]
                    for j in range(width):
                        value_out[j] += writes * change[j]
                        change[j] = keeps * change[j] + reads * g[j]
                    reader_out[i] = read + bonuses[i] * writes * along
                    key_out[i] = written + bonuses[i] * reads * along
                    sums[i] += reads * writes * along
                    fades[i] += keeps * faded
