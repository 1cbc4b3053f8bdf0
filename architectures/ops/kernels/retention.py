"""S <- gamma R^-1 S + scale k^T v, y = q S, where R turns the pairs of rows (2m, 2m + 1); no way back.

An item of work is one head of one sequence. q, k and v are (batch, 1, heads, width): it is one position. `turn`, (2, heads,
pairs), has gamma times the cosine and the sine of an angle.
"""

from architectures.ops.kernels.compiler import kernel


@kernel
def forward(first, last, scale, q, k, v, turn, state, y, after):
    heads, values = v.shape[2], v.shape[3]
    scale = v.dtype.type(scale)
    for item in range(first, last):
        n, head = item // heads, item % heads
        before, rows, out, value = state[n, head], after[n, head], y[n, 0, head], v[n, 0, head]
        out[:] = 0
        for m in range(turn.shape[2]):
            even, odd, to_even, to_odd = before[2 * m], before[2 * m + 1], rows[2 * m], rows[2 * m + 1]
            along, across = turn[0, head, m], turn[1, head, m]
            k0, k1 = scale * k[n, 0, head, 2 * m], scale * k[n, 0, head, 2 * m + 1]
            q0, q1 = q[n, 0, head, 2 * m], q[n, 0, head, 2 * m + 1]
            for i in range(values):
                to_even[i] = along * even[i] + across * odd[i] + k0 * value[i]
                to_odd[i] = along * odd[i] - across * even[i] + k1 * value[i]
                out[i] += q0 * to_even[i] + q1 * to_odd[i]
