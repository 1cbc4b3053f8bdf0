"""h[t] = a[t] h[t-1] + b[t]: strips of channels, time inside, so that h[t-1] and a constant decay stay in registers.

Arrays are (batch, length, states); a decay that is constant in time is (1, 1, states). Complex numbers are planes, all real parts
and then all imaginary ones along the last axis, or pairs, whose two parts are neighbours. An item of work is a block of channels
of one sequence. The way back finds zeros in `to_initial`; its `to_a` is (batch, 1, states) where the decay is constant.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from architectures.ops.kernels.compiler import exact, kernel
from architectures.ops.kernels.vectors import in_strips, muladd, pairs, vectors


def _forward(registers: float) -> Any:
    load, store = vectors(registers)

    @exact
    def strip(low, n, b, a, initial, h):
        length, states = b.shape[1:]
        at = n * length * states + low
        decay, now, varies = load(a, low), load(initial, n * states + low), _varies(a, b)
        for _ in range(length):
            if varies:
                decay = load(a, at)
            now = muladd(decay, now, load(b, at))
            store(h, at, now)
            at += states

    return strip


def _backward(registers: float) -> Any:
    load, store = vectors(registers)

    @exact
    def strip(low, n, h, a, initial, grad, to_a, to_b, to_initial):
        length, states = h.shape[1:]
        first, start = n * length * states + low, n * states + low
        at, varies = first + (length - 1) * states, _varies(a, h)
        d = to_decay = load(to_initial, start)
        decay = d if varies else load(a, low)
        for _ in range(length):
            before = load(h, at - states) if at > first else load(initial, start)
            d = muladd(decay, d, load(grad, at))
            store(to_b, at, d)
            if varies:
                decay = load(a, at)
                store(to_a, at, d * before)
            else:
                to_decay = muladd(d, before, to_decay)
            at -= states
        if not varies:
            store(to_a, start, to_decay)
        store(to_initial, start, decay * d)

    return strip


def _complex_forward(parts: Callable[[float], Any], registers: float) -> Any:
    load, store = parts(registers)

    @exact
    def strip(low, n, b, a, initial, h):
        length, states = b.shape[1:]
        row, varies = n * length * states, _varies(a, b)
        decay, now = load(a, 0, low), load(initial, n * states, low)
        for _ in range(length):
            if varies:
                decay = load(a, row, low)
            now = _product(decay, now, load(b, row, low))
            store(h, row, low, now)
            row += states

    return strip


def _complex_backward(parts: Callable[[float], Any], registers: float) -> Any:
    """A gradient is that by the real part plus i times that by the imaginary part."""
    load, store = parts(registers)

    @exact
    def strip(low, n, h, a, initial, grad, to_a, to_b, to_initial):
        length, states = h.shape[1:]
        first, start = n * length * states, n * states
        row, varies = first + (length - 1) * states, _varies(a, h)
        nothing = d = to_decay = load(to_initial, start, low)
        decay = nothing if varies else load(a, 0, low)
        for _ in range(length):
            before = load(h, row - states, low) if row > first else load(initial, start, low)
            d = _product(_conjugate(decay), d, load(grad, row, low))
            store(to_b, row, low, d)
            if varies:
                decay = load(a, row, low)
                store(to_a, row, low, _product(_conjugate(before), d, nothing))
            else:
                to_decay = _product(_conjugate(before), d, to_decay)
            row -= states
        if not varies:
            store(to_a, start, low, to_decay)
        store(to_initial, start, low, _product(_conjugate(decay), d, nothing))

    return strip


def _of_planes(registers: float) -> tuple[Any, Any]:
    load, store = vectors(registers)

    @exact
    def load_both(x, row, low):
        return load(x, row + low), load(x, row + low + x.shape[-1] // 2)

    @exact
    def store_both(x, row, low, z):
        store(x, row + low, z[0])
        store(x, row + low + x.shape[-1] // 2, z[1])

    return load_both, store_both


def _of_pairs(registers: float) -> tuple[Any, Any]:
    load, store = pairs(registers)

    @exact
    def load_both(x, row, low):
        return load(x, row + 2 * low)

    @exact
    def store_both(x, row, low, z):
        store(x, row + 2 * low, z[0], z[1])

    return load_both, store_both


@exact
def _product(a, b, c):
    """a b + c."""
    return muladd(a[0], b[0], muladd(-a[1], b[1], c[0])), muladd(a[0], b[1], muladd(a[1], b[0], c[1]))


@exact
def _conjugate(a):
    return a[0], -a[1]


@exact
def _varies(a, b):
    return a.shape[1] == b.shape[1] and a.shape[0] == b.shape[0]


def _blocks(strip: Callable[[float], Any], registers: int, numbers: int) -> Any:
    """For kernels, do(first, last, block, array, *rest): these items of work; `numbers` make one channel."""
    strips = in_strips(strip, registers)

    @exact
    def do(first, last, block, array, *rest):
        channels = array.shape[2] // numbers
        blocks = (channels + block - 1) // block
        for item in range(first, last):
            low = item % blocks * block
            strips(low, min(low + block, channels), item // blocks, array, *rest)

    return do


_do_forward, _do_backward = _blocks(_forward, 8, 1), _blocks(_backward, 8, 1)
_do_forward_planes = _blocks(partial(_complex_forward, _of_planes), 4, 2)
_do_backward_planes = _blocks(partial(_complex_backward, _of_planes), 4, 2)
_do_forward_pairs = _blocks(partial(_complex_forward, _of_pairs), 4, 2)
_do_backward_pairs = _blocks(partial(_complex_backward, _of_pairs), 4, 2)


# Kernels that a function made would be compiled anew by every process: what is kept on disk is found by what they refer to.


@kernel
def forward(first, last, block, a, b, initial, h):
    _do_forward(first, last, block, b, a, initial, h)


@kernel
def backward(first, last, block, a, h, initial, grad, to_a, to_b, to_initial):
    _do_backward(first, last, block, h, a, initial, grad, to_a, to_b, to_initial)


@kernel
def forward_planes(first, last, block, a, b, initial, h):
    _do_forward_planes(first, last, block, b, a, initial, h)


@kernel
def backward_planes(first, last, block, a, h, initial, grad, to_a, to_b, to_initial):
    _do_backward_planes(first, last, block, h, a, initial, grad, to_a, to_b, to_initial)


@kernel
def forward_pairs(first, last, block, a, b, initial, h):
    _do_forward_pairs(first, last, block, b, a, initial, h)


@kernel
def backward_pairs(first, last, block, a, h, initial, grad, to_a, to_b, to_initial):
    _do_backward_pairs(first, last, block, h, a, initial, grad, to_a, to_b, to_initial)
