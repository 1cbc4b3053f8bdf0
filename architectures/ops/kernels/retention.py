"""S[t] = gamma R^-1 S[t-1] + scale k[t]^T v[t], y[t] = q[t] S[t], where R turns the pairs of rows (2m, 2m + 1); no way back.

An item of work is one head of one sequence. q, k and v are (batch, length, heads, width); `state` becomes the last.
"""

import math

from architectures.ops.kernels.compiler import kernel


@kernel
def forward(first, last, scale, q, k, v, angle, decay, y, state):
    length, heads, values = v.shape[1], v.shape[2], v.shape[3]
    scale = v.dtype.type(scale)
    for item in range(first, last):
        n, head = item // heads, item % heads
        rows = state[n, head]
        for t in range(length):
            out, value = y[n, t, head], v[n, t, head]
            out[:] = 0
            for m in range(len(angle)):
                even, odd = rows[2 * m], rows[2 * m + 1]
                along, across = math.cos(angle[m]) * decay[head], math.sin(angle[m]) * decay[head]
                k0, k1 = scale * k[n, t, head, 2 * m], scale * k[n, t, head, 2 * m + 1]
                q0, q1 = q[n, t, head, 2 * m], q[n, t, head, 2 * m + 1]
                for i in range(values):
                    a, b = even[i], odd[i]
                    even[i] = along * a + across * b + k0 * value[i]
                    odd[i] = along * b - across * a + k1 * value[i]
                    out[i] += q0 * even[i] + q1 * odd[i]
