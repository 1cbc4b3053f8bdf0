"""Causal convolution with kernels as long as the sequence, one for each channel, in the time of a few Fourier transforms.

    y[t] = sum over j <= t of K[j] u[t - j]

Transforms of twice the length leave nothing to wrap round. They are made a slab of channels at a time, forward and backward, and
no spectrum is kept: the inputs are transformed again for the gradients.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from architectures.backbone import Flops
from architectures.ops.turning import turned

SLAB = 2**21  # numbers of a slab, which a cache should hold


def long_convolution(
    u: Float[Tensor, "batch length channels"], kernel: Float[Tensor, "channels length"]
) -> Float[Tensor, "batch length channels"]:
    return _LongConvolution.apply(u, kernel)  # pyright: ignore[reportReturnType]


def long_convolution_definition(u: Tensor, kernel: Tensor) -> Tensor:
    """The sum as it is written, position by position."""
    backwards, length = kernel.flip(1).mT, u.shape[1]
    return torch.stack([(u[:, : t + 1] * backwards[length - 1 - t :]).sum(1) for t in range(length)], 1)


def long_convolution_flops(length: int, channels: int) -> Flops:
    """Two real FFTs of 2 length points for each channel and a complex product a frequency; a batch shares the kernel's FFT. The
    sum as it is written is cheaper below some 80 positions."""
    transform = round(2.5 * 2 * length * math.log2(2 * length))
    fourier = Flops(mixing=channels * (2 * transform + 6 * (length + 1)), shared=Flops(mixing=channels * transform))
    return fourier.or_cheaper(Flops(channels * length * (length + 1)))


class _LongConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u: Tensor, kernel: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(u, kernel)
        rows, length = turned(u), u.shape[1]
        y = torch.empty_like(rows)
        for some in _slabs(rows):
            spectrum = _spectrum(rows[:, some]).mul_(torch.fft.rfft(kernel[some], 2 * length))
            y[:, some] = _back(spectrum, length)
        return turned(y)

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        u, kernel = ctx.saved_tensors
        rows, grads, length = turned(u), turned(grad), u.shape[1]
        to_kernel = torch.empty_like(kernel)
        for some in _slabs(rows):
            spectrum = _spectrum(grads[:, some])
            products = _spectrum(rows[:, some]).conj_physical_().mul_(spectrum)
            to_kernel[some] = _back(products.sum(0), length)
            spectrum.mul_(torch.fft.rfft(kernel[some], 2 * length).conj_physical_())
            grads[:, some] = _back(spectrum, length)
        return turned(grads), to_kernel


def _slabs(rows: Tensor) -> list[slice]:
    batch, channels, length = rows.shape
    size = max(1, SLAB // max(1, 2 * batch * length))
    return [slice(first, first + size) for first in range(0, channels, size)]


def _spectrum(rows: Tensor) -> Tensor:
    return torch.fft.rfft(rows, 2 * rows.shape[2])


def _back(spectrum: Tensor, length: int) -> Tensor:
    return torch.fft.irfft(spectrum, 2 * length)[..., :length]
