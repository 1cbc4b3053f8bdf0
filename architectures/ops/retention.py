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
    q: Keys, k: Keys, v: Values, turn: Float[Tensor, "2 heads pairs"], state: Matrices
) -> tuple[Values, Matrices] | None:
    """y and the next S, or None where gradients are asked for or kernels cannot take these tensors.

    turn: gamma times cosine and sine.
    """
    if torch.is_grad_enabled() or (kernels := native.kernels("retention", q, k, v, turn, state)) is None:
        return None
    q, k, v, state = (x.contiguous() for x in (q, k, v, state))
    y, after = torch.empty_like(v), torch.empty_like(state)
    native.run(kernels.forward, len(v) * v.shape[2], 1 / math.sqrt(k.shape[3]), q, k, v, turn, state, y, after)
    return y, after
