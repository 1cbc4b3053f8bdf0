"""HiPPO: linear operators whose state holds the coefficients of the past input on a basis, and how to discretise them.

    x'(t) = A x(t) + B u(t)

Gu et al., "HiPPO", arXiv:2008.07669, section 2.3 and appendix D (LegT, LagT, LegS); Gu et al., "How to Train Your HiPPO",
arXiv:2206.12037 (time-invariant LegS, Fourier). The operators are numpy arrays in float64. LegS is far from normal, so it is
never diagonalised; A + P P^T with P = sqrt(n + 1/2) is, with all eigenvalues on Re = -1/2 (Gu et al., "S4", arXiv:2111.00396,
appendix C.1).

The bilinear rule of A = diag(a) - p p* needs no matrix inverse. With m[t] = (x[t-1] + x[t]) / 2 the rule is
x[t] - x[t-1] = dt (A m[t] + B u[t]); so it is the rule of diag(a) alone with a second input, -p times the number p* m[t],
which is linear in x[t-1] and u[t]. Solving for it is the Woodbury identity.
"""

import math
from functools import cache

import numpy as np
import torch
from jaxtyping import Complex, Float, Inexact
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Reals = NDArray[np.floating]
Complexes = NDArray[np.complexfloating]
Operator = tuple[Reals, Reals]


def legs(size: int) -> Operator:
    """Legendre polynomials over all of the past, exponentially warped: x weighs the input s ago by exp(-s)."""
    n = np.arange(size)
    root = np.sqrt(2 * n + 1)
    return -np.tril(np.outer(root, root), -1) - np.diag(n + 1.0), root


def legt(size: int, window: float = 1.0) -> Operator:
    """Legendre polynomials over the last `window` of time, each weighing the same."""
    n = np.arange(size)
    root = np.sqrt(2 * n + 1)
    sign = np.where(n <= n[:, None], 1.0, (-1.0) ** (n[:, None] - n))
    return -np.outer(root, root) * sign / window, root / window


def lagt(size: int) -> Operator:
    """Laguerre functions of the past: x weighs the input s ago by L_n(s) exp(-s/2)."""
    return 0.5 * np.eye(size) - np.tril(np.ones((size, size))), np.ones(size)


def fourier(size: int, window: float = 1.0) -> Operator:
    """Sines and cosines over the last `window` of time; `size` is even."""
    frequency = math.pi * np.arange(size // 2)
    turn = np.zeros((size, size))
    even = np.arange(0, size, 2)
    turn[even, even + 1], turn[even + 1, even] = -frequency, frequency
    drive = np.zeros(size)
    drive[0], drive[2::2] = 1, math.sqrt(2)
    return (turn - np.outer(drive, drive)) * 2 / window, drive * 2 / window


@cache
def legs_normal(size: int) -> tuple[Complexes, Reals, Complexes]:
    """LegS as V (diag(a) - p p*) V*, from each conjugate pair the one with positive frequency, ascending: a, p and V.

    `size` is even. The phase of an eigenvector is free; it is chosen so that p = V* P is real and positive, and then
    V* B = sqrt(2) p.
    """
    operator, _ = legs(size)
    low_rank = np.sqrt(np.arange(size) + 0.5)
    skew = operator + np.outer(low_rank, low_rank) + 0.5 * np.eye(size)
    frequency, vectors = np.linalg.eigh(skew.astype(np.complex128) * -1j)
    frequency, vectors = frequency[size // 2 :], vectors[:, size // 2 :]
    projected = vectors.conj().T @ low_rank
    length = np.abs(projected)
    return -0.5 + 1j * frequency, length, vectors * np.divide(projected, length)


def bilinear(a: Inexact[Tensor, "*many n n"], b: Inexact[Tensor, "*many n"], dt: float):
    """Discrete A and B of the trapezoidal rule, dense."""
    one = torch.eye(a.shape[-1], dtype=a.dtype)
    implicit = one - dt / 2 * a
    return torch.linalg.solve(implicit, one + dt / 2 * a), torch.linalg.solve(implicit, dt * b)


def zoh(a: Inexact[Tensor, "*many n n"], b: Inexact[Tensor, "*many n"], dt: float):
    """Discrete A and B for an input that holds its value over a step, dense; A may be singular."""
    rows = torch.cat([a, b[..., None]], -1) * dt
    n = a.shape[-1]
    both = torch.linalg.matrix_exp(F.pad(rows, (0, 0, 0, 1)))
    return both[..., :n, :n], both[..., :n, n]


def diagonal_bilinear(a: Complex[Tensor, "*n"], dt: Float[Tensor, "*m"]):
    """Discrete decay of each state, and what its drive is multiplied by."""
    half = 1 / (1 - dt / 2 * a)
    return (1 + dt / 2 * a) * half, dt * half


def diagonal_zoh(a: Complex[Tensor, "*n"], dt: Float[Tensor, "*m"]):
    """Discrete decay of each state, and what its drive is multiplied by; a is not zero."""
    return torch.exp(dt * a), torch.expm1(dt * a) / a


def dplr_bilinear(
    a: Complex[Tensor, "channels modes"],
    p: Complex[Tensor, "channels modes"],
    b: Complex[Tensor, "channels modes"],
    dt: Float[Tensor, "channels 1"],
):
    """The bilinear rule of diag(a) - p p*, states in conjugate pairs: x[t] = decay x[t-1] - push s[t] + drive u[t], where
    s[t] = 2 Re(sense . x[t-1]). Returns decay, drive, push, sense."""
    decay, gain = diagonal_bilinear(a, dt)
    push, sense = gain * p, p.conj() * gain / dt
    back = 1 + (p.conj() * push).real.sum(-1, keepdim=True)  # 1 + p* (1/dt - a/2)^-1 p / 2 over both of each pair
    through = (p.conj() * gain * b).real.sum(-1, keepdim=True) / back
    return decay, gain * b - push * through, push, sense / back
