"""S[t] = diag(a[t]) S[t-1] + k[t]^T v[t], y[t] = q[t] S[t]; for the delta rule the values are beta[t] (v[t] - k[t] a[t] S[t-1]).

An item of work is a head of one sequence. The way there holds S as rows of values, so that y is a sum of rows; the way back as
rows of keys, so that the gradients of q, k and a are. `state` is that before the first position, and `after` becomes that after
the last; where there is no `after`, `state` does. `marks` keeps it every SPAN positions, from where the way back computes it
again, `COLUMNS` values at a time. Queries and keys may be of fewer heads than values; their gradients are of as many. A decay has
one number for each key, or one.

The last five are what is not a product of matrices where the first recurrence, of one decay, goes in chunks: arrays are as given,
(chunks, size, heads, ...), or (chunks * heads, ...); with fewer keys than heads, the values that share them lie side by side.
"""

import numpy as np

from architectures.ops.kernels.compiler import kernel

SPAN = 64
COLUMNS = 16
ROWS = 4
LEAST = 1e-30  # less than this is no decay left, before numbers get so small that they are slow


@kernel
def forward(first, last, q, k, v, a, y, state, after, marks):
    length, heads, values, keys = v.shape[1], v.shape[2], v.shape[3], k.shape[3]
    each = heads // k.shape[2]
    padded = (keys + ROWS - 1) // ROWS * ROWS
    longer = np.zeros((padded if padded > keys else 0, values), v.dtype)
    read, write, keep = np.zeros(padded, v.dtype), np.zeros(padded, v.dtype), np.zeros(padded, v.dtype)
    for item in range(first, last):
        n, h = item // heads, item % heads
        S = longer if padded > keys else after[n, h]
        for i in range(keys):
            S[i] = state[n, h, i]
        for t in range(length):
            if len(marks) and t % SPAN == 0:
                for i in range(keys):
                    for j in range(values):
                        marks[n, h, t // SPAN, j, i] = S[i, j]
            value, out = v[n, t, h], y[n, t, h]
            read[:keys], write[:keys] = q[n, t, h // each], k[n, t, h // each]
            if a.shape[3] == 1:
                keep[:keys] = a[n, t, h, 0]
            else:
                keep[:keys] = a[n, t, h]
            for j in range(values):
                out[j] = 0
            for i in range(0, padded, ROWS):
                s0, s1, s2, s3 = S[i], S[i + 1], S[i + 2], S[i + 3]
                a0, a1, a2, a3 = keep[i], keep[i + 1], keep[i + 2], keep[i + 3]
                k0, k1, k2, k3 = write[i], write[i + 1], write[i + 2], write[i + 3]
                q0, q1, q2, q3 = read[i], read[i + 1], read[i + 2], read[i + 3]
                for j in range(values):
                    s0[j] = a0 * s0[j] + k0 * value[j]
                    s1[j] = a1 * s1[j] + k1 * value[j]
                    s2[j] = a2 * s2[j] + k2 * value[j]
                    s3[j] = a3 * s3[j] + k3 * value[j]
                    out[j] += (q0 * s0[j] + q1 * s1[j]) + (q2 * s2[j] + q3 * s3[j])
        if padded > keys:
            after[n, h] = S[:keys]


@kernel
def backward(first, last, q, k, v, a, marks, grad, to_q, to_k, to_v, to_a, to_state):
    """`to_q` and `to_k` come in as zeros; `to_state` has keys as rows of the last axis."""
    length, heads, values, keys = v.shape[1], v.shape[2], v.shape[3], k.shape[3]
    each = heads // k.shape[2]
    S = np.empty((SPAN + 1, COLUMNS, keys), v.dtype)
    keep, to_keep = np.empty((SPAN, keys), v.dtype), np.empty((SPAN, keys), v.dtype)
    zero = v.dtype.type(0)
    for item in range(first, last):
        n, h = item // heads, item % heads
        for span in range((length + SPAN - 1) // SPAN - 1, -1, -1):
            start = span * SPAN
            count = min(SPAN, length - start)
            to_keep[:count] = 0
            for t in range(count):
                if a.shape[3] == 1:
                    keep[t] = a[n, start + t, h, 0]
                else:
                    keep[t] = a[n, start + t, h]
            for low in range(0, values, COLUMNS):
                columns = min(COLUMNS, values - low)
                for j in range(columns):
                    S[0, j] = marks[n, h, span, low + j]
                for t in range(count):
                    rate, key, to_query = keep[t], k[n, start + t, h // each], to_q[n, start + t, h]
                    for j in range(columns):
                        before, now = S[t, j], S[t + 1, j]
                        value, g = v[n, start + t, h, low + j], grad[n, start + t, h, low + j]
                        for i in range(keys):
                            now[i] = rate[i] * before[i] + key[i] * value
                            to_query[i] += g * now[i]
                for t in range(count - 1, -1, -1):
                    rate, to_rate = keep[t], to_keep[t]
                    query, key, to_key = q[n, start + t, h // each], k[n, start + t, h // each], to_k[n, start + t, h]
                    for j in range(columns):
                        d, before = to_state[n, h, low + j], S[t, j]
                        value, g, to_value = v[n, start + t, h, low + j], grad[n, start + t, h, low + j], zero
                        for i in range(keys):
                            total = d[i] + query[i] * g
                            to_key[i] += total * value
                            to_value += total * key[i]
                            to_rate[i] += total * before[i]
                            d[i] = rate[i] * total
                        to_v[n, start + t, h, low + j] = to_value
            for t in range(count):
                if a.shape[3] == 1:
                    total = zero
                    for i in range(keys):
                        total += to_keep[t, i]
                    to_a[n, start + t, h, 0] = total
                else:
                    to_a[n, start + t, h] = to_keep[t]


@kernel
def delta_forward(first, last, q, k, v, beta, a, y, errors, state, marks):
    """`errors` are what the state lacks of the values."""
    length, heads, values, keys = v.shape[1], v.shape[2], v.shape[3], k.shape[3]
    padded = (keys + ROWS - 1) // ROWS * ROWS
    S = np.zeros((padded, values), v.dtype)
    read, write = np.zeros(padded, v.dtype), np.zeros(padded, v.dtype)
    for item in range(first, last):
        n, h = item // heads, item % heads
        for i in range(keys):
            S[i] = state[n, h, i]
        for t in range(length):
            if len(marks) and t % SPAN == 0:
                for i in range(keys):
                    for j in range(values):
                        marks[n, h, t // SPAN, j, i] = S[i, j]
            value, out, error = v[n, t, h], y[n, t, h], errors[n, t, h]
            keep, rate = a[n, t, h], beta[n, t, h]
            read[:keys], write[:keys] = q[n, t, h], k[n, t, h]
            for j in range(values):
                out[j], error[j] = 0, value[j]
            for i in range(0, padded, ROWS):
                s0, s1, s2, s3 = S[i], S[i + 1], S[i + 2], S[i + 3]
                k0, k1, k2, k3 = keep * write[i], keep * write[i + 1], keep * write[i + 2], keep * write[i + 3]
                for j in range(values):
                    error[j] -= (k0 * s0[j] + k1 * s1[j]) + (k2 * s2[j] + k3 * s3[j])
            for i in range(0, padded, ROWS):
                s0, s1, s2, s3 = S[i], S[i + 1], S[i + 2], S[i + 3]
                k0, k1, k2, k3 = rate * write[i], rate * write[i + 1], rate * write[i + 2], rate * write[i + 3]
                q0, q1, q2, q3 = read[i], read[i + 1], read[i + 2], read[i + 3]
                for j in range(values):
                    s0[j] = keep * s0[j] + k0 * error[j]
                    s1[j] = keep * s1[j] + k1 * error[j]
                    s2[j] = keep * s2[j] + k2 * error[j]
                    s3[j] = keep * s3[j] + k3 * error[j]
                    out[j] += (q0 * s0[j] + q1 * s1[j]) + (q2 * s2[j] + q3 * s3[j])
        for i in range(keys):
            state[n, h, i] = S[i]


@kernel
def delta_backward(first, last, q, k, v, beta, a, errors, marks, grad, to_q, to_k, to_v, to_beta, to_a, to_state):
    """`to_q`, `to_k`, `to_beta` and `to_a` come in as zeros; `to_state` has keys as rows of the last axis."""
    length, heads, values, keys = v.shape[1], v.shape[2], v.shape[3], k.shape[3]
    S = np.empty((SPAN + 1, COLUMNS, keys), v.dtype)
    zero = v.dtype.type(0)
    for item in range(first, last):
        n, h = item // heads, item % heads
        for span in range((length + SPAN - 1) // SPAN - 1, -1, -1):
            start = span * SPAN
            count = min(SPAN, length - start)
            for low in range(0, values, COLUMNS):
                columns = min(COLUMNS, values - low)
                for j in range(columns):
                    S[0, j] = marks[n, h, span, low + j]
                for t in range(count):
                    key, to_query, keep, rate = (
                        k[n, start + t, h],
                        to_q[n, start + t, h],
                        a[n, start + t, h],
                        beta[n, start + t, h],
                    )
                    for j in range(columns):
                        before, now = S[t, j], S[t + 1, j]
                        written, g = rate * errors[n, start + t, h, low + j], grad[n, start + t, h, low + j]
                        for i in range(keys):
                            now[i] = keep * before[i] + key[i] * written
                            to_query[i] += g * now[i]
                for t in range(count - 1, -1, -1):
                    query, key, to_key = q[n, start + t, h], k[n, start + t, h], to_k[n, start + t, h]
                    keep, rate = a[n, start + t, h], beta[n, start + t, h]
                    to_keep, to_rate = zero, zero
                    for j in range(columns):
                        d, before = to_state[n, h, low + j], S[t, j]
                        error, g, along = errors[n, start + t, h, low + j], grad[n, start + t, h, low + j], zero
                        for i in range(keys):
                            d[i] += query[i] * g
                            along += d[i] * key[i]
                        to_rate += along * error
                        to_value, written = rate * along, rate * error
                        to_v[n, start + t, h, low + j] = to_value
                        decayed = keep * to_value
                        for i in range(keys):
                            to_key[i] += d[i] * written - before[i] * decayed
                            total = d[i] - key[i] * to_value
                            to_keep += total * before[i]
                            d[i] = keep * total
                    to_a[n, start + t, h] += to_keep
                    to_beta[n, start + t, h] += to_rate


@kernel
def masks(first, last, a, scores, weights, since, until):
    """An item is a head in a chunk: its scores decayed, and its decay up to each position and from it on."""
    size, heads = a.shape[1], a.shape[2]
    each = len(weights) // len(scores)
    decay = np.empty(size, a.dtype)
    one, zero, least = a.dtype.type(1), a.dtype.type(0), a.dtype.type(LEAST)
    for item in range(first, last):
        n, h = item // heads, item % heads
        so_far = one
        for i in range(size):
            rate, score, weight = a[n, i, h], scores[item // each, i], weights[item, i]
            for j in range(i):
                kept = rate * decay[j]
                decay[j] = kept if kept > least else zero
                weight[j] = score[j] * decay[j]
            decay[i], weight[i], weight[i + 1 :] = one, score[i], zero
            so_far *= rate
            so_far = so_far if so_far > least else zero
            since[n, i, h] = so_far
        for i in range(size):
            until[n, i, h] = decay[i]


@kernel
def carry(first, last, since, added, state):
    """An item is a head of one sequence: `added` to the state in each chunk becomes the state before it."""
    heads, keys, values = state.shape[1:]
    each, chunks = added.shape[2] // values, len(since) // len(state)
    size = since.shape[1]
    for item in range(first, last):
        b, h = item // heads, item % heads
        for n in range(b * chunks, (b + 1) * chunks):
            group, low, whole = (n * heads + h) // each, h % each * values, since[n, size - 1, h]
            for i in range(keys):
                now, new = state[b, h, i], added[group, i, low : low + values]
                for j in range(values):
                    before = now[j]
                    now[j] = whole * before + new[j]
                    new[j] = before


@kernel
def carry_back(first, last, since, before, added, state, across):
    """The same for the gradients, from the last chunk to the first; `across` is that of a chunk's whole decay, times it."""
    heads, keys, values = state.shape[1:]
    each, chunks = added.shape[2] // values, len(since) // len(state)
    size = since.shape[1]
    for item in range(first, last):
        b, h = item // heads, item % heads
        for n in range((b + 1) * chunks - 1, b * chunks - 1, -1):
            group, low, whole = (n * heads + h) // each, h % each * values, since[n, size - 1, h]
            total = since.dtype.type(0)
            for i in range(keys):
                now, new, met = state[b, h, i], added[group, i, low : low + values], before[group, i, low : low + values]
                for j in range(values):
                    after = now[j]
                    total += after * met[j]
                    now[j] = whole * after + new[j]
                    new[j] = after
            across[n, h] = whole * total


@kernel
def meet(first, last, x, rate, other, dot):
    """An item is a position of all heads: `dot` is its rate times `x` times `other`, which then becomes the rate times `x`."""
    size, heads, values = x.shape[1:]
    each = other.shape[2] // values
    for item in range(first, last):
        n, t = item // size, item % size
        for h in range(heads):
            low, by, total = h % each * values, rate[n, t, h], x.dtype.type(0)
            one, two = x[n, t, h], other[(n * heads + h) // each, t, low : low + values]
            for j in range(values):
                total += one[j] * two[j]
                two[j] = by * one[j]
            dot[n, t, h] = by * total


@kernel
def pairs(first, last, a, to_weights, weights, to_since, to_until, across, to_scores, to_log):
    """An item is a chunk of heads that share keys. A log decay is met by what goes from before it to its position or later."""
    size, heads = a.shape[1], a.shape[2]
    each = len(weights) // len(to_scores)
    groups = heads // each
    decay, met = np.empty(size, a.dtype), np.empty(size, a.dtype)
    one, zero, least = a.dtype.type(1), a.dtype.type(0), a.dtype.type(LEAST)
    for item in range(first, last):
        n, g = item // groups, item % groups
        to_scores[item] = 0
        for h in range(g * each, (g + 1) * each):
            early = across[n, h]
            for i in range(size):
                rate, to_weight, to_score = a[n, i, h], to_weights[n * heads + h, i], to_scores[item, i]
                for j in range(i):
                    kept = rate * decay[j]
                    decay[j] = kept if kept > least else zero
                    to_score[j] += to_weight[j] * decay[j]
                decay[i], met[i] = one, zero
                to_score[i] += to_weight[i]
                to_log[n, i, h] = early
                early += to_until[n, i, h]
            late = zero
            for i in range(size - 1, -1, -1):
                to_weight, weight, total = to_weights[n * heads + h, i], weights[n * heads + h, i], zero
                for j in range(i):
                    met[j] += to_weight[j] * weight[j]
                    total += met[j]
                late += to_since[n, i, h]
                to_log[n, i, h] += late + total
