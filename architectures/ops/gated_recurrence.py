"""Gated real recurrences h[t] = a[t] h[t-1] + b[t] whose decays depend on the input but never on h: one scan runs them.

RG-LRU    log a[t] = -8 softplus(lambda) r[t],   b[t] = sqrt(1 - a[t]^2) (i[t] x[t]),   r, i = sigmoid of the gates' logits
minGRU    a[t] = 1 - z[t],   b[t] = z[t] g(k[t]),   z = sigmoid of its logits,   g(k) = k + 1/2 where k >= 0, else sigmoid(k)

RG-LRU: De et al. (Griffin), arXiv:2402.19427, section 2.4. Nothing precedes the first position of a sequence, so its factor
sqrt(1 - a^2) is 1; elsewhere the derivative of the square root is at most 1000, as in the authors' recurrentgemma.
minGRU: Feng et al., arXiv:2410.01201, section 3.1 and, for g, the log-space form in its appendix.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from architectures.ops.scan import scan, scan_definition

SHARPNESS = 8.0
RG_LRU = 14
"""Operations of a position and state: two biases and sigmoids (4), log a, a, the root (2 log a, expm1, minus, sqrt), i x, its
product, and the recurrence (2)."""
MIN_GRU = 9
"""Operations of a position and state: two biases, z, 1 - z, g's comparison and its branch, z g, and the recurrence (2)."""

Values = Float[Tensor, "batch length states"]
State = Float[Tensor, "batch states"]


def rg_lru(x: Values, r: Values, i: Values, decay: Float[Tensor, "states"], initial: State | None) -> Values:
    """All h[t] from the gates' logits r and i; `initial` is h[-1], None at the start of a sequence."""
    a, b = _rg_lru_terms(x, r, i, decay, first=initial is None)
    return scan(a, b, b.new_zeros(b[:, 0].shape) if initial is None else initial)


def rg_lru_definition(x: Tensor, r: Tensor, i: Tensor, decay: Tensor, initial: Tensor | None) -> Tensor:
    """Position by position, by the plain formula."""
    h, out = torch.zeros_like(x[:, 0]) if initial is None else initial, []
    for t in range(x.shape[1]):
        a = torch.exp(-SHARPNESS * F.softplus(decay) * torch.sigmoid(r[:, t]))
        gain = torch.ones_like(a) if initial is None and t == 0 else torch.sqrt(1 - a**2)
        h = a * h + gain * torch.sigmoid(i[:, t]) * x[:, t]
        out.append(h)
    return torch.stack(out, 1)


def min_gru(z: Values, k: Values, initial: State) -> Values:
    """All h[t] from the logits z of the gate and the candidates before g."""
    gate = torch.sigmoid(z)
    return scan(1 - gate, gate * positive(k), initial)


def min_gru_definition(z: Tensor, k: Tensor, initial: Tensor) -> Tensor:
    """Position by position."""
    return scan_definition(1 - torch.sigmoid(z), torch.sigmoid(z) * positive(k), initial)


def positive(k: Tensor) -> Tensor:
    """minGRU's g: continuous, increasing, above 0."""
    return torch.where(k >= 0, k + 0.5, torch.sigmoid(k))


def _rg_lru_terms(x: Tensor, r: Tensor, i: Tensor, decay: Tensor, *, first: bool) -> tuple[Tensor, Tensor]:
    log_a = -SHARPNESS * F.softplus(decay) * torch.sigmoid(r)
    gain = _Root.apply(-torch.expm1(2 * log_a))  # 1 - a^2 would cancel as a nears 1
    if first:
        gain = torch.cat([torch.ones_like(gain[:, :1]), gain[:, 1:]], 1)
    return torch.exp(log_a), gain * (torch.sigmoid(i) * x)


class _Root(torch.autograd.Function):
    """Square root with a derivative of at most 1000."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        root = x.sqrt()
        ctx.save_for_backward(root)
        return root

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (root,) = ctx.saved_tensors
        return grad / (2 * root).clamp_min(1e-3)
