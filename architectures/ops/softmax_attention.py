"""Softmax attention: torch's fused form, and one of batched matrix products for short sequences on a CPU.

    S = q k^T / sqrt(d),  P = exp(S - log D),  y = P v,  D = sum of exp S over the keys that a query sees
    dv = P^T dy,  dS = P (dy v^T - dy . y),  dq = dS k / sqrt(d),  dk = dS^T q / sqrt(d)

With some hundred keys the fused form takes two to nine times as long there as these products. `TILE` scores are held
at a time, of `ROWS` queries of as many sequences as fit, and nothing of that size is kept: the way back makes P again. Powers are
those of two, which torch is four times as quick at, of S / log 2. Numbers narrower than float32 are taken in float32.

One query that meets more keys than a cache holds, as in decoding, is a kernel (ops/kernels/softmax_attention.py): half the time.
"""

import math
from collections.abc import Iterator
from types import ModuleType

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from architectures.ops import native
from architectures.ops.precision import full_precision, quick_start

LOG2 = math.log(2)
ROWS, TILE = 64, 2**20
LONG = 1024  # keys from which on the fused form is as fast
LONE = 16  # queries up to which it is, with a quick start
FEW = 16**3  # multiplications in a product up to which torch gives it a quick start itself
FAR = 2048  # keys from which on one query is a kernel

Heads = Float[Tensor, "batch heads length width"]
Keys = Float[Tensor, "batch heads total width"]
Values = Float[Tensor, "batch heads total values"]
Found = Float[Tensor, "batch heads length values"]
Rows = Float[Tensor, "batch heads length"]
Seen = Bool[Tensor, "length total"]


def softmax_attention(q: Heads, k: Keys, v: Values, *, causal: bool = False, seen: Seen | None = None) -> Found:
    """The queries are those of the last keys where it is causal; else each sees all keys, or those in its row of `seen`."""
    new, total = q.shape[2], k.shape[2]
    if short(q, k) or (causal and LONE < new < total and products(q)):
        return native.call(_Products, q, k, v, causal, seen)
    far = new == 1 and total >= FAR and seen is None and not torch.is_grad_enabled()
    if far and (found := native.kernels("softmax_attention", q, k, v)):
        return _one_query(found, q, k, v)
    if causal and new < total:
        seen, causal = torch.ones(new, total, dtype=torch.bool, device=q.device).tril(total - new), False
    return fused(q, k, v, seen, causal=causal)


def fused(q: Heads, k: Keys, v: Values, mask: Tensor | None = None, *, causal: bool = False) -> Found:
    """torch's own, whose products for few queries are small."""
    with quick_start(q.is_cpu and q.shape[2] <= LONE):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def _one_query(kernels: ModuleType, q: Heads, k: Keys, v: Values) -> Found:
    heads, total, y = k.shape[1], k.shape[2], q.new_empty(*q.shape[:3], v.shape[3])
    k, v = (x if x.stride()[2:] == (x.shape[3], 1) else x.contiguous() for x in (k, v))
    steps = *k.stride()[:2], *v.stride()[:2]
    given = q.contiguous().flatten(0, 1), native.flat(k), native.flat(v), y.flatten(0, 1)
    native.run(kernels.forward, len(q) * heads, heads, total, 1 / math.sqrt(q.shape[3]), *steps, *given)
    return y


def products(q: Tensor) -> bool:
    """Whether the form of products is worth it where these queries are."""
    return q.is_cpu and not native.watched()


def short(q: Heads, k: Keys) -> bool:
    """Whether it is as well for so many keys."""
    new, total, width = q.shape[2], k.shape[2], q.shape[3]
    return new > LONE and total < LONG and new * total * width > FEW and products(q)


