"""Softmax attention: no score leaves the core's own memory (Rabe and Staats, arXiv:2112.05682, section 2; Dao et al.,
arXiv:2205.14135, section 3.1).

An item of work is a head of a sequence, or every so many-th block of one. Scores of `BLOCK` keys at a time may raise the largest
one so far, by which all that was added up before then shrinks. The way back makes scores again, from the logarithms of their
denominators.
"""

import numpy as np

from architectures.ops.kernels.compiler import exp, kernel
from architectures.ops.kernels.tiles import product

BLOCK = 64  # keys, and queries, of a tile of scores

scores_of, add, add_turned = product(fresh=True), product(), product(turned=True)


@kernel
def one_query(first, last, heads, total, scale, k_sequence, k_head, v_sequence, v_head, q, k, v, y):
    """It sees all keys. q and y are (items, 1, width); k and v are flat, their rows one after the other, their sequences and
    heads as far apart as the steps say.
    """
    width, values, kind = q.shape[2], y.shape[2], q.dtype.type
    scale, scores = kind(scale), np.empty(BLOCK, q.dtype)
    for item in range(first, last):
        to_k = item // heads * k_sequence + item % heads * k_head
        to_v = item // heads * v_sequence + item % heads * v_head
        query, out = q[item, 0], y[item, 0]
        out[:] = 0
        most, whole = -np.finfo(q.dtype).max, kind(0)
        for start in range(0, total, BLOCK):
            count, high = min(BLOCK, total - start), most
            for j in range(count):
                key, score = k[to_k + (start + j) * width : to_k + (start + j + 1) * width], kind(0)
                for i in range(width):
                    score += query[i] * key[i]
                scores[j] = scale * score
            for j in range(count):
                high = max(high, scores[j])
            shrunk, most = exp(most - high), high
            whole *= shrunk
            for i in range(values):
                out[i] *= shrunk
            for j in range(count):
                scores[j] = exp(scores[j] - most)
                whole += scores[j]
            for j in range(count):
                weight, value = scores[j], v[to_v + (start + j) * values : to_v + (start + j + 1) * values]
                for i in range(values):
                    out[i] += weight * value[i]
        for i in range(values):
            out[i] /= whole


