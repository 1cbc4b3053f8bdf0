"""Additive attention of each position to all earlier ones: a row of scores at a time, made again on the way back.

tanh(q + k) = 1 - 2 s, s = 1 / (1 + exp(2 q) exp(2 k)), and what is the same for all keys is nothing to a softmax, so scores are
sums of u s. a and b are the exponentials of 2 q and 2 k where it is `multiplied`, else 2 q and 2 k; u is -2 times the weights. An
item of work is every `parts`-th position of a sequence.
"""

import numpy as np

from architectures.ops.kernels.compiler import exact, exp, kernel


@exact
def _logistic(multiplied, a, b, s):
    one = s.dtype.type(1)
    if multiplied:
        for i in range(len(s)):
            s[i] = one / (one + a[i] * b[i])
    else:
        for i in range(len(s)):
            s[i] = one / (one + exp(a[i] + b[i]))


@kernel
def forward(first, last, parts, multiplied, a, b, u, v, y, logs):
    """y comes in as zeros; `logs` become the logarithms of the denominators."""
    (new, width), (total, values), kind = a.shape[1:], v.shape[1:], a.dtype.type
    s, scores = np.empty(width, a.dtype), np.empty(total, a.dtype)
    for each in range(first, last):
        item = each // parts
        for t in range(each % parts, new, parts):
            seen, out, most = total - new + t, y[item, t], -np.finfo(a.dtype).max
            for j in range(seen):
                _logistic(multiplied, a[item, t], b[item, j], s)
                score = kind(0)
                for i in range(width):
                    score += u[i] * s[i]
                scores[j] = score
                most = max(most, score)
            whole = kind(0)
            for j in range(seen):
                scores[j] = exp(scores[j] - most)
                whole += scores[j]
            for j in range(seen):
                weight, value = scores[j] / whole, v[item, j]
                for i in range(values):
                    out[i] += weight * value[i]
            logs[item, t] = most + np.log(whole)


@kernel
def backward(first, last, parts, multiplied, a, b, u, v, y, logs, grad, to_a, to_b, to_u, to_v):
    """Gradients come in as zeros; all but `to_a` are a part's own. They lack what all pairs share: -2 u in those of q and k."""
    (new, width), (total, values), kind = a.shape[1:], v.shape[1:], a.dtype.type
    s, one = np.empty(width, a.dtype), kind(1)
    for each in range(first, last):
        item, own = each // parts, to_u[each]
        for t in range(each % parts, new, parts):
            g, out, to_query, inner = grad[item, t], y[item, t], to_a[item, t], kind(0)
            for i in range(values):
                inner += g[i] * out[i]
            for j in range(total - new + t):
                _logistic(multiplied, a[item, t], b[item, j], s)
                value, to_value, to_key = v[item, j], to_v[each, j], to_b[each, j]
                score, change = kind(0), -inner
                for i in range(width):
                    score += u[i] * s[i]
                weight = exp(score - logs[item, t])
                for i in range(values):
                    change += g[i] * value[i]
                    to_value[i] += weight * g[i]
                change *= weight
                for i in range(width):
                    passed = change * s[i]
                    own[i] += passed
                    passed *= one - s[i]
                    to_query[i] += passed
                    to_key[i] += passed
