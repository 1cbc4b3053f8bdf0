"""The kernel of S4 from its generating function: Gu et al., arXiv:2111.00396, section 3 and appendix C.3.

    K(z) = sum over t < L of K[t] z^t = C~ (1 - A z)^-1 B       C~ = C (1 - A^L)        at the L-th roots of unity z

A is the bilinear rule of diag(a) - p p* with step dt and every number stands for itself and its conjugate. With z = exp(-2 i f),
cos = cos f, sin = 2 sin f and m = dt a, four sums over the poles (Cauchy products) and the Woodbury identity give

    K(z) = exp(i f) (r[C~, B] - cos r[C~, p] r[p*, B] / (1 + cos r[p*, p]))
    r[x, y] = sum over n of v / (i sin - m cos) + conj(v) / (i sin - conj(m) cos)       v = dt x[n] y[n]
            = sum over n of (cos e0 + i sin e1) / (cos^2 q0 - sin^2 + i sin cos q1)

in which nothing grows without bound at z = -1, and e0 = -2 Re(v conj(m)), e1 = 2 Re v, q0 = |m|^2, q1 = -2 Re m are real.

C~ is made in each forward pass from C itself, for the length at hand, so that the kernel is the one of the recurrence, exactly,
at every length. The row C A^L meets A^SPAN, which differs from a diagonal by rank SPAN and is made in linear time, as often as is
needed; where that is too often, A^SPAN is squared repeatedly, dense and never longer than one in norm.
"""

import math
from dataclasses import replace

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from architectures.backbone import Flops
from architectures.ops import native
from architectures.ops.convolution import Modes, System, column, row, without_tiny

SPAN, MOST = 16, 64
SLAB = 2**18  # poles times frequencies that are held at a time, without compiled kernels
Weights = Float[Tensor, "channels modes 8"]
Poles = Float[Tensor, "channels modes 2"]


def dplr_kernel(
    a: Modes, p: Modes, b: Modes, dt: Float[Tensor, "channels 1"], system: System, length: int
) -> Float[Tensor, "channels length"]:
    """K[t] for t < length of the system that the bilinear rule makes of a, p, b and C, with step dt."""
    c = system.read
    truncated = c - row_power(system, length)
    m = dt * a
    v = dt[..., None] * torch.stack([truncated * b, truncated * p, p.conj() * b, p.conj() * p], -1)
    weights = torch.cat([-2 * (v * m.conj()[..., None]).real, 2 * v.real], -1)
    values = _Generating.apply(weights, torch.stack([m.abs().square(), -2 * m.real], -1), length)
    return torch.fft.irfft(values, length)


def row_power(system: System, times: int) -> Modes:
    """C A^times."""
    push, sense = system.feedback or (torch.zeros_like(system.decay),) * 2

    def after(c: Tensor) -> Tensor:
        return system.decay * c - sense * (2 * (c * push).real.sum(-1, keepdim=True))

    c, (spans, rest) = system.read, divmod(times, SPAN)
    for _ in range(rest):
        c = after(c)
    if not spans:
        return c
    senses, pushes, decay = [sense], [push], system.decay
    for _ in range(SPAN - 1):
        senses.append(after(senses[-1]))
        pushes.append(system.decay * pushes[-1])
        decay = decay * system.decay
    matrix = replace(system, decay=decay, feedback=None).matrix()
    matrix = torch.baddbmm(matrix, column(torch.stack(pushes[::-1], 1)).mT, row(torch.stack(senses, 1)), alpha=-1)
    product = row(c)[:, None]
    while spans > MOST:
        if spans % 2:
            product = product @ matrix
        spans //= 2
        matrix = matrix @ matrix
        matrix = without_tiny(matrix, matrix.detach().abs().amax((1, 2), keepdim=True))
    for _ in range(spans):
        product = product @ matrix
    real, turn = product[:, 0].chunk(2, 1)
    return torch.complex(real, -turn) / 2


