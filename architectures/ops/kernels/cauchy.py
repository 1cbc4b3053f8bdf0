"""Sums of a generating function over its poles and their gradients: a block of frequencies at a time, pole by pole.

See `generating_function_definition` of architectures/ops/cauchy.py for the sums. An item of work is a channel; its weights are
(poles, 8), its poles (poles, 2), its values (frequencies, 2).
"""

import numpy as np

from architectures.ops.kernels.compiler import kernel

BLOCK = 256


@kernel
def sum_poles(weights, poles, cosine, sine, sums):
    """The four sums of a block: real parts, then imaginary ones."""
    one = sums.dtype.type(1)
    size = len(cosine)
    sums[:] = 0
    for n in range(len(poles)):
        square, damping = poles[n, 0], poles[n, 1]
        a0, a1, a2, a3 = weights[n, 0], weights[n, 1], weights[n, 2], weights[n, 3]
        b0, b1, b2, b3 = weights[n, 4], weights[n, 5], weights[n, 6], weights[n, 7]
        for i in range(size):
            c, s = cosine[i], sine[i]
            re, im = square * c * c - s * s, damping * s * c
            scale = one / (re * re + im * im)
            re, im = re * scale, im * scale
            cr, ci, sr, si = c * re, c * im, s * re, s * im
            sums[0, i] += a0 * cr + b0 * si
            sums[1, i] += a1 * cr + b1 * si
            sums[2, i] += a2 * cr + b2 * si
            sums[3, i] += a3 * cr + b3 * si
            sums[4, i] += b0 * sr - a0 * ci
            sums[5, i] += b1 * sr - a1 * ci
            sums[6, i] += b2 * sr - a2 * ci
            sums[7, i] += b3 * sr - a3 * ci


@kernel
def forward(first, last, weights, poles, cosine, sine, values):
    frequencies = len(cosine)
    sums, one, two = np.empty((8, BLOCK), values.dtype), values.dtype.type(1), values.dtype.type(2)
    for item in range(first, last):
        for low in range(0, frequencies, BLOCK):
            high = min(low + BLOCK, frequencies)
            c, s, out = cosine[low:high], sine[low:high], values[item, low:high]
            sum_poles(weights[item], poles[item], c, s, sums)
            for i in range(high - low):
                re, im = one + c[i] * sums[3, i], c[i] * sums[7, i]
                scale = c[i] / (re * re + im * im)
                re, im = re * scale, -im * scale
                left_re = sums[1, i] * sums[2, i] - sums[5, i] * sums[6, i]
                left_im = sums[1, i] * sums[6, i] + sums[5, i] * sums[2, i]
                value_re = sums[0, i] - (left_re * re - left_im * im)
                value_im = sums[4, i] - (left_re * im + left_im * re)
                half = s[i] / two
                out[i, 0] = value_re * c[i] - value_im * half
                out[i, 1] = value_re * half + value_im * c[i]


@kernel
def backward(first, last, weights, poles, cosine, sine, grad, to_weights, to_poles):
    """`to_weights` and `to_poles` come in as zeros. The gradients of the four sums take the place of the sums."""
    frequencies = len(cosine)
    sums = np.empty((8, BLOCK), grad.dtype)
    for item in range(first, last):
        for low in range(0, frequencies, BLOCK):
            high = min(low + BLOCK, frequencies)
            c, s, given = cosine[low:high], sine[low:high], grad[item, low:high]
            sum_poles(weights[item], poles[item], c, s, sums)
            _to_sums(c, s, given, sums)
            _to_poles(weights[item], poles[item], c, s, sums, to_weights[item], to_poles[item])


@kernel
def _to_sums(cosine, sine, grad, sums):
    one, two = sums.dtype.type(1), sums.dtype.type(2)
    for i in range(len(cosine)):
        c, half = cosine[i], sine[i] / two
        g_re, g_im = grad[i, 0] * c + grad[i, 1] * half, grad[i, 1] * c - grad[i, 0] * half
        re, im = one + c * sums[3, i], c * sums[7, i]
        scale = c / (re * re + im * im)
        # t = conj(c / (1 + c r3)); its products with conj(r1), conj(r2) and g
        t_re, t_im = re * scale, im * scale
        h_re, h_im = g_re * t_re - g_im * t_im, g_re * t_im + g_im * t_re
        one_re, one_im, two_re, two_im = sums[1, i], -sums[5, i], sums[2, i], -sums[6, i]
        k_re, k_im = h_re * one_re - h_im * one_im, h_re * one_im + h_im * one_re
        l_re, l_im = k_re * two_re - k_im * two_im, k_re * two_im + k_im * two_re
        sums[0, i], sums[4, i] = g_re, g_im
        sums[1, i], sums[5, i] = h_im * two_im - h_re * two_re, -h_re * two_im - h_im * two_re
        sums[2, i], sums[6, i] = -k_re, -k_im
        sums[3, i], sums[7, i] = l_re * t_re - l_im * t_im, l_re * t_im + l_im * t_re


@kernel
def _to_poles(weights, poles, cosine, sine, grads, to_weights, to_poles):
    zero, one, two = grads.dtype.type(0), grads.dtype.type(1), grads.dtype.type(2)
    for n in range(len(poles)):
        square, damping = poles[n, 0], poles[n, 1]
        a0, a1, a2, a3 = weights[n, 0], weights[n, 1], weights[n, 2], weights[n, 3]
        b0, b1, b2, b3 = weights[n, 4], weights[n, 5], weights[n, 6], weights[n, 7]
        ga0 = ga1 = ga2 = ga3 = gb0 = gb1 = gb2 = gb3 = to_square = to_damping = zero
        for i in range(len(cosine)):
            c, s = cosine[i], sine[i]
            re, im = square * c * c - s * s, damping * s * c
            scale = one / (re * re + im * im)
            re, im = re * scale, im * scale
            cr, ci, sr, si = c * re, c * im, s * re, s * im
            r0, r1, r2, r3 = grads[0, i], grads[1, i], grads[2, i], grads[3, i]
            i0, i1, i2, i3 = grads[4, i], grads[5, i], grads[6, i], grads[7, i]
            ga0 += r0 * cr - i0 * ci
            ga1 += r1 * cr - i1 * ci
            ga2 += r2 * cr - i2 * ci
            ga3 += r3 * cr - i3 * ci
            gb0 += r0 * si + i0 * sr
            gb1 += r1 * si + i1 * sr
            gb2 += r2 * si + i2 * sr
            gb3 += r3 * si + i3 * sr
            to_re = c * (a0 * r0 + a1 * r1 + a2 * r2 + a3 * r3) + s * (b0 * i0 + b1 * i1 + b2 * i2 + b3 * i3)
            to_im = s * (b0 * r0 + b1 * r1 + b2 * r2 + b3 * r3) - c * (a0 * i0 + a1 * i1 + a2 * i2 + a3 * i3)
            fall, cross = im * im - re * re, two * re * im
            to_square += c * c * (to_re * fall - to_im * cross)
            to_damping -= s * c * (to_re * cross + to_im * fall)
        to_weights[n, 0] += ga0
        to_weights[n, 1] += ga1
        to_weights[n, 2] += ga2
        to_weights[n, 3] += ga3
        to_weights[n, 4] += gb0
        to_weights[n, 5] += gb1
        to_weights[n, 6] += gb2
        to_weights[n, 7] += gb3
        to_poles[n, 0] += to_square
        to_poles[n, 1] += to_damping
