"""First-order recurrences in Triton: blocks of positions by an associative scan, one after the other (ops/scan.py)."""

# Triton's functions are no functions of Python's
# pyright: reportArgumentType=false
# pyright: reportGeneralTypeIssues=false
# pyright: reportIndexIssue=false

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

TIME, CHANNELS = 64, 32


def recur(a: Tensor, b: Tensor, initial: Tensor) -> Tensor:
    """All h; `a` has the shape of `b`, or (states,)."""
    batch, length, states = b.shape
    given = [x.contiguous().resolve_conj() for x in (a, b, initial)]
    h = torch.empty_like(given[1])
    steps = (0, 0) if a.ndim == 1 else (length * states, states)
    planes = [torch.view_as_real(x) if b.is_complex() else x for x in (*given, h)]
    kernel = _complex if b.is_complex() else _real
    kernel[batch, triton.cdiv(states, CHANNELS)](*planes, length, states, *steps, TIME=TIME, CHANNELS=CHANNELS)
    return h


@triton.jit
def _after(a, b, c, d):
    """h -> a h + b, then h -> c h + d."""
    return a * c, b * c + d


@triton.jit
def _after_complex(a, i, b, j, c, k, d, l):  # noqa: E741
    return a * c - i * k, a * k + i * c, b * c - j * k + d, b * k + j * c + l


@triton.jit
def _real(a, b, initial, h, length, states, a_row, a_time, TIME: tl.constexpr, CHANNELS: tl.constexpr):
    row, channel = tl.program_id(0).to(tl.int64), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside, within = channel < states, tl.arange(0, TIME)
    state = tl.load(initial + row * states + channel, mask=inside, other=0.0)
    for start in range(0, length, TIME):
        t = start + within
        seen = (t < length)[:, None] & inside[None, :]
        at = (row * length + t)[:, None] * states + channel[None, :]
        decay = tl.load(a + row * a_row + t[:, None] * a_time + channel[None, :], mask=seen, other=1.0)
        value = tl.load(b + at, mask=seen, other=0.0)
        decay, value = tl.associative_scan((decay, value), 0, _after)
        value += decay * state[None, :]
        tl.store(h + at, value, mask=seen)
        state = tl.sum(tl.where((within == TIME - 1)[:, None], value, 0.0), 0)


@triton.jit
def _complex(a, b, initial, h, length, states, a_row, a_time, TIME: tl.constexpr, CHANNELS: tl.constexpr):
    row, channel = tl.program_id(0).to(tl.int64), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside, within = channel < states, tl.arange(0, TIME)
    first = initial + 2 * (row * states + channel)
    real, imaginary = tl.load(first, mask=inside, other=0.0), tl.load(first + 1, mask=inside, other=0.0)
    for start in range(0, length, TIME):
        t = start + within
        seen = (t < length)[:, None] & inside[None, :]
        at = 2 * ((row * length + t)[:, None] * states + channel[None, :])
        turns = a + 2 * (row * a_row + t[:, None] * a_time + channel[None, :])
        p, q = tl.load(turns, mask=seen, other=1.0), tl.load(turns + 1, mask=seen, other=0.0)
        x, y = tl.load(b + at, mask=seen, other=0.0), tl.load(b + at + 1, mask=seen, other=0.0)
        p, q, x, y = tl.associative_scan((p, q, x, y), 0, _after_complex)
        x += p * real[None, :] - q * imaginary[None, :]
        y += p * imaginary[None, :] + q * real[None, :]
        tl.store(h + at, x, mask=seen)
        tl.store(h + at + 1, y, mask=seen)
        last = (within == TIME - 1)[:, None]
        real, imaginary = tl.sum(tl.where(last, x, 0.0), 0), tl.sum(tl.where(last, y, 0.0), 0)
