"""RWKV-7: one head of one sequence is an item of work, and its state, in `states`, stays in the core's own memory.

`states` go in as they were before the first position and come out as they are after the last; `marks` keeps them every SPAN
positions, from where the way back computes them again. `decay` is a factor.
"""

import numpy as np

from architectures.ops.kernels.compiler import kernel

SPAN = 32


@kernel
def forward(first, last, r, decay, k, v, c, a, y, states, marks):
    length, heads, width = r.shape[1], r.shape[2], r.shape[3]
    removed = np.empty(width, r.dtype)
    for item in range(first, last):
        n, head = item // heads, item % heads
        state = states[n, head]
        for t in range(length):
            if len(marks) and t % SPAN == 0:
                marks[n, head, t // SPAN] = state
            reader, keep, key, value = r[n, t, head], decay[n, t, head], k[n, t, head], v[n, t, head]
            remover, rate, out = c[n, t, head], a[n, t, head], y[n, t, head]
            removed[:] = 0
            out[:] = 0
            for i in range(width):
                row, finds = state[i], remover[i]
                for j in range(width):
                    removed[j] += finds * row[j]
            for i in range(width):
                row, reads, keeps, writes, erases = state[i], reader[i], keep[i], key[i], rate[i] * remover[i]
                for j in range(width):
                    row[j] = keeps * row[j] - erases * removed[j] + writes * value[j]
                    out[j] += reads * row[j]


@kernel
def backward(first, last, r, decay, k, v, c, a, marks, grad, to_states, to_r, to_log_decay, to_k, to_v, to_c, to_a):
    length, heads, width = r.shape[1], r.shape[2], r.shape[3]
    kept = np.empty((SPAN + 1, width, width), r.dtype)
    removals = np.empty((SPAN, width), r.dtype)
    to_removed = np.empty(width, r.dtype)
    for item in range(first, last):
        n, head = item // heads, item % heads
        d = to_states[n, head]
        for span in range((length + SPAN - 1) // SPAN - 1, -1, -1):
            start = span * SPAN
            count = min(SPAN, length - start)
            kept[0] = marks[n, head, span]
            for s in range(count):
                t = start + s
                keep, key, value, g = decay[n, t, head], k[n, t, head], v[n, t, head], grad[n, t, head]
                remover, rate, removed, reader_out = c[n, t, head], a[n, t, head], removals[s], to_r[n, t, head]
                removed[:] = 0
                for i in range(width):
                    row, finds = kept[s, i], remover[i]
                    for j in range(width):
                        removed[j] += finds * row[j]
                for i in range(width):
                    row, following, keeps, writes, erases = kept[s, i], kept[s + 1, i], keep[i], key[i], rate[i] * remover[i]
                    for j in range(width):
                        following[j] = keeps * row[j] - erases * removed[j] + writes * value[j]
                    read = g[0] * following[0]
                    for j in range(1, width):
                        read += g[j] * following[j]
                    reader_out[i] = read
            for s in range(count - 1, -1, -1):
                t = start + s
                reader, keep, key, value = r[n, t, head], decay[n, t, head], k[n, t, head], v[n, t, head]
                remover, rate, removed, g = c[n, t, head], a[n, t, head], removals[s], grad[n, t, head]
                fades, key_out, value_out = to_log_decay[n, t, head], to_k[n, t, head], to_v[n, t, head]
                remover_out, rate_out = to_c[n, t, head], to_a[n, t, head]
                value_out[:] = 0
                to_removed[:] = 0
                for i in range(width):
                    row, change, reads, writes, erases = kept[s, i], d[i], reader[i], key[i], rate[i] * remover[i]
                    for j in range(width):
                        change[j] += reads * g[j]
                        value_out[j] += writes * change[j]
                        to_removed[j] -= erases * change[j]
                    written = change[0] * value[0]
                    faded = change[0] * row[0]
                    erased = change[0] * removed[0]
                    for j in range(1, width):
                        written += change[j] * value[j]
                        faded += change[j] * row[j]
                        erased += change[j] * removed[j]
                    key_out[i] = written
                    fades[i] = keep[i] * faded
                    rate_out[i] = -erased * remover[i]
                    remover_out[i] = -erased * rate[i]
                for i in range(width):
                    row, change, keeps, finds = kept[s, i], d[i], keep[i], remover[i]
                    found = to_removed[0] * row[0]
                    for j in range(1, width):
                        found += to_removed[j] * row[j]
                    for j in range(width):
                        change[j] = keeps * change[j] + finds * to_removed[j]
                    remover_out[i] += found