def row_power_flops(times: int, channels: int, modes: int) -> Flops:
    """Contraction: rank SPAN, squarings, and rows that meet a matrix. Mixing: for each pole, 16 where a row meets A, and 12 for a
    power of the decay and its push."""
    spans, rest = divmod(times, SPAN)
    mixing = 16 * modes * rest
    if not spans:
        return Flops(mixing=channels * mixing)
    products, n = 2 * (2 * modes) ** 2 * SPAN, 2 * modes
    while spans > MOST:
        products += 2 * n**2 * (n + spans % 2)
        spans //= 2
    return Flops(channels * (products + 2 * n**2 * spans), channels * (mixing + (SPAN - 1) * 28 * modes))


def dplr_kernel_flops(length: int, channels: int, modes: int) -> Flops:
    """Contraction: eight weights of a pole meet the real and the imaginary part of its quotient at each frequency. Mixing: for
    each pole and frequency 10, 4 of them for the denominator, 3 for its square and 3 for the quotient; for each frequency 54: 16
    of the sums, 32 of the Woodbury identity, 6 of exp(i f); an inverse FFT. And C A^L."""
    frequencies = length // 2 + 1
    mixing = frequencies * (10 * modes + 54) + round(2.5 * length * math.log2(length))
    return Flops(32 * frequencies * modes, mixing) * channels + row_power_flops(length, channels, modes)


def generating_function_definition(weights: Weights, poles: Poles, length: int) -> Complex[Tensor, "channels frequencies"]:
    """K(z) at exp(-2 pi i j / length), j <= length / 2, as it is written above; `weights` are e0 of the four sums, then e1."""
    return _generating(weights, poles, *_angles(weights, length))


class _Generating(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weights: Tensor, poles: Tensor, length: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        weights, poles = weights.contiguous(), poles.contiguous()
        ctx.save_for_backward(weights, poles)
        ctx.length = length
        cosine, sine = _angles(weights, length)
        values = weights.new_empty(len(weights), len(cosine), 2)
        compiled = native.kernels("cauchy", weights, poles)
        if compiled:
            native.run(compiled.forward, len(weights), weights, poles, cosine, sine, values)
            return torch.view_as_complex(values)
        pieces = [_generating(weights, poles, *piece) for piece in _slabs(weights, cosine, sine)]
        return torch.cat(pieces, 1)

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        weights, poles = ctx.saved_tensors
        cosine, sine = _angles(weights, ctx.length)
        to_weights, to_poles = torch.zeros_like(weights), torch.zeros_like(poles)
        compiled = native.kernels("cauchy", weights, poles)
        if compiled:
            parts = torch.view_as_real(grad.resolve_conj()).contiguous()
            native.run(compiled.backward, len(weights), weights, poles, cosine, sine, parts, to_weights, to_poles)
            return to_weights, to_poles, None
        first = 0
        for c, s in _slabs(weights, cosine, sine):
            with torch.enable_grad():
                given = weights.detach().requires_grad_(), poles.detach().requires_grad_()
                values = _generating(*given, c, s)
            more = torch.autograd.grad(values, given, grad[:, first : first + len(c)])
            first += len(c)
            to_weights += more[0]
            to_poles += more[1]
        return to_weights, to_poles, None


def _angles(like: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """cos f and 2 sin f."""
    f = torch.arange(length // 2 + 1, dtype=torch.float64, device=like.device) * (math.pi / length)
    return f.cos().to(like.dtype), (2 * f.sin()).to(like.dtype)


def _slabs(weights: Tensor, cosine: Tensor, sine: Tensor) -> list[tuple[Tensor, Tensor]]:
    size = max(1, SLAB // (weights.shape[0] * weights.shape[1]))
    return list(zip(cosine.split(size), sine.split(size), strict=True))


def _generating(weights: Tensor, poles: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    real = poles[..., :1] * cosine.square() - sine.square()
    imaginary = poles[..., 1:] * (sine * cosine)
    scale = 1 / (real.square() + imaginary.square())
    columns = weights.mT
    (c_re, s_re), (c_im, s_im) = (torch.matmul(columns, part * scale).split(4, 1) for part in (real, imaginary))
    sums = torch.complex(cosine * c_re + sine * s_im, sine * s_re - cosine * c_im)
    both, left, right, low_rank = sums.unbind(1)
    value = both - left * right * (cosine / (1 + cosine * low_rank))
    return value * torch.complex(cosine, sine / 2)
