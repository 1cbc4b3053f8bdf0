"""Additive attention of each position to all strictly earlier ones (Bahdanau et al., arXiv:1409.0473, appendix A.1.2).

    e[t,j] = u . tanh(q[t] + k[j]),  j < t;   c[t] = sum_j softmax_j(e[t])[j] v[j],  and 0 where nothing is earlier

Fast form: a compiled loop over pairs, there and back (ops/kernels/additive_attention.py). In tensors: the triangle of pairs j < t
is cut into squares that need no mask: at level 0, 1, 2, ... every second block of 2^level positions attends to the block before
it, and one softmax over the levels' log-denominators joins what they found. So exactly L(L-1)/2 pairs are computed. A square is
read in slices of queries, and backward recomputes a slice: nothing of all pairs is kept. tanh x = 1 - 2 logistic(-2x), and what
is the same for all keys is nothing to a softmax, so scores are sums of -2u logistic(-2q - 2k), there and back by hand.
"""

import math
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from architectures.ops import native
from architectures.ops.precision import full_precision

PAIRS = 2**15  # pairs of one sequence that the form in tensors holds at once
LARGEST = 20.0  # of queries and keys whose exponentials may be multiplied: e^80 is a float32
PARTS = 4  # that few sequences are divided into

Sequence = Float[Tensor, "batch length width"]
Past = Float[Tensor, "batch past width"]
Values = Float[Tensor, "batch length dim"]
PastValues = Float[Tensor, "batch past dim"]


def additive_attention(q: Sequence, k: Sequence, v: Values, u: Float[Tensor, " width"], old_k: Past, old_v: PastValues) -> Values:
    """c of every position, from all of the old keys and values and what is earlier of the new ones."""
    dtype, wide = v.dtype, torch.promote_types(v.dtype, torch.float32)
    q, k, v, u, old_k, old_v = (x.to(wide) for x in (q, k, v, u, old_k, old_v))
    if kernels := native.kernels("additive_attention", q, k, v, u, old_k, old_v):
        return native.call(_Kernel, kernels, q, torch.cat([old_k, k], 1), torch.cat([old_v, v], 1), u).to(dtype)
    with full_precision(q):
        return _in_squares(-2 * q, -2 * k, v, -2 * u, -2 * old_k, old_v).to(dtype)


class _Kernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx, kernels: ModuleType, q: Tensor, k: Tensor, v: Tensor, u: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        multiplied = all(not x.numel() or x.abs().max().item() <= LARGEST for x in (q, k))
        a, b = ((2 * x).exp() if multiplied else 2 * x for x in (q, k))
        a, b, v, u = a.contiguous(), b.contiguous(), v.contiguous(), -2 * u
        y, logs = v.new_zeros(*q.shape[:2], v.shape[2]), v.new_empty(q.shape[:2])
        native.run(kernels.forward, *_work(q), multiplied, a, b, u, v, y, logs)
        ctx.kernels, ctx.multiplied = kernels, multiplied
        ctx.save_for_backward(a, b, u, v, y, logs)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        a, b, u, v, y, logs = ctx.saved_tensors
        items, parts = _work(a)
        to_a, to_u = torch.zeros_like(a), u.new_zeros(items, len(u))
        to_b, to_v = (x.new_zeros(items, *x.shape[1:]) for x in (b, v))
        given = a, b, u, v, y, logs, grad.contiguous()
        native.run(ctx.kernels.backward, items, parts, ctx.multiplied, *given, to_a, to_b, to_u, to_v)
        to_k, to_v = (x.unflatten(0, (-1, parts)).sum(1) for x in (to_b, to_v))
        return None, to_a * (-2 * u), to_k * (-2 * u), to_v, -2 * to_u.sum(0)


def _work(q: Tensor) -> tuple[int, int]:
    """Items of work and parts of a sequence, of which only the number of sequences decides."""
    parts = PARTS if len(q) < PARTS else 1
    return len(q) * parts, parts


def _in_squares(q: Tensor, k: Tensor, v: Tensor, u: Tensor, old_k: Tensor, old_v: Tensor) -> Tensor:
    batch, length, _ = v.shape
    nothing = v.new_full((batch, length), -math.inf)
    first = torch.cat([torch.zeros_like(nothing[:, :1]), nothing[:, 1:]], 1)  # the only context there is no past for
    found = [(first, torch.zeros_like(v))]
    if old_v.shape[1]:
        logs, context = _square(q[:, None], old_k[:, None], old_v[:, None], u)
        found = [(logs[:, 0], context[:, 0])]
    size = 1
    while size < length:
        found.append(_level(q, k, v, u, size, nothing))
        size *= 2
    weights = torch.stack([logs for logs, _ in found]).softmax(0)
    return (weights[..., None] * torch.stack([context for _, context in found])).sum(0)


def _level(q: Tensor, k: Tensor, v: Tensor, u: Tensor, size: int, nothing: Tensor) -> tuple[Tensor, Tensor]:
    """Every second block of `size` positions attends to the one before it; log-denominators and contexts of all positions."""
    length = v.shape[1]
    whole = length - length % (2 * size)
    logs, contexts = [], []
    for start, end in ((0, whole), (whole, length)):
        if end - start <= size:  # no block before the last one is left
            logs.append(nothing[:, start:end])
            contexts.append(torch.zeros_like(v[:, start:end]))
            continue
        pair = (-1, min(2 * size, end - start))
        q_n, k_n, v_n = (x[:, start:end].unflatten(1, pair) for x in (q, k, v))
        log, context = _square(q_n[:, :, size:], k_n[:, :, :size], v_n[:, :, :size], u)
        logs.append(torch.cat([nothing[:, start:end].unflatten(1, pair)[:, :, :size], log], 2).flatten(1, 2))
        contexts.append(torch.cat([torch.zeros_like(v_n[:, :, :size]), context], 2).flatten(1, 2))
    return torch.cat(logs, 1), torch.cat(contexts, 1)


def _square(q: Tensor, k: Tensor, v: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """All queries of a block attend to all its keys: (batch, blocks, rows) log-denominators and their contexts."""
    rows = max(1, PAIRS // (k.shape[1] * k.shape[2]))
    logs, contexts = zip(*(_Slice.apply(part, k, v, u) for part in q.split(rows, 2)), strict=True)  # pyright: ignore[reportGeneralTypeIssues]
    return torch.cat(logs, 2), torch.cat(contexts, 2)


class _Slice(torch.autograd.Function):
    """Some queries of a square."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        scores = F.linear(_logistic(q, k), u[None]).squeeze(-1)
        logs = scores.logsumexp(-1)
        context = (scores - logs[..., None]).exp() @ v
        ctx.save_for_backward(q, k, v, u, logs, context)
        return logs, context

    @staticmethod
    @once_differentiable
    def backward(ctx, to_logs: Tensor, to_context: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, u, logs, context = ctx.saved_tensors
        with full_precision(q):
            s = _logistic(q, k)
            weights = (F.linear(s, u[None]).squeeze(-1) - logs[..., None]).exp()
            change = weights * (to_context @ v.mT + (to_logs - (to_context * context).sum(-1))[..., None])
            to_u = change.flatten() @ s.flatten(0, 3)
            passed = s.addcmul_(s, s, value=-1).mul_(change[..., None])  # s (1 - s) is the logistic function's derivative
            return passed.sum(3) * u, passed.sum(2) * u, weights.mT @ to_context, to_u


def _logistic(q: Tensor, k: Tensor) -> Tensor:
    """Of the sums of all queries and keys."""
    return torch.add(q[:, :, :, None], k[:, :, None]).sigmoid_()
