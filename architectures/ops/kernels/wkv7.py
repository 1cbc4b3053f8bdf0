"""RWKV-7: one head of one sequence is an item of work, and its state, in `states`, stays in the core's own memory.

`states` go in as they were before the first position and come out as they are after the last; `marks` keeps them every SPAN
positions, from where the way back computes them again, and `removals` what was removed at each position. `decay` is a factor.

The way back holds states as rows of keys, so that most gradients are sums of rows: `ROWS` values at a time, in blocks of `PITCH`
keys. The rows of one array lie at distances that are known when it is compiled, as testing rows for overlap would cost more than
the loop over them.
"""

import numpy as np

from architectures.ops.kernels.compiler import kernel

SPAN = 32
PITCH = 64
ROWS = 4


@kernel
def forward(first, last, r, decay, k, v, c, a, y, removals, states, marks):
    length, heads, width = r.shape[1], r.shape[2], r.shape[3]
    forgotten = np.empty(width, r.dtype)
    for item in range(first, last):
        n, head = item // heads, item % heads
        state = states[n, head]
        for t in range(length):
            if len(marks) and t % SPAN == 0:
                marks[n, head, t // SPAN] = state
            reader, keep, key, value = r[n, t, head], decay[n, t, head], k[n, t, head], v[n, t, head]
            remover, rate, out = c[n, t, head], a[n, t, head], y[n, t, head]
            removed = removals[n, t, head] if len(removals) else forgotten
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
def backward(first, last, r, decay, k, v, c, a, removals, marks, grad, to_states, to_r, to_log_decay, to_k, to_v, to_c, to_a):
    length, heads, width = r.shape[1], r.shape[2], r.shape[3]
    zero = r.dtype.type(0)
    blocks, tiles = (width + PITCH - 1) // PITCH, (width + ROWS - 1) // ROWS
    kept = np.zeros((SPAN, blocks, tiles, ROWS, PITCH), r.dtype)
    state, change = np.zeros((blocks, tiles, ROWS, PITCH), r.dtype), np.zeros((blocks, tiles, ROWS, PITCH), r.dtype)
    given = np.zeros((blocks, 10, PITCH), r.dtype)
    columns = np.zeros((5, tiles * ROWS), r.dtype)
    values, gs, losses, to_values, to_losses = columns[0], columns[1], columns[2], columns[3], columns[4]
    for item in range(first, last):
        n, head = item // heads, item % heads
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
                value_in, g_in, loss_in = v[n, t, head], grad[n, t, head], removals[n, t, head]
                for j in range(width):
                    values[j], gs[j], losses[j] = value_in[j], g_in[j], loss_in[j]
                for b in range(blocks):
                    rows, low, size = given[b], b * PITCH, min(PITCH, width - b * PITCH)
                    part = slice(low, low + size)
                    keep, key, erases, to_reader = rows[0], rows[1], rows[2], rows[3]
                    decay_in, key_in = decay[n, t, head, part], k[n, t, head, part]
                    rate_in, remover_in, reader_out = a[n, t, head, part], c[n, t, head, part], to_r[n, t, head, part]
                    for i in range(size):
                        keep[i], key[i], erases[i], to_reader[i] = decay_in[i], key_in[i], rate_in[i] * remover_in[i], zero
                    for tile in range(tiles):
                        now, before, first_column = state[b, tile], kept[s, b, tile], tile * ROWS
                        value, g, loss = values[first_column:], gs[first_column:], losses[first_column:]
                        s0, s1, s2, s3 = before[0], before[1], before[2], before[3]
                        n0, n1, n2, n3 = now[0], now[1], now[2], now[3]
                        v0, v1, v2, v3 = value[0], value[1], value[2], value[3]
                        g0, g1, g2, g3 = g[0], g[1], g[2], g[3]
                        l0, l1, l2, l3 = loss[0], loss[1], loss[2], loss[3]
                        for i in range(size):
                            s0[i] = n0[i]
                            n0[i] = keep[i] * n0[i] - erases[i] * l0 + key[i] * v0
                            s1[i] = n1[i]
                            n1[i] = keep[i] * n1[i] - erases[i] * l1 + key[i] * v1
                            s2[i] = n2[i]
                            n2[i] = keep[i] * n2[i] - erases[i] * l2 + key[i] * v2
                            s3[i] = n3[i]
                            n3[i] = keep[i] * n3[i] - erases[i] * l3 + key[i] * v3
                            to_reader[i] += (g0 * n0[i] + g1 * n1[i]) + (g2 * n2[i] + g3 * n3[i])
                    for i in range(size):
                        reader_out[i] = to_reader[i]
            for s in range(count - 1, -1, -1):
                t = start + s
                value_in, g_in, loss_in = v[n, t, head], grad[n, t, head], removals[n, t, head]
                for j in range(width):
                    values[j], gs[j], losses[j] = value_in[j], g_in[j], loss_in[j]
                    to_values[j], to_losses[j] = zero, zero
                for b in range(blocks):
                    rows, low, size = given[b], b * PITCH, min(PITCH, width - b * PITCH)
                    part = slice(low, low + size)
                    key, erases, reader = rows[1], rows[2], rows[3]
                    to_key, to_keep, to_erases = rows[6], rows[7], rows[8]
                    reader_in, key_in, rate_in, remover_in = (
                        r[n, t, head, part],
                        k[n, t, head, part],
                        a[n, t, head, part],
                        c[n, t, head, part],
                    )
                    for i in range(size):
                        reader[i], key[i], erases[i] = reader_in[i], key_in[i], rate_in[i] * remover_in[i]
                        to_key[i], to_keep[i], to_erases[i] = zero, zero, zero
                    for tile in range(tiles):
                        before, d, first_column = kept[s, b, tile], change[b, tile], tile * ROWS
                        value, g, loss = values[first_column:], gs[first_column:], losses[first_column:]
                        s0, s1, s2, s3 = before[0], before[1], before[2], before[3]
                        d0, d1, d2, d3 = d[0], d[1], d[2], d[3]
                        v0, v1, v2, v3 = value[0], value[1], value[2], value[3]
                        g0, g1, g2, g3 = g[0], g[1], g[2], g[3]
                        l0, l1, l2, l3 = loss[0], loss[1], loss[2], loss[3]
                        w0, w1, w2, w3 = zero, zero, zero, zero
                        m0, m1, m2, m3 = zero, zero, zero, zero
                        for i in range(size):
                            x0, x1 = d0[i] + reader[i] * g0, d1[i] + reader[i] * g1
                            x2, x3 = d2[i] + reader[i] * g2, d3[i] + reader[i] * g3
                            d0[i], d1[i], d2[i], d3[i] = x0, x1, x2, x3
                            to_key[i] += (x0 * v0 + x1 * v1) + (x2 * v2 + x3 * v3)
                            to_keep[i] += (x0 * s0[i] + x1 * s1[i]) + (x2 * s2[i] + x3 * s3[i])
                            to_erases[i] -= (x0 * l0 + x1 * l1) + (x2 * l2 + x3 * l3)
                            w0 += x0 * key[i]
                            w1 += x1 * key[i]
                            w2 += x2 * key[i]
                            w3 += x3 * key[i]
                            m0 -= x0 * erases[i]
                            m1 -= x1 * erases[i]
                            m2 -= x2 * erases[i]
                            m3 -= x3 * erases[i]
                        out, lost = to_values[first_column:], to_losses[first_column:]
                        out[0] += w0
                        out[1] += w1
                        out[2] += w2
                        out[3] += w3
                        lost[0] += m0
                        lost[1] += m1
                        lost[2] += m2
                        lost[3] += m3
                value_out = to_v[n, t, head]
                for j in range(width):
                    value_out[j] = to_values[j]
                for b in range(blocks):
                    rows, low, size = given[b], b * PITCH, min(PITCH, width - b * PITCH)
                    part = slice(low, low + size)
                    keep, remover, to_remover = rows[0], rows[4], rows[5]
                    decay_in, remover_in = decay[n, t, head, part], c[n, t, head, part]
                    for i in range(size):
                        keep[i], remover[i], to_remover[i] = decay_in[i], remover_in[i], zero
                    for tile in range(tiles):
                        before, d, lost = kept[s, b, tile], change[b, tile], to_losses[tile * ROWS :]
                        s0, s1, s2, s3 = before[0], before[1], before[2], before[3]
                        d0, d1, d2, d3 = d[0], d[1], d[2], d[3]
                        m0, m1, m2, m3 = lost[0], lost[1], lost[2], lost[3]
                        for i in range(size):
                            to_remover[i] += (m0 * s0[i] + m1 * s1[i]) + (m2 * s2[i] + m3 * s3[i])
                            d0[i] = keep[i] * d0[i] + remover[i] * m0
                            d1[i] = keep[i] * d1[i] + remover[i] * m1
                            d2[i] = keep[i] * d2[i] + remover[i] * m2
                            d3[i] = keep[i] * d3[i] + remover[i] * m3
                    rates, to_key, to_keep, to_erases = a[n, t, head, part], rows[6], rows[7], rows[8]
                    key_out, decay_out = to_k[n, t, head, part], to_log_decay[n, t, head, part]
                    c_out, a_out = to_c[n, t, head, part], to_a[n, t, head, part]
                    for i in range(size):
                        key_out[i], decay_out[i] = to_key[i], keep[i] * to_keep[i]
                        c_out[i], a_out[i] = to_remover[i] + to_erases[i] * rates[i], to_erases[i] * remover[i]
        for i in range(width):
            row = to_states[n, head, i]
            for j in range(width):
                row[j] = change[i // PITCH, j // ROWS, j % ROWS, i % PITCH]
