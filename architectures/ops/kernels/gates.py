"""The LSTM and the GRU of ops/gates.py: time outside, a few sequences inside, whose states stay in the first cache.

An item of work is `rows` sequences; each pass over the recurrent weights, which stay in the second cache, serves four of them.
W x is made `SPAN` positions at a time, which still are there when they are read; on the way back, against time, the next position
is asked for while the products of this one run.
A sum over k goes up in k whatever the number of rows, so the work may be divided in any way and is the same to the last bit.
"""

import numpy as np

from architectures.ops.kernels.compiler import exact, exp, kernel
from architectures.ops.kernels.tiles import product
from architectures.ops.kernels.vectors import prefetch

SPAN = 32
add_product, new_product = product(), product(fresh=True)
ZERO, ONE, TWO, SMALL = np.float32(0), np.float32(1), np.float32(2), np.float32(0.15)  # also in float64, to which they turn
T15, T105, T420, T945 = np.float32(15), np.float32(105), np.float32(420), np.float32(945)


@exact
def sigmoid(x):
    return ONE / (ONE + exp(-x))


@exact
def tanh(x):
    """By exp, and by its continued fraction near 0, where 1 - exp(-2x) would cancel."""
    size, square = abs(x), x * x
    power = exp(-TWO * size)
    over = x * (T945 + square * (T105 + square)) if size < SMALL else ONE - power if x > ZERO else power - ONE
    under = T945 + square * (T420 + square * T15) if size < SMALL else ONE + power
    return over / under


@exact
def _read(gates, x, w, low, high, t):
    """W x of these sequences for `SPAN` positions from t on."""
    for n in range(low, high):
        new_product(gates[n, t : t + SPAN], x[n, t : t + SPAN], w)


@kernel
def lstm_forward(first, last, rows, x, w, u, bias, h_initial, c_initial, gates, h, c):
    """`gates` become i, f, g, o. `w` and `u` are (dim, 4 dim)."""
    batch, length, dim = h.shape
    for item in range(first, last):
        low, high = item * rows, min(item * rows + rows, batch)
        now, cell = h_initial[low:high].copy(), c_initial[low:high].copy()
        sums = np.empty((high - low, 4 * dim), h.dtype)
        for t in range(length):
            if t % SPAN == 0:
                _read(gates, x, w, low, high, t)
            for row in range(high - low):
                total, gate = sums[row], gates[low + row, t]
                for j in range(4 * dim):
                    total[j] = gate[j] + bias[j]
            add_product(sums, now, u)
            for row in range(high - low):
                n, total, gate = low + row, sums[row], gates[low + row, t]
                cell_row, now_row, h_row, c_row = cell[row], now[row], h[n, t], c[n, t]
                for j in range(dim):
                    i, f = sigmoid(total[j]), sigmoid(total[dim + j])
                    g, o = tanh(total[2 * dim + j]), sigmoid(total[3 * dim + j])
                    state = f * cell_row[j] + i * g
                    out = o * tanh(state)
                    gate[j], gate[dim + j], gate[2 * dim + j], gate[3 * dim + j] = i, f, g, o
                    cell_row[j], c_row[j] = state, state
                    now_row[j], h_row[j] = out, out


# Backward, what happens to one sequence at one position is a function by itself: LLVM makes vectors of it after a test that its
# rows do not overlap, and would else test all positions and sequences together, whose rows do.


@exact
def _lstm_back(gate, c, before, grad, to_gate, to_h, carried):
    dim = len(c)
    for j in range(dim):
        i, f, g, o = gate[j], gate[dim + j], gate[2 * dim + j], gate[3 * dim + j]
        to_now, squashed = grad[j] + to_h[j], tanh(c[j])
        to_cell = carried[j] + to_now * o * (ONE - squashed * squashed)
        to_gate[j], to_gate[dim + j] = to_cell * g * i * (ONE - i), to_cell * before[j] * f * (ONE - f)
        to_gate[2 * dim + j], to_gate[3 * dim + j] = to_cell * i * (ONE - g * g), to_now * squashed * o * (ONE - o)
        carried[j] = to_cell * f
        to_h[j] = ZERO


