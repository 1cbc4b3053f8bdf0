"""First-order linear recurrence h[t] = a[t] h[t-1] + b[t], elementwise, real or complex.

Fast form: one compiled loop (ops/kernels/scan.py), on a GPU one in Triton (ops/scan_gpu.py). In tensors: two levels. The sequence
is cut into chunks of `CHUNK` positions and the recurrence runs inside all chunks at once; the last values of the chunks form the
same recurrence, `CHUNK` times shorter, solved by the same function; its solution enters every chunk multiplied by the decay so
far. Work is linear in length and no step of Python runs per position.
Backward: with g = dL/dh, d[t] = g[t] + conj(a[t+1]) d[t+1] is the same recurrence in reverse; db = d, da[t] = d[t] conj(h[t-1])
(Martin & Cundy, arXiv:1709.04057, section 2).

Complex numbers in planes, all real parts and then all imaginary ones along the last axis, are what a projection by stacked real
and imaginary weights gives and takes: `planar_scan` leaves them so.
"""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from jaxtyping import Complex, Float, Inexact
from torch import Tensor

from architectures.ops import native

CHUNK = 16
BLOCK = 256  # channels that a compiled loop takes together


def scan(
    a: Inexact[Tensor, "*decay states"],
    b: Inexact[Tensor, "batch length states"],
    initial: Inexact[Tensor, "batch states"],
) -> Inexact[Tensor, "batch length states"]:
    """All h[t] from h[-1] = `initial`. `a` has the shape of `b`, or (states,) where the decay is constant in time."""
    kernels = native.kernels("scan", a.real, b.real, initial.real)
    if kernels and b.is_complex():
        ways = kernels.forward_pairs, kernels.backward_pairs
        return _of_pairs(native.call(_Kernel, *ways, _pairs(a), _pairs(b), _pairs(initial), True))
    if kernels:
        return native.call(_Kernel, kernels.forward, kernels.backward, a, b, initial, False)
    return _Scan.apply(a, b, initial)  # pyright: ignore[reportReturnType]


def planar_scan(
    a: Float[Tensor, "*decay planes"], b: Float[Tensor, "batch length planes"], initial: Float[Tensor, "batch planes"]
) -> Float[Tensor, "batch length planes"]:
    """`scan` of complex numbers in planes."""
    if kernels := native.kernels("scan", a, b, initial):
        return native.call(_Kernel, kernels.forward_planes, kernels.backward_planes, a, b, initial, True)
    return planes(_Scan.apply(joined(a), joined(b), joined(initial)))  # pyright: ignore[reportArgumentType]


def scan_definition(a: Tensor, b: Tensor, initial: Tensor) -> Tensor:
    """The recurrence as it is written, position by position."""
    h, out = initial, []
    for t in range(b.shape[1]):
        h = (a if a.ndim == 1 else a[:, t]) * h + b[:, t]
        out.append(h)
    return torch.stack(out, 1) if out else torch.empty_like(b)


def scan_flops(length: int, states: int, *, is_complex: bool) -> int:
    """The sequential, work-efficient cost: a multiply-add for each position and state (8 operations when complex)."""
    return (8 if is_complex else 2) * length * states


def planes(x: Complex[Tensor, "*axes states"]) -> Float[Tensor, "*axes planes"]:
    """Real parts, then imaginary parts."""
    return torch.cat([x.real, x.imag], -1)


def joined(x: Float[Tensor, "*axes planes"]) -> Complex[Tensor, "*axes states"]:
    """The complex numbers of two planes."""
    return torch.complex(*x.chunk(2, -1))


def _pairs(x: Complex[Tensor, "*axes states"]) -> Float[Tensor, "*axes numbers"]:
    """Real and imaginary parts as neighbours, which they are in memory."""
    return torch.view_as_real(x.resolve_conj()).flatten(-2)


def _of_pairs(x: Float[Tensor, "*axes numbers"]) -> Complex[Tensor, "*axes states"]:
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


