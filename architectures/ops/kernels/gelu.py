"""x sigmoid(2 u(x)), u = c (x + a x^3): one pass there, and one back, which computes the logistic function again.

An item of work is a block of numbers.
"""

import math

from architectures.ops.kernels.compiler import exp, kernel

TWO_C = 2 * math.sqrt(2 / math.pi)
TWO_CA = TWO_C * 0.044715


@kernel
def forward(first, last, block, x, out):
    kind = x.dtype.type
    one, two_c, two_ca = kind(1), kind(TWO_C), kind(TWO_CA)
    start, stop = first * block, min(last * block, len(x))
    given, now = x[start:stop], out[start:stop]
    for i in range(stop - start):
        value = given[i]
        now[i] = value / (one + exp(-value * (two_c + two_ca * value * value)))


@kernel
def backward(first, last, block, x, grad, to_x):
    kind = x.dtype.type
    one, two_c, two_ca, six_ca = kind(1), kind(TWO_C), kind(TWO_CA), kind(3 * TWO_CA)
    start, stop = first * block, min(last * block, len(x))
    given, g, now = x[start:stop], grad[start:stop], to_x[start:stop]
    for i in range(stop - start):
        value = given[i]
        square = value * value
        logistic = one / (one + exp(-value * (two_c + two_ca * square)))
        now[i] = g[i] * logistic * (one + value * (one - logistic) * (two_c + six_ca * square))
