"""Matrices turned: a block of `BLOCK` rows at a time, so that what is read together lies in few lines of the cache."""

from architectures.ops.kernels.compiler import kernel

BLOCK = 8


@kernel
def turn(first, last, x, y):
    """An item of work is a block of rows of one of the matrices `x`, (matrices, rows, columns)."""
    rows, columns = x.shape[1], x.shape[2]
    blocks = (rows + BLOCK - 1) // BLOCK
    for item in range(first, last):
        n, low = item // blocks, item % blocks * BLOCK
        high = min(low + BLOCK, rows)
        given = x[n, low:high]
        for column in range(columns):
            out = y[n, column, low:high]
            for i in range(high - low):
                out[i] = given[i, column]
