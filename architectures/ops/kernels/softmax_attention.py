"""Softmax attention of one query, which sees all keys: keys and values are read once, and no score is kept; no way back.

An item of work is a head of a sequence. q and y are (items, 1, width); k and v are flat, their rows one after the other, their
sequences and heads as far apart as the steps say. `BLOCK` scores at a time may raise the largest one so far, by which all that
was added up before then shrinks (Rabe and Staats, arXiv:2112.05682, section 2).
"""

import numpy as np

from architectures.ops.kernels.compiler import exp, kernel

BLOCK = 64


@kernel
def forward(first, last, heads, total, scale, k_sequence, k_head, v_sequence, v_head, q, k, v, y):
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
