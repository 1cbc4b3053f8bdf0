"""Softmax attention: torch's fused form, and on a CPU a compiled one, or one of batched matrix products.

    S = q k^T / sqrt(d),  P = exp(S - log D),  y = P v,  D = sum of exp S over the keys that a query sees
    dv = P^T dy,  dS = P (dy v^T - dy . y),  dq = dS k / sqrt(d),  dk = dS^T q / sqrt(d)

The compiled form (ops/kernels/softmax_attention.py) takes a tenth of the fused one's time with 64 keys, half with 1,024 and three
quarters with 16,384. It asks for widths that fill vectors. Where it cannot be, some hundred keys are taken by products, as the
fused form takes two to nine times as long there: `TILE` scores are held at a time, of `ROWS` queries of as many sequences as fit.
Powers are those of two, which torch is four times as quick at, of S / log 2. No form keeps scores: the way back makes P again.
Numbers narrower than float32 are taken in float32, which is the faster way even so.

One query that meets more keys than a cache holds, as in decoding, is a kernel of its own: half the time.
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
LONG = 1024  # keys from which on the fused form is as fast as products
SHORT = 32  # keys up to which these are faster than the compiled form
ITEMS = 16  # of compiled work that there should be; long sequences have parts
LONE = 16  # queries up to which it is, with a quick start
FEW = 16**3  # multiplications in a product up to which torch gives it a quick start itself
FAR = 2048  # keys from which on one query is a kernel

Heads = Float[Tensor, "batch heads length width"]
Keys = Float[Tensor, "batch heads total width"]
Values = Float[Tensor, "batch heads total values"]
Found = Float[Tensor, "batch heads length values"]
Rows = Float[Tensor, "batch heads length"]
Seen = Bool[Tensor, "length total"]
Flat = Float[Tensor, "heads _ _"]


def softmax_attention(q: Heads, k: Keys, v: Values, *, causal: bool = False, seen: Seen | None = None) -> Found:
    """The queries are those of the last keys where it is causal; else each sees all keys, or those in its row of `seen`."""
    new, total = q.shape[2], k.shape[2]
    if short(q, k, v) or (causal and LONE < new < total and products(q)):
        return native.call(_Attention, q, k, v, causal, seen)
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
    native.run(kernels.one_query, len(q) * heads, heads, total, 1 / math.sqrt(q.shape[3]), *steps, *given)
    return y


def products(q: Tensor) -> bool:
    """Whether forms of our own may run where these queries are."""
    return q.is_cpu and not native.watched()


def short(q: Heads, k: Keys, v: Values) -> bool:
    """Whether products are worth it for so many keys, or the compiled form is."""
    new, total, width = q.shape[2], k.shape[2], q.shape[3]
    return new > LONE and new * total * width > FEW and products(q) and (total < LONG or _compiled(q, k, v) is not None)


def _compiled(q: Tensor, k: Tensor, v: Tensor) -> ModuleType | None:
    """The kernels, where they can take these as `_flat` makes them, and should."""
    wide = [x.new_empty(0, dtype=_wide(x)) for x in (q, k, v)]
    whole = all(x.shape[-1] * like.element_size() % 32 == 0 for x, like in zip((q, k, v), wide, strict=True))
    return native.kernels("softmax_attention", *wide) if whole and k.shape[-2] > SHORT else None


def attended(q: Heads, k: Keys, v: Values, *, causal: bool, seen: Seen | None = None) -> tuple[Found, Rows]:
    """y and log D."""
    with full_precision(q):
        flat = _flat(q), _flat(k), _flat(v)
        kernels = _compiled(*flat)
        y, logs = _by_kernel(kernels, *flat, causal, seen) if kernels else _in_tiles(*flat, causal, seen)
        return y.view(*q.shape[:3], -1).to(q.dtype), logs.view(q.shape[:3])


def gradients(
    grad: Found, q: Heads, k: Keys, v: Values, y: Found, logs: Rows, *, causal: bool, seen: Seen | None = None
) -> tuple[Heads, Keys, Values]:
    """Those of queries, keys and values; y and the logarithms may be of more keys than these."""
    with full_precision(q):
        flat = _flat(q), _flat(k), _flat(v), _flat(y), logs.flatten(0, 1).contiguous(), _flat(grad)
        kernels = _compiled(*flat[:3])
        found = _back_by_kernel(kernels, *flat, causal, seen) if kernels else _back_in_tiles(*flat, causal, seen)
        to_q, to_k, to_v = (to_x.view(x.shape).to(x.dtype) for x, to_x in zip((q, k, v), found, strict=True))
        return to_q, to_k, to_v


def _by_kernel(kernels: ModuleType, q: Flat, k: Flat, v: Flat, causal: bool, seen: Seen | None) -> tuple[Flat, Tensor]:
    y, logs, parts = v.new_empty(*q.shape[:2], v.shape[2]), q.new_empty(q.shape[:2]), _parts(k)
    native.run(kernels.forward, parts * len(q), parts, causal, 1 / math.sqrt(q.shape[2]), q, k, v, _mask(seen), y, logs)
    return y, logs


def _back_by_kernel(
    kernels: ModuleType, q: Flat, k: Flat, v: Flat, y: Flat, logs: Tensor, grad: Flat, causal: bool, seen: Seen | None
) -> tuple[Flat, Flat, Flat]:
    parts = _parts(k)
    to_q, to_k, to_v = q.new_empty(len(q), parts, *q.shape[1:]), torch.empty_like(k), torch.empty_like(v)
    given = 1 / math.sqrt(q.shape[2]), q, k, v, _mask(seen), y, logs, grad, to_q, to_k, to_v
    native.run(kernels.backward, parts * len(q), parts, causal, *given)
    return to_q.sum(1) if parts > 1 else to_q[:, 0], to_k, to_v


def _parts(k: Flat) -> int:
    """Of a sequence, by shapes alone, so that the number of threads does not decide in which order sums are taken."""
    return max(1, min(-(-ITEMS // max(1, len(k))), k.shape[1] // LONG))


def _mask(seen: Seen | None) -> Tensor:
    return torch.empty(0, 0, dtype=torch.bool) if seen is None else seen.contiguous()


def _in_tiles(q: Flat, k: Flat, v: Flat, causal: bool, seen: Seen | None) -> tuple[Flat, Tensor]:
    y, logs = v.new_empty(*q.shape[:2], v.shape[2]), v.new_empty(*q.shape[:2], 1)
    for (some, rows, columns), scores in _tiles(_scaled(q), k.mT.contiguous(), causal, seen):
        most = scores.amax(2, keepdim=True)
        total = scores.sub_(most).exp2_().sum(2, keepdim=True)
        torch.bmm(scores, v[some, columns], out=y[some, rows])
        y[some, rows] /= total
        logs[some, rows] = total.log2_().add_(most)
    return y, logs[..., 0].mul_(LOG2)


def _back_in_tiles(
    q: Flat, k: Flat, v: Flat, y: Flat, logs: Tensor, grad: Flat, causal: bool, seen: Seen | None
) -> tuple[Flat, Flat, Flat]:
    queries, turned, read = _scaled(q), k.mT.contiguous(), v.mT.contiguous()
    logs, along = logs[..., None] / LOG2, (grad * y).sum(2, keepdim=True)
    to_q, to_k, to_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for (some, rows, columns), weights in _tiles(queries, turned, causal, seen):
        weights.sub_(logs[some, rows]).exp2_()
        to_v[some, columns].baddbmm_(weights.mT, grad[some, rows])
        to_scores = torch.bmm(grad[some, rows], read[some, :, columns]).sub_(along[some, rows]).mul_(weights)
        torch.bmm(to_scores, k[some, columns], out=to_q[some, rows])
        to_k[some, columns].baddbmm_(to_scores.mT, queries[some, rows])
    return to_q.div_(math.sqrt(q.shape[2])), to_k.mul_(LOG2), to_v


class _Attention(torch.autograd.Function):
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
    return x.flatten(0, 1).to(_wide(x)).contiguous()


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _scaled(queries: Tensor) -> Tensor:
    return queries / (math.sqrt(queries.shape[2]) * LOG2)