def attended(q: Heads, k: Keys, v: Values, *, causal: bool, seen: Seen | None = None) -> tuple[Found, Rows]:
    """y and log D."""
    with full_precision(q):
        queries, keys, values = _scaled(q), _flat(k).mT.contiguous(), _flat(v)
        y, logs = values.new_empty(*queries.shape[:2], v.shape[3]), values.new_empty(*queries.shape[:2], 1)
        for (some, rows, columns), scores in _tiles(queries, keys, causal, seen):
            most = scores.amax(2, keepdim=True)
            total = scores.sub_(most).exp2_().sum(2, keepdim=True)
            torch.bmm(scores, values[some, columns], out=y[some, rows])
            y[some, rows] /= total
            logs[some, rows] = total.log2_().add_(most)
        return y.view(*q.shape[:3], -1).to(q.dtype), logs.view(q.shape[:3]).mul_(LOG2)


def gradients(
    grad: Found, q: Heads, k: Keys, v: Values, y: Found, logs: Rows, *, causal: bool, seen: Seen | None = None
) -> tuple[Heads, Keys, Values]:
    """Those of queries, keys and values; y and the logarithms may be of more keys than these."""
    with full_precision(q):
        queries, keys, values, grads = _scaled(q), _flat(k), _flat(v), _flat(grad)
        logs, along = logs.flatten(0, 1)[..., None] / LOG2, (grads * _flat(y)).sum(2, keepdim=True)
        turned, read = keys.mT.contiguous(), values.mT.contiguous()
        to_q, to_k, to_v = torch.empty_like(queries), torch.zeros_like(keys), torch.zeros_like(values)
        for (some, rows, columns), weights in _tiles(queries, turned, causal, seen):
            weights.sub_(logs[some, rows]).exp2_()
            to_v[some, columns].baddbmm_(weights.mT, grads[some, rows])
            to_scores = torch.bmm(grads[some, rows], read[some, :, columns]).sub_(along[some, rows]).mul_(weights)
            torch.bmm(to_scores, keys[some, columns], out=to_q[some, rows])
            to_k[some, columns].baddbmm_(to_scores.mT, queries[some, rows])
        to_q, to_k = to_q.div_(math.sqrt(q.shape[3])), to_k.mul_(LOG2)
        return to_q.view(q.shape).to(q.dtype), to_k.view(k.shape).to(k.dtype), to_v.view(v.shape).to(v.dtype)


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, causal: bool, seen: Tensor | None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        y, logs = attended(q, k, v, causal=causal, seen=seen)
        ctx.save_for_backward(q, k, v, y, logs)
        ctx.causal, ctx.seen = causal, seen
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        return *gradients(grad, *ctx.saved_tensors, causal=ctx.causal, seen=ctx.seen), None, None


def _tiles(
    queries: Tensor, keys: Tensor, causal: bool, seen: Tensor | None
) -> Iterator[tuple[tuple[slice, slice, slice], Float[Tensor, "sequences rows columns"]]]:
    """Sequences, queries and the keys that they may see, with their scores, which last until the next ones are asked for."""
    (many, new), total = queries.shape[:2], keys.shape[2]
    height, past = min(ROWS, new), total - new
    group = min(many, max(1, TILE // (height * total)))
    buffer = queries.new_empty(group * height * total)
    hidden = None if seen is None else torch.zeros_like(seen, dtype=queries.dtype).masked_fill_(~seen, -math.inf)
    ahead = queries.new_full((height, height), -math.inf).triu_(1)
    for first in range(0, many, group):
        some = slice(first, min(first + group, many))
        for start in range(0, new, height):
            rows = slice(start, min(start + height, new))
            columns = slice(0, past + rows.stop if causal else total)
            count = rows.stop - start
            scores = buffer[: (some.stop - first) * count * columns.stop].view(-1, count, columns.stop)
            torch.bmm(queries[some, rows], keys[some, :, columns], out=scores)
            if causal:
                scores[:, :, -count:] += ahead[:count, :count]
            if hidden is not None:
                scores += hidden[rows]
            yield (some, rows, columns), scores


def _flat(x: Tensor) -> Tensor:
    """All sequences in a row, in a precision that is wide enough."""
    return x.flatten(0, 1).to(torch.promote_types(x.dtype, torch.float32)).contiguous()


def _scaled(q: Tensor) -> Tensor:
    return _flat(q) / (math.sqrt(q.shape[3]) * LOG2)
