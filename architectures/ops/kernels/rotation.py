"""Pairs (x[m], x[m + width/2]) turned by the angles of their positions: one pass over memory.

An item of work is a head of a sequence. `x` is flat, its sequences, heads and positions as far apart as the steps say; `y` is
(items, positions, width). A `sense` of -1 turns back.
"""

from architectures.ops.kernels.compiler import kernel


@kernel
def turn(first, last, heads, sequence_step, head_step, step, sense, x, sin, cos, y):
    length, half = sin.shape
    sense = x.dtype.type(sense)
    for item in range(first, last):
        start = item // heads * sequence_step + item % heads * head_step
        for t in range(length):
            at = start + t * step
            low, high, s, c = x[at : at + half], x[at + half : at + 2 * half], sin[t], cos[t]
            to_low, to_high = y[item, t, :half], y[item, t, half:]
            for i in range(half):
                along = sense * s[i]
                to_low[i] = low[i] * c[i] - high[i] * along
                to_high[i] = low[i] * along + high[i] * c[i]
