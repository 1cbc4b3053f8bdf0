"""Where order comes from: rotations, sinusoids, ALiBi's slopes and Transformer-XL's scores of distances.

Sines and cosines are those of p * 10000^(-2m/dim) at position p, taken in float64; all layers and steps share their tables.
Rotations are one compiled pass over memory (ops/kernels/rotation.py), without gradients or from `SMALLEST` numbers on.
"""

from functools import lru_cache
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from architectures.ops import native

SMALLEST = 2**15
LONGEST = 1 << 20
"""Positions in a table; farther ones are made each time, so that a long sequence takes no more memory than a short one."""


def rotate(x: Float[Tensor, "*batch length dim"], start: int) -> Float[Tensor, "*batch length dim"]:
    """Turn the pair (x[m], x[m + dim/2]) at position p by the angle p * 10000^(-2m/dim); the first position is `start`."""
    sin, cos = _waves(start, start + x.shape[-2], x.shape[-1], x)
    if x.ndim == 4 and (x.numel() >= SMALLEST or not torch.is_grad_enabled()) and (found := native.kernels("rotation", x)):
        return native.call(_Kernel, found, x, sin, cos)
    first, second = x.chunk(2, -1)
    turned = torch.cat([torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(first * sin, second, cos)], -1)
    return turned if turned.stride(-1) == 1 else turned.contiguous()  # fused attention asks for it; heads two wide may lack it


class _Kernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx, kernels: ModuleType, x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.kernels = kernels
        ctx.save_for_backward(sin, cos)
        return _turned(kernels, x, sin, cos, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        sin, cos = ctx.saved_tensors
        return None, _turned(ctx.kernels, grad, sin, cos, -1.0), None, None


def _turned(kernels: ModuleType, x: Tensor, sin: Tensor, cos: Tensor, sense: float) -> Tensor:
    x = x if x.stride(3) == 1 else x.contiguous()
    sequences, heads, positions, _ = x.stride()
    items, y = x.shape[:2].numel(), torch.empty_like(x, memory_format=torch.contiguous_format)
    given = native.flat(x), sin, cos, y.flatten(0, 1)
    native.run(kernels.turn, items, x.shape[1], sequences, heads, positions, sense, *given)
    return y


def sinusoids(start: int, stop: int, like: Float[Tensor, "*any dim"]) -> Float[Tensor, "length dim"]:
    """Positions from `start` on, which may be negative: sines, then cosines, of p * 10000^(-2m/dim), as wide as `like`.

    An odd width lacks the last cosine.
    """
    dim = like.shape[-1]
    return torch.cat(_waves(start, stop, dim, like), 1)[:, :dim]


def alibi_slopes(heads: int) -> list[float]:
    """2^(-8/heads), 2^(-16/heads), ..., 2^-8: what a score loses with each position of distance."""
    return [2 ** (-8 * (head + 1) / heads) for head in range(heads)]


def distances(rows: slice, columns: slice, device: torch.device) -> Tensor:
    """How far each key lies behind each query."""
    return torch.arange(rows.start, rows.stop, device=device)[:, None] - torch.arange(columns.start, columns.stop, device=device)


def _waves(start: int, stop: int, dim: int, like: Tensor) -> tuple[Tensor, Tensor]:
    if stop > LONGEST:
        return _made(start, stop, dim, like.dtype, like.device)
    low = -_power_of_two(-start) if start < 0 else 0
    sin, cos = _table(low, _power_of_two(max(stop, 1)), dim, like.dtype, like.device)
    return sin[start - low : stop - low], cos[start - low : stop - low]


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _made(start: int, stop: int, dim: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False), torch.no_grad():  # else a table made in evaluation could not be used in training
        frequency = 10_000 ** (-torch.arange(0, dim, 2, device=device, dtype=torch.float64) / dim)
        angle = torch.arange(start, stop, device=device, dtype=torch.float64)[:, None] * frequency
        return angle.sin().to(dtype), angle.cos().to(dtype)


_table = lru_cache(maxsize=16)(_made)
