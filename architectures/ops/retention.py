"""Retention of one position, S <- gamma R^-1 S + k^T v / sqrt(width) and y = q S, where nothing asks for gradients.

R turns the pairs of keys (2m, 2m + 1), a head loses 1 - gamma: one compiled loop (ops/kernels/retention.py). Longer pieces are
linear attention with turned queries and keys (architectures/retnet.py).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from architectures.ops import native

Keys = Float[Tensor, "batch 1 heads key"]
Values = Float[Tensor, "batch 1 heads value"]
Matrices = Float[Tensor, "batch heads key value"]


def retention_step(
    q: Keys, k: Keys, v: Values, decay: Float[Tensor, " heads"], angle: Float[Tensor, " pairs"], state: Matrices
) -> tuple[Values, Matrices] | None:
    """y and the next S, or None where gradients are asked for or kernels cannot take these tensors."""
    if torch.is_grad_enabled() or (kernels := native.kernels("retention", q, k, v, decay, angle, state)) is None:
        return None
    y, after, scale = v.new_empty(v.shape), state.new_empty(state.shape), 1 / math.sqrt(k.shape[3])
    given = (x.contiguous() for x in (q, k, v, angle, decay, state))
    native.run(kernels.forward, len(v) * v.shape[2], scale, *given, y, after)
    return y, after
