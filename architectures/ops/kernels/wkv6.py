"""RWKV-5 and 6: one head of one sequence is an item of work, and its state, in `states`, stays in the core's own memory.

`states` go in as they were before the first position and come out as they are after the last; `marks` keeps them every SPAN
positions, from where the way back computes them again. `decay` is a factor, of length 1 and batch 1 where it is constant.

The way back holds states as rows of keys, `ROWS` values at a time, in blocks of `PITCH` keys, as wkv7.py does.
"""

import numpy as np

from architectures.ops.kernels.compiler import kernel

SPAN = 32
PITCH = 64
ROWS = 4


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
    zero = r.dtype.type(0)
    blocks, tiles = (width + PITCH - 1) // PITCH, (width + ROWS - 1) // ROWS
    kept = np.zeros((SPAN, blocks, tiles, ROWS, PITCH), r.dtype)
    state, change = np.zeros((blocks, tiles, ROWS, PITCH), r.dtype), np.zeros((blocks, tiles, ROWS, PITCH), r.dtype)
    given = np.zeros((blocks, 5, PITCH), r.dtype)
    columns = np.zeros((3, tiles * ROWS), r.dtype)
    values, gs, to_values = columns[0], columns[1], columns[2]
    for item in range(first, last):
        n, head = item // heads, item % heads
        bonuses, to_bonuses = bonus[head], to_bonus[n, head]
        for i in range(width):
            row = to_states[n, head, i]
            for j in range(width):
                change[i // PITCH, j // ROWS, j % ROWS, i % PITCH] = row[j]
        for span in range((length + SPAN - 1) // SPAN - 1, -1, -1):
            start = span * SPAN
            count = min(SPAN, length - start)
            for i in range(width):
                mark = marks[n, head, span, i]
                for j in range(width):
                    state[i // PITCH, j // ROWS, j % ROWS, i % PITCH] = mark[j]
            for s in range(count):
                t = start + s
                value_in, g_in = v[n, t, head], grad[n, t, head]
                for j in range(width):
                    values[j], gs[j] = value_in[j], g_in[j]
                for b in range(blocks):
                    rows, low, size = given[b], b * PITCH, min(PITCH, width - b * PITCH)
                    part = slice(low, low + size)
                    keep, key, to_reader = rows[0], rows[1], rows[2]
                    keep_in = decay[min(n, decay.shape[0] - 1), min(t, decay.shape[1] - 1), head, part]
                    key_in, reader_out = k[n, t, head, part], to_r[n, t, head, part]
                    for i in range(size):
                        keep[i], key[i], to_reader[i] = keep_in[i], key_in[i], zero
                    for tile in range(tiles):
                        now, before, column = state[b, tile], kept[s, b, tile], tile * ROWS
                        value, g = values[column:], gs[column:]
                        n0, n1, n2, n3 = now[0], now[1], now[2], now[3]
                        s0, s1, s2, s3 = before[0], before[1], before[2], before[3]
                        v0, v1, v2, v3 = value[0], value[1], value[2], value[3]
                        g0, g1, g2, g3 = g[0], g[1], g[2], g[3]
                        for i in range(size):
                            x0, x1, x2, x3 = n0[i], n1[i], n2[i], n3[i]
                            s0[i], s1[i], s2[i], s3[i] = x0, x1, x2, x3
                            to_reader[i] += (g0 * x0 + g1 * x1) + (g2 * x2 + g3 * x3)
                            n0[i] = keep[i] * x0 + key[i] * v0
                            n1[i] = keep[i] * x1 + key[i] * v1
                            n2[i] = keep[i] * x2 + key[i] * v2
                            n3[i] = keep[i] * x3 + key[i] * v3
                    for i in range(size):
                        reader_out[i] = to_reader[i]
            for s in range(count - 1, -1, -1):
                t = start + s
                value_in, g_in, value_out = v[n, t, head], grad[n, t, head], to_v[n, t, head]
                reader_in, key_in, along, own = r[n, t, head], k[n, t, head], zero, zero
                for j in range(width):
                    values[j], gs[j] = value_in[j], g_in[j]
                    along += g_in[j] * value_in[j]
                    own += bonuses[j] * reader_in[j] * key_in[j]
                for j in range(width):
                    to_values[j] = own * gs[j]
                for b in range(blocks):
                    rows, low, size = given[b], b * PITCH, min(PITCH, width - b * PITCH)
                    part = slice(low, low + size)
                    keep, key, reader, to_key, to_keep = rows[0], rows[1], rows[2], rows[3], rows[4]
                    keep_in = decay[min(n, decay.shape[0] - 1), min(t, decay.shape[1] - 1), head, part]
                    reader_in, key_in = r[n, t, head, part], k[n, t, head, part]
                    for i in range(size):
                        keep[i], key[i], reader[i] = keep_in[i], key_in[i], reader_in[i]
                        to_key[i], to_keep[i] = zero, zero
                    for tile in range(tiles):
                        before, d, column = kept[s, b, tile], change[b, tile], tile * ROWS
                        value, g, out = values[column:], gs[column:], to_values[column:]
                        s0, s1, s2, s3 = before[0], before[1], before[2], before[3]
                        d0, d1, d2, d3 = d[0], d[1], d[2], d[3]
                        v0, v1, v2, v3 = value[0], value[1], value[2], value[3]
                        g0, g1, g2, g3 = g[0], g[1], g[2], g[3]
                        w0, w1, w2, w3 = zero, zero, zero, zero
                        for i in range(size):
                            x0, x1, x2, x3 = d0[i], d1[i], d2[i], d3[i]
                            to_key[i] += (x0 * v0 + x1 * v1) + (x2 * v2 + x3 * v3)
                            to_keep[i] += (x0 * s0[i] + x1 * s1[i]) + (x2 * s2[i] + x3 * s3[i])
                            w0 += x0 * key[i]
                            w1 += x1 * key[i]
                            w2 += x2 * key[i]
                            w3 += x3 * key[i]
                            d0[i] = keep[i] * x0 + reader[i] * g0
                            d1[i] = keep[i] * x1 + reader[i] * g1
                            d2[i] = keep[i] * x2 + reader[i] * g2
                            d3[i] = keep[i] * x3 + reader[i] * g3
                        out[0] += w0
                        out[1] += w1
                        out[2] += w2
                        out[3] += w3
                    extra, to_extra = bonuses[part], to_bonuses[part]
                    reader_out, key_out = to_r[n, t, head, part], to_k[n, t, head, part]
                    fades = to_log_decay[n, min(t, decay.shape[1] - 1), head, part]
                    for i in range(size):
                        reader_out[i] += extra[i] * key[i] * along
                        key_out[i] = to_key[i] + extra[i] * reader[i] * along
                        to_extra[i] += reader[i] * key[i] * along
                        fades[i] += keep[i] * to_keep[i]
                for j in range(width):
                    value_out[j] = to_values[j]
        for i in range(width):
            row = to_states[n, head, i]
            for j in range(width):
                row[j] = change[i // PITCH, j // ROWS, j % ROWS, i % PITCH]