@exact
def _next(x, n, t):
    """Ask for a position that is needed soon; the first one stands in for what lies before it."""
    length, width = x.shape[1:]
    prefetch(x, (n * length + max(t, 0)) * width, width)


@kernel
def lstm_backward(first, last, rows, gates, c, c_initial, grad, u, to_gates, to_h, to_c):
    """`to_c` comes in as the gradient of the last c; it and `to_h` leave as those of the initial state. `u` is (4 dim, dim)."""
    batch, length, dim = c.shape
    for item in range(first, last):
        low, high = item * rows, min(item * rows + rows, batch)
        back, sums = np.zeros((high - low, dim), c.dtype), np.empty((high - low, 4 * dim), c.dtype)
        for t in range(length - 1, -1, -1):
            for row in range(high - low):
                n = low + row
                before = c[n, t - 1] if t else c_initial[n]
                _lstm_back(gates[n, t], c[n, t], before, grad[n, t], sums[row], back[row], to_c[n])
                to_gates[n, t] = sums[row]
                for x in (gates, grad, to_gates):
                    _next(x, n, t - 1)
                _next(c, n, t - 2)
            add_product(back, sums, u)
        to_h[low:high] = back


@kernel
def gru_forward(first, last, rows, x, w, u, bias_x, bias, initial, gates, h, inner):
    """`gates` become r, z, n, and `inner` U_n h + b'_n, b' = `bias`. `w` and `u` are (dim, 3 dim)."""
    batch, length, dim = h.shape
    for item in range(first, last):
        low, high = item * rows, min(item * rows + rows, batch)
        now, sums = initial[low:high].copy(), np.empty((high - low, 3 * dim), h.dtype)
        for t in range(length):
            if t % SPAN == 0:
                _read(gates, x, w, low, high, t)
            for row in range(high - low):
                sums[row] = bias
            add_product(sums, now, u)
            for row in range(high - low):
                n, total, gate, now_row = low + row, sums[row], gates[low + row, t], now[row]
                h_row, inner_row = h[n, t], inner[n, t]
                for j in range(dim):
                    r = sigmoid(gate[j] + bias_x[j] + total[j])
                    z = sigmoid(gate[dim + j] + bias_x[dim + j] + total[dim + j])
                    candidate = tanh(gate[2 * dim + j] + bias_x[2 * dim + j] + r * total[2 * dim + j])
                    out = candidate + z * (now_row[j] - candidate)
                    gate[j], gate[dim + j], gate[2 * dim + j], inner_row[j] = r, z, candidate, total[2 * dim + j]
                    now_row[j], h_row[j] = out, out


@exact
def _gru_back(gate, inner, before, grad, to_sum, to_gate, to_inner, to_h):
    dim = len(inner)
    for j in range(dim):
        r, z, candidate = gate[j], gate[dim + j], gate[2 * dim + j]
        to_now = grad[j] + to_h[j]
        to_n = to_now * (ONE - z) * (ONE - candidate * candidate)
        to_r, to_z = to_n * inner[j] * r * (ONE - r), to_now * (before[j] - candidate) * z * (ONE - z)
        to_sum[j], to_sum[dim + j], to_sum[2 * dim + j] = to_r, to_z, to_n * r
        to_gate[j], to_gate[dim + j], to_gate[2 * dim + j], to_inner[j] = to_r, to_z, to_n, to_n * r
        to_h[j] = to_now * z


@kernel
def gru_backward(first, last, rows, gates, inner, h, initial, grad, u, to_gates, to_inner, to_h):
    """`u` is (3 dim, dim)."""
    batch, length, dim = h.shape
    for item in range(first, last):
        low, high = item * rows, min(item * rows + rows, batch)
        back, sums = np.zeros((high - low, dim), h.dtype), np.empty((high - low, 3 * dim), h.dtype)
        for t in range(length - 1, -1, -1):
            for row in range(high - low):
                n = low + row
                before = h[n, t - 1] if t else initial[n]
                _gru_back(gates[n, t], inner[n, t], before, grad[n, t], sums[row], to_gates[n, t], to_inner[n, t], back[row])
                for x in (gates, inner, grad, to_gates, to_inner):
                    _next(x, n, t - 1)
                _next(h, n, t - 2)
            add_product(back, sums, u)
        to_h[low:high] = back
