"""h[t] = a[t] h[t-1] + b[t]: time outside, a block of channels inside, so that h[t-1] and a constant decay stay in the cache.

Arrays are (batch, length, states); a decay that is constant in time is (1, 1, states). Complex numbers are planes: all real
parts, then all imaginary ones, along the last axis. An item of work is a block of channels of one sequence.
"""

from architectures.ops.kernels.compiler import kernel


@kernel
def forward(first, last, block, a, b, initial, h):
    length, states = b.shape[1], b.shape[2]
    blocks = (states + block - 1) // block
    varies = a.shape[1] == length and a.shape[0] == b.shape[0]
    for item in range(first, last):
        n, low = item // blocks, item % blocks * block
        high = min(low + block, states)
        before, decay = initial[n, low:high], a[0, 0, low:high]
        for t in range(length):
            if varies:
                decay = a[n, t, low:high]
            new, now = b[n, t, low:high], h[n, t, low:high]
            for i in range(high - low):
                now[i] = decay[i] * before[i] + new[i]
            before = now


@kernel
def backward(first, last, block, a, h, initial, grad, to_a, to_b, to_initial):
    """`to_initial` and `to_a` come in as zeros; where the decay is constant, `to_a` is (batch, 1, states)."""
    length, states = h.shape[1], h.shape[2]
    blocks = (states + block - 1) // block
    varies = a.shape[1] == length and a.shape[0] == h.shape[0]
    for item in range(first, last):
        n, low = item // blocks, item % blocks * block
        high = min(low + block, states)
        carried, decay, to_decay = to_initial[n, low:high], a[0, 0, low:high], to_a[n, 0, low:high]
        for t in range(length - 1, -1, -1):
            before = h[n, t - 1, low:high] if t else initial[n, low:high]
            g, d = grad[n, t, low:high], to_b[n, t, low:high]
            if varies:
                decay, to_decay = a[n, t, low:high], to_a[n, t, low:high]
            for i in range(high - low):
                d[i] = g[i] + carried[i]
                to_decay[i] += d[i] * before[i]
                carried[i] = decay[i] * d[i]


@kernel
def forward_complex(first, last, block, a, b, initial, h):
    length, states = b.shape[1], b.shape[2] // 2
    blocks = (states + block - 1) // block
    varies = a.shape[1] == length and a.shape[0] == b.shape[0]
    for item in range(first, last):
        n, low = item // blocks, item % blocks * block
        high = min(low + block, states)
        re, im = slice(low, high), slice(states + low, states + high)
        before_re, before_im, decay_re, decay_im = initial[n, re], initial[n, im], a[0, 0, re], a[0, 0, im]
        for t in range(length):
            if varies:
                decay_re, decay_im = a[n, t, re], a[n, t, im]
            new_re, new_im, now_re, now_im = b[n, t, re], b[n, t, im], h[n, t, re], h[n, t, im]
            for i in range(high - low):
                now_re[i] = decay_re[i] * before_re[i] - decay_im[i] * before_im[i] + new_re[i]
                now_im[i] = decay_re[i] * before_im[i] + decay_im[i] * before_re[i] + new_im[i]
            before_re, before_im = now_re, now_im


@kernel
def backward_complex(first, last, block, a, h, initial, grad, to_a, to_b, to_initial):
    """As `backward`; a gradient is that by the real part plus i times that by the imaginary part."""
    length, states = h.shape[1], h.shape[2] // 2
    blocks = (states + block - 1) // block
    varies = a.shape[1] == length and a.shape[0] == h.shape[0]
    for item in range(first, last):
        n, low = item // blocks, item % blocks * block
        high = min(low + block, states)
        re, im = slice(low, high), slice(states + low, states + high)
        carried_re, carried_im, decay_re, decay_im = to_initial[n, re], to_initial[n, im], a[0, 0, re], a[0, 0, im]
        to_re, to_im = to_a[n, 0, re], to_a[n, 0, im]
        for t in range(length - 1, -1, -1):
            before_re = h[n, t - 1, re] if t else initial[n, re]
            before_im = h[n, t - 1, im] if t else initial[n, im]
            g_re, g_im, d_re, d_im = grad[n, t, re], grad[n, t, im], to_b[n, t, re], to_b[n, t, im]
            if varies:
                decay_re, decay_im, to_re, to_im = a[n, t, re], a[n, t, im], to_a[n, t, re], to_a[n, t, im]
            for i in range(high - low):
                d_re[i] = g_re[i] + carried_re[i]
                d_im[i] = g_im[i] + carried_im[i]
            for i in range(high - low):
                to_re[i] += d_re[i] * before_re[i] + d_im[i] * before_im[i]
                to_im[i] += d_im[i] * before_re[i] - d_re[i] * before_im[i]
            for i in range(high - low):
                carried_re[i] = decay_re[i] * d_re[i] + decay_im[i] * d_im[i]
                carried_im[i] = decay_re[i] * d_im[i] - decay_im[i] * d_re[i]