class _Kernel(torch.autograd.Function):
    """The compiled loops, there and back; of complex numbers where two numbers are a state."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx, there: native.Kernel, back: native.Kernel, a: Tensor, b: Tensor, initial: Tensor, is_complex: bool
    ) -> Tensor:
        a, b, initial = a.contiguous(), b.contiguous(), initial.contiguous()
        ctx.save_for_backward(a, h := torch.empty_like(b), initial)
        ctx.back, ctx.is_complex = back, is_complex
        native.run(there, *_work(b, is_complex), _timed(a), b, initial, h)
        return h

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        a, h, initial = ctx.saved_tensors
        to_a = h.new_zeros(len(h), 1, h.shape[2]) if a.ndim == 1 else torch.empty_like(h)
        to_b, to_initial = torch.empty_like(h), torch.zeros_like(initial)
        native.run(ctx.back, *_work(h, ctx.is_complex), _timed(a), h, initial, grad.contiguous(), to_a, to_b, to_initial)
        return None, None, (to_a.sum((0, 1)) if a.ndim == 1 else to_a), to_b, to_initial, None


def _work(b: Tensor, is_complex: bool) -> tuple[int, int]:
    """Items of work and channels of one: all together, or so few that no thread is idle."""
    if not b.numel():
        return 0, 1
    states = b.shape[2] // 2 if is_complex else b.shape[2]
    threads = torch.get_num_threads()
    block = min(BLOCK, states if len(b) >= threads else -(-states // threads))
    return len(b) * -(-states // block), block


def _timed(a: Tensor) -> Tensor:
    return a.view(1, 1, -1) if a.ndim == 1 else a


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor, initial: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        h = _recur(a, b, initial)
        ctx.save_for_backward(a, h, initial)
        return h

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        a, h, initial = ctx.saved_tensors
        constant = a.ndim == 1
        back = a.conj().resolve_conj()
        if not constant:  # d[t] needs a[t+1]; nothing follows the last position
            back = torch.cat([back[:, 1:], torch.zeros_like(back[:, :1])], 1).flip(1)
        d = _recur(back, grad.flip(1), torch.zeros_like(initial)).flip(1)
        first = d[:, 0] if d.shape[1] else torch.zeros_like(initial)
        to_initial = (a if constant else a[:, 0] if d.shape[1] else torch.ones_like(initial)).conj() * first
        if not ctx.needs_input_grad[0]:
            return None, d, to_initial
        before = torch.cat([initial[:, None], h[:, :-1]], 1)[:, : h.shape[1]]
        to_a = d * before.conj()
        return (to_a.sum((0, 1)) if constant else to_a), d, to_initial


@cache
def _of_a_gpu() -> ModuleType | None:
    """Triton comes with the torch of a GPU."""
    return import_module("architectures.ops.scan_gpu") if find_spec("triton") else None


def _recur(a: Tensor, b: Tensor, initial: Tensor) -> Tensor:
    if b.is_cuda and b.numel() and not native.watched() and (kernels := _of_a_gpu()):
        return kernels.recur(a, b, initial)
    return _in_chunks(a, b, initial)


def _in_chunks(a: Tensor, b: Tensor, initial: Tensor) -> Tensor:
    batch, length, states = b.shape
    if length <= CHUNK:
        h = torch.empty_like(b)
        last = initial
        for t in range(length):
            last = torch.addcmul(b[:, t], a if a.ndim == 1 else a[:, t], last, out=h[:, t])
        return h
    whole = length - length % CHUNK
    if whole < length:
        head = _in_chunks(a if a.ndim == 1 else a[:, :whole], b[:, :whole], initial)
        tail = _in_chunks(a if a.ndim == 1 else a[:, whole:], b[:, whole:], head[:, -1])
        return torch.cat([head, tail], 1)
    h = b.reshape(batch, length // CHUNK, CHUNK, states).clone()
    decay = _decays(a, h)
    for t in range(1, CHUNK):
        h[:, :, t].addcmul_(a if a.ndim == 1 else a.view(h.shape)[:, :, t], h[:, :, t - 1])
    ends = _in_chunks(decay[..., -1, :] if a.ndim > 1 else decay[-1], h[:, :, -1], initial)
    carry = torch.cat([initial[:, None], ends[:, :-1]], 1)
    h.addcmul_(decay, carry[:, :, None])
    return h.view(batch, length, states)


def _decays(a: Tensor, h: Tensor) -> Tensor:
    """Product of the decays from a chunk's start up to each of its positions."""
    if a.ndim == 1:
        return a.expand(CHUNK, -1).cumprod(0)
    return a.reshape(h.shape).cumprod(2)