@kernel
def forward(first, last, parts, causal, scale, q, k, v, seen, y, logs):
    """q is (heads, new, width), k and v (heads, total, width); the queries are those of the last keys where it is causal.
    `seen`, (new, total), has a row or none. `logs` become the logarithms of the denominators. An item has every `parts`-th block
    of queries.
    """
    (new, width), (total, values), kind = q.shape[1:], v.shape[1:], q.dtype.type
    past, blocks, scale = total - new, -(-total // BLOCK), kind(scale)
    keys, read = np.zeros((blocks, width, BLOCK), q.dtype), np.zeros((blocks, BLOCK, values), q.dtype)
    rows, scores, sums = np.zeros((BLOCK, width), q.dtype), np.empty((BLOCK, BLOCK), q.dtype), np.empty((BLOCK, values), q.dtype)
    most, whole, lanes = np.empty(BLOCK, q.dtype), np.empty(BLOCK, q.dtype), np.empty(BLOCK // 2, q.dtype)
    for each in range(first, last):
        item, part = each // parts, each % parts
        for j in range(total):
            key, value, block, row = k[item, j], v[item, j], j // BLOCK, j % BLOCK
            for i in range(width):
                keys[block, i, row] = key[i]
            for i in range(values):
                read[block, row, i] = value[i]
        for start in range(part * BLOCK, new, parts * BLOCK):
            count = min(BLOCK, new - start)
            for i in range(count):
                query, scaled = q[item, start + i], rows[i]
                for m in range(width):
                    scaled[m] = scale * query[m]
            sums[:], most[:], whole[:] = 0, -np.finfo(q.dtype).max, 0
            for block in range(-(-(past + start + count if causal else total) // BLOCK)):
                scores_of(scores, rows, keys[block])
                for i in range(count):
                    score, out, high = scores[i], sums[i], most[i]
                    reach = (min(past + start + i + 1, total) if causal else total) - block * BLOCK
                    for j in range(max(reach, 0), BLOCK):
                        score[j] = -np.inf
                    if len(seen):
                        visible = seen[start + i, block * BLOCK : block * BLOCK + BLOCK]
                        for j in range(len(visible)):
                            score[j] = score[j] if visible[j] else -np.inf
                    for j in range(BLOCK // 2):
                        lanes[j] = score[j] if score[j] > score[j + BLOCK // 2] else score[j + BLOCK // 2]
                    for j in range(BLOCK // 4):
                        lanes[j] = lanes[j] if lanes[j] > lanes[j + BLOCK // 4] else lanes[j + BLOCK // 4]
                    for j in range(BLOCK // 8):
                        lanes[j] = lanes[j] if lanes[j] > lanes[j + BLOCK // 8] else lanes[j + BLOCK // 8]
                    for j in range(BLOCK // 8):
                        high = max(high, lanes[j])
                    shrunk, most[i], total_now = exp(most[i] - high), high, kind(0)
                    for j in range(BLOCK):
                        score[j] = exp(score[j] - high)
                        total_now += score[j]
                    whole[i] = whole[i] * shrunk + total_now
                    for m in range(values):
                        out[m] *= shrunk
                add(sums, scores, read[block])
            for i in range(count):
                out, sum_row, per = y[item, start + i], sums[i], kind(1) / whole[i]
                logs[item, start + i] = most[i] + np.log(whole[i])
                for m in range(values):
                    out[m] = sum_row[m] * per


@kernel
def backward(first, last, parts, causal, scale, q, k, v, seen, y, logs, grad, to_q, to_k, to_v):
    """y and logs may be of more keys than these. An item has every `parts`-th block of keys, and its own part of `to_q`, (heads,
    parts, new, width).
    """
    (new, width), (total, values), kind = q.shape[1:], v.shape[1:], q.dtype.type
    past, many, scale = total - new, -(-new // BLOCK), kind(scale)
    queries, grads = np.zeros((many, BLOCK, width), q.dtype), np.zeros((many, BLOCK, values), q.dtype)
    shifts, along = np.zeros((many, BLOCK), q.dtype), np.zeros((many, BLOCK), q.dtype)
    keys, turned, read = np.zeros((BLOCK, width), q.dtype), np.zeros((width, BLOCK), q.dtype), np.zeros((values, BLOCK), q.dtype)
    scores, changes = np.empty((BLOCK, BLOCK), q.dtype), np.empty((BLOCK, BLOCK), q.dtype)
    sums = np.empty((many, BLOCK, width), q.dtype)
    to_keys, to_values = np.empty((BLOCK, width), q.dtype), np.empty((BLOCK, values), q.dtype)
    for each in range(first, last):
        item, part = each // parts, each % parts
        for row in range(new):
            a, i, g, out, query = row // BLOCK, row % BLOCK, grad[item, row], y[item, row], q[item, row]
            for m in range(width):
                queries[a, i, m] = scale * query[m]
            inner = kind(0)
            for m in range(values):
                grads[a, i, m] = g[m]
                inner += g[m] * out[m]
            shifts[a, i], along[a, i] = logs[item, row], inner
        sums[:] = 0
        for start in range(part * BLOCK, total, parts * BLOCK):
            count = min(BLOCK, total - start)
            for j in range(count):
                key, value = k[item, start + j], v[item, start + j]
                for m in range(width):
                    keys[j, m], turned[m, j] = key[m], key[m]
                for m in range(values):
                    read[m, j] = value[m]
            to_keys[:], to_values[:] = 0, 0
            for a in range(max(0, start - past) // BLOCK if causal else 0, many):
                scores_of(scores, queries[a], turned)
                scores_of(changes, grads[a], read)
                for i in range(BLOCK):
                    score, change, shift, less = scores[i], changes[i], shifts[a, i], along[a, i]
                    reach = max(0, min((past + a * BLOCK + i + 1 if causal else total) - start, count))
                    for j in range(reach, BLOCK):
                        score[j] = -np.inf
                    if len(seen) and a * BLOCK + i < new:
                        visible = seen[a * BLOCK + i, start : start + count]
                        for j in range(count):
                            score[j] = score[j] if visible[j] else -np.inf
                    for j in range(BLOCK):
                        score[j] = exp(score[j] - shift)
                        change[j] = score[j] * (change[j] - less)
                add_turned(to_values, scores, grads[a])
                add_turned(to_keys, changes, queries[a])
                add(sums[a], changes, keys)
            for j in range(count):
                key, value = to_k[item, start + j], to_v[item, start + j]
                for m in range(width):
                    key[m] = to_keys[j, m]
                for m in range(values):
                    value[m] = to_values[j, m]
        for row in range(new):
            query, total_row = to_q[item, part, row], sums[row // BLOCK, row % BLOCK]
            for m in range(width):
                query[m] = scale * total_row[m]
