"""Recurrences whose state is a matrix S of keys by values, one for each head, each read out as y[t] = q[t] S[t].

    linear attention   S[t] = diag(a[t]) S[t-1] + k[t]^T v[t]                   a: a number for each head, or one for each key
    delta rule         S[t] = a[t] (I - beta[t] k[t]^T k[t]) S[t-1] + beta[t] k[t]^T v[t]         a: a number for each head

Fast forms are one compiled loop over time for each head (ops/kernels/linear_attention.py); where a head has one decay and the
state some size, they are chunks as products of matrices, with decays and carry compiled. In tensors they work in chunks:
products within, a recurrence between. A sequence is cut into whole chunks and, for what is left, smaller powers of two, so
nothing is padded. Every decay in use is a product of decays in [0, 1], built without a difference or a quotient, so that none
overflows and none loses digits:

* a number for each head: the sums of log decays between all pairs of a chunk (Dao & Gu, arXiv:2405.21060, section 6), or, where
  compiled, the products of decays;
* one for each key (Yang et al., arXiv:2312.06635, section 4): blocks are joined in pairs up to a chunk, and across the border
  queries have decayed since the border and keys until it, where e^G q and e^-G k about the chunk's start would overflow;
* delta rule (Yang et al., arXiv:2406.06484, section 3; with decay arXiv:2412.06464, section 3.3): with D[i, j] the decay from j
  to i, the written values are U = (I + A)^-1 diag(beta) (V - e^G K S), A[i, j] = beta[i] D[i, j] k[i] k[j] for j < i.

The state's dtype is the dtype of all of it, whatever autocast says.
"""

import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from architectures.backbone import Flops
from architectures.ops import fla, native
from architectures.ops.precision import full_precision
from architectures.ops.scan import scan, scan_flops

CHUNK = 32
LONG, WIDE = 16, 512  # positions, and numbers in a state, from which products of matrices are faster than a compiled loop
SIZE, TOGETHER = 64, 16  # their chunks, and how many of them the cache holds

Queries = Float[Tensor, "batch length #heads key"]
Values = Float[Tensor, "batch length heads value"]
Matrices = Float[Tensor, "batch heads key value"]


def linear_attention(
    q: Queries, k: Queries, v: Values, log_decay: Float[Tensor, "#batch length heads"], state: Matrices
) -> tuple[Values, Matrices]:
    """All y and the last S, a decay for each head. Queries and keys of one head serve all."""
    given = _given(state, q, k, v, log_decay)
    if (kernels := native.kernels("linear_attention", *given)) is not None:
        q, k, v, log_decay, state = given
        if v.shape[1] >= LONG and k.shape[3] * v.shape[3] >= WIDE:
            return native.call(_Products, kernels, q, k, v, log_decay.expand(v.shape[:3]), state)
        return native.call(_Linear, kernels, q, k, v, log_decay.exp().expand(v.shape[:3])[..., None], state)
    if (found := fla.kernels("simple_gla", v.shape[1], state)) is not None:
        return fla.simple_gla(found, *given)
    return _in_chunks(_linear, state, q, k, v, log_decay)


def gated_linear_attention(
    q: Queries, k: Queries, v: Values, decay: Float[Tensor, "batch length heads key"], state: Matrices
) -> tuple[Values, Matrices]:
    """All y and the last S, a decay for each key."""
    given = _given(state, q, k, v, decay)
    if (kernels := native.kernels("linear_attention", *given)) is not None:
        return native.call(_Linear, kernels, *given)
    if (found := fla.kernels("gla", v.shape[1], state)) is not None:
        return fla.gla(found, *given)
    return _in_chunks(_gated, state, q, k, v, decay)


def delta_rule(
    q: Queries,
    k: Queries,
    v: Values,
    beta: Float[Tensor, "batch length heads"],
    log_decay: Float[Tensor, "batch length heads"] | None,
    state: Matrices,
) -> tuple[Values, Matrices]:
    """All y and the last S; no `log_decay` is no decay."""
    decays = () if log_decay is None else (log_decay,)
    given = _given(state, q, k, v, beta, *decays)
    if (kernels := native.kernels("linear_attention", *given)) is not None:
        q, k, v, beta, *rest, state = given
        return native.call(_Delta, kernels, q, k, v, beta, rest[0].exp() if rest else torch.ones_like(beta), state)
    rule = "gated_delta_rule" if decays else "delta_rule"
    if (found := fla.kernels(rule, v.shape[1], state)) is not None:
        return getattr(fla, rule)(found, *given)
    return _in_chunks(_delta, state, q, k, v, beta, *decays)


def linear_attention_definition(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence as it is written; `decay` ends in an axis of keys, or of one."""
    out = []
    for t in range(v.shape[1]):
        state = decay[:, t, :, :, None] * state + k[:, t, :, :, None] * v[:, t, :, None, :]
        out.append((q[:, t, :, :, None] * state).sum(-2))
    return torch.stack(out, 1), state


def delta_rule_definition(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence as it is written."""
    out = []
    for t in range(v.shape[1]):
        state = decay[:, t, :, None, None] * state
        error = v[:, t] - (k[:, t, :, :, None] * state).sum(-2)
        state = state + (beta[:, t, :, None] * k[:, t])[..., None] * error[:, :, None, :]
        out.append((q[:, t, :, :, None] * state).sum(-2))
    return torch.stack(out, 1), state


def linear_attention_flops(length: int, heads: int, key: int, value: int, *, groups: int | None = None) -> Flops:
    """`groups`: the heads of queries and keys where they are fewer.

    Contraction in a chunk: scores, their product with the values, the state's update and its reading. Mixing: sum, exp and
    product for each pair; two for each position's decay, and of the values it decays, reads and adds; the carry. The recurrence:
    update and reading; decay, its exp, and the product of the state with it.
    """
    total = Flops()
    for chunks, size in pieces(length):
        contraction = 2 * size**2 * (key * (groups or heads) + value * heads) + 4 * size * key * value * heads
        mixing = heads * (3 * size * (size - 1) // 2 + size * (2 + 3 * value)) + _carry_flops(heads, key, value)
        total = total + Flops(contraction, mixing) * chunks
    return total.or_cheaper(Flops(4 * key * value, key * value + 1) * (length * heads))


def gated_linear_attention_flops(length: int, heads: int, key: int, value: int) -> Flops:
    """Contraction: as many scores as there are earlier positions in the chunk, times keys and values; update and reading.

    Mixing: each position by itself (q k) v and its decay of q; for each doubling of the blocks, half of the queries, keys
    and outputs, and a block's decay; what was read is added; the carry. The recurrence: update, reading; decay.
    """
    total = Flops()
    for chunks, size in pieces(length):
        contraction = size * (size - 1) * (key + value) + 4 * size * key * value
        doublings = (size.bit_length() - 1) * size // 2 * (2 * key + value) + (size - 1) * key
        mixing = size * (3 * key + 2 * value) + doublings
        total = total + Flops(heads * contraction, heads * mixing + _carry_flops(heads, key, value)) * chunks
    return total.or_cheaper(Flops(4 * key * value, key * value) * (length * heads))


def delta_rule_flops(length: int, heads: int, key: int, value: int, *, decays: bool) -> Flops:
    """Contraction: keys with keys, queries with keys, scores with values, and the state met by keys, queries and update.

    Mixing: beta on earlier pairs and on the right sides, the triangular solve, the state taken off the values, the update and
    what was read added; and with a decay: sum, exp and two products for each pair, two for each position and its three
    products with keys and queries, and the decay of the state. The recurrence: the error's product, update and reading; error,
    beta on the keys, and the decay with its exp.
    """
    total = Flops()
    for chunks, size in pieces(length):
        contraction = 2 * size**2 * (2 * key + value) + 6 * size * key * value
        pairs = size * (size - 1) // 2
        mixing = pairs + size * (key + value) + 2 * pairs * (key + value) + 2 * size * value + key * value
        if decays:
            mixing += 4 * pairs + size * (2 + 3 * key) + key * value
        total = total + Flops(contraction, mixing) * (heads * chunks)
    recurrence = Flops(6 * key * value, key + value + (key * value + 1) * decays)
    return total.or_cheaper(recurrence * (length * heads))


def step_bias(count: int) -> Float[Tensor, " count"]:
    """Initial biases whose softplus is log-uniform in [0.001, 0.1], for steps and decays read from the input."""
    step = torch.exp(math.log(0.001) + torch.rand(count) * math.log(100))
    return step + torch.log(-torch.expm1(-step))


def pieces(length: int) -> list[tuple[int, int]]:
    """How many chunks of which size a sequence is cut into, in order."""
    sizes = [(length // CHUNK, CHUNK)]
    sizes += [(1, 1 << bit) for bit in reversed(range(CHUNK.bit_length() - 1)) if length % CHUNK >> bit & 1]
    return [(chunks, size) for chunks, size in sizes if chunks]


def _given(state: Tensor, *inputs: Tensor) -> list[Tensor]:
    """All in the state's dtype, the state last."""
    return [*(x.to(state.dtype) for x in inputs), state]


class _Linear(torch.autograd.Function):
    """The compiled loop; the last axis of the decay is of keys, or of one."""

    @staticmethod
    def forward(ctx, kernels: ModuleType, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, state: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, decay, state = (x.contiguous() for x in (q, k, v, decay, state))
        y, last, marks = torch.empty_like(v), torch.empty_like(state), _marks(ctx, v, state, kernels.SPAN)
        native.run(kernels.forward, len(v) * v.shape[2], q, k, v, decay, y, state, last, marks)
        ctx.kernels = kernels
        ctx.save_for_backward(q, k, v, decay, marks)
        return y, last

    @staticmethod
    def backward(ctx, grad: Tensor, to_last: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, decay, marks = ctx.saved_tensors
        to_q, to_k = v.new_zeros(2, *v.shape[:3], k.shape[3]).unbind()
        to_v, to_decay, to_state = (
            torch.empty_like(v),
            torch.empty_like(decay),
            to_last.mT.clone(memory_format=torch.contiguous_format),
        )
        given = q, k, v, decay, marks, grad.contiguous()
        native.run(ctx.kernels.backward, len(v) * v.shape[2], *given, to_q, to_k, to_v, to_decay, to_state)
        if q.shape[2] < v.shape[2]:
            to_q, to_k = (x.unflatten(2, (q.shape[2], -1)).sum(3) for x in (to_q, to_k))
        return None, to_q, to_k, to_v, to_decay, to_state.mT


class _Products(torch.autograd.Function):
    """A decay for each head, in chunks: products of matrices, and decays and carry compiled.

    The way back computes all but the states that blocks begin with again. The gradient of a log decay is the sum of what is
    carried past its position: no difference, no quotient.
    """

    @staticmethod
    def forward(ctx, kernels: ModuleType, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, decay = _rows(q), _rows(k), v.contiguous(), log_decay.exp().contiguous()
        y, last, marks = torch.empty_like(v), state.clone(memory_format=torch.contiguous_format), []
        with full_precision(state):
            for states, q_n, k_n, v_n, decay_n, y_n in _blocks(v.shape[1], last, q, k, v, decay, y):
                marks.append(states.clone())
                q_n, k_n = _apart(q_n), _apart(k_n)
                weights, since, _, _, before = _states(kernels, q_n, k_n, v_n, decay_n, states)
                read, within = _together(q_n @ before, v_n), _together(weights @ _apart(v_n), v_n)
                torch.addcmul(within, read, since[..., None], out=y_n)
        ctx.kernels = kernels
        ctx.save_for_backward(q, k, v, decay, *marks)
        return y, last

    @staticmethod
    def backward(ctx, grad: Tensor, to_last: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, decay, *marks = ctx.saved_tensors
        kernels, grad, to_state = ctx.kernels, grad.contiguous(), to_last.clone(memory_format=torch.contiguous_format)
        to_q, to_k, to_v, to_log = (x.new_empty(x.shape) for x in (q, k, v, decay))
        blocks = [*_blocks(v.shape[1], to_state, q, k, v, decay, grad, to_q, to_k, to_v, to_log)]
        with full_precision(v):
            for mark, block in zip(reversed(marks), reversed(blocks), strict=True):
                to_states, q_n, k_n, v_n, decay_n, grad_n, to_q_n, to_k_n, to_v_n, to_log_n = block
                q_n, k_n, to_within = _apart(q_n), _apart(k_n), _apart(grad_n)
                weights, since, until, late, before = _states(kernels, q_n, k_n, v_n, decay_n, mark.clone())
                positions, across = since.shape[0] * since.shape[1], torch.empty_like(since[:, 0])
                to_since, to_until = torch.empty_like(since), torch.empty_like(since)
                # each read is replaced by the decayed gradients or values that it meets
                to_read = q_n @ before if ctx.needs_input_grad[4] else torch.zeros_like(late)
                native.run(kernels.meet, positions, grad_n, since, to_read, to_since)
                after = q_n.mT @ to_read
                native.run(kernels.carry_back, to_states[:, :, 0, 0].numel(), since, before, after, to_states, across)
                met = k_n @ after
                torch.addcmul(_together(weights.mT @ to_within, v_n), _together(met, v_n), until[..., None], out=to_v_n)
                native.run(kernels.meet, positions, v_n, until, met, to_until)
                to_weights, to_scores = to_within @ _apart(v_n).mT, weights.new_empty(len(q_n), *weights.shape[1:])
                given = decay_n, to_weights, weights, to_since, to_until, across, to_scores, to_log_n
                native.run(kernels.pairs, len(q_n), *given)
                to_q_n.copy_(_together((to_scores @ k_n).baddbmm_(to_read, before.mT), to_q_n))
                to_k_n.copy_(_together((to_scores.mT @ q_n).baddbmm_(late, after.mT), to_k_n))
        return None, to_q, to_k, to_v, to_log, to_state


def _blocks(length: int, state: Tensor, *inputs: Tensor) -> Iterator[list[Tensor]]:
    """States and inputs of `TOGETHER` neighbouring chunks, of one sequence or of whole ones: (chunks, size, ...).

    A size that divides the length is taken if there is one; else a smaller chunk ends each sequence.
    """
    sizes = range(min(SIZE, length), min(SIZE // 2, length - 1), -1)
    size = next((size for size in sizes if length % size == 0), SIZE)
    most = TOGETHER * size
    several = max(most // length, 1) if length % size == 0 else 1
    steps = [most] * (length // most) + [step for step in (length % most // size * size, length % size) if step]
    flat = [x.flatten(0, 1) for x in inputs]
    for first in range(0, len(state), several):
        states, start = state[first : first + several], first * length
        for step in steps:
            stop = start + step * len(states)
            yield [states, *(x[start:stop].unflatten(0, (-1, min(size, step))) for x in flat)]
            start = stop


def _states(kernels: ModuleType, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, state: Tensor) -> tuple[Tensor, ...]:
    """Decayed scores, decays up to and from each position, values decayed until the end, and the states before the chunks.

    `state` becomes that after the last.
    """
    chunks, size, heads = v.shape[:3]
    weights, (since, until) = v.new_empty(chunks * heads, size, size), v.new_empty(2, *decay.shape).unbind()
    native.run(kernels.masks, chunks * heads, decay, q @ k.mT, weights, since, until)
    late = _apart((v * until[..., None]).view(chunks, size, len(k) // chunks, -1))
    before = k.mT @ late
    native.run(kernels.carry, state[:, :, 0, 0].numel(), since, before, state)
    return weights, since, until, late, before


def _apart(x: Tensor) -> Tensor:
    """Heads before positions: (chunks * heads, size, width)."""
    return x.transpose(1, 2).flatten(0, 1)


def _together(x: Tensor, like: Tensor) -> Tensor:
    """Positions before heads again, as `like`, whose heads may lie side by side in `x`."""
    chunks, size = like.shape[:2]
    return x.view(chunks, -1, size, x.shape[2]).transpose(1, 2).reshape(like.shape)


def _rows(x: Tensor) -> Tensor:
    """With positions at one distance, and each row's numbers together."""
    return x if x.stride(3) == 1 and x.stride(0) == x.shape[1] * x.stride(1) else x.contiguous()


class _Delta(torch.autograd.Function):
    """The compiled loop."""

    @staticmethod
    def forward(ctx, kernels: ModuleType, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor, state: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, beta, decay = (x.contiguous() for x in (q, k, v, beta, decay))
        y, errors = torch.empty_like(v), torch.empty_like(v)
        last, marks = state.clone(memory_format=torch.contiguous_format), _marks(ctx, v, state, kernels.SPAN)
        native.run(kernels.delta_forward, len(v) * v.shape[2], q, k, v, beta, decay, y, errors, last, marks)
        ctx.kernels = kernels
        ctx.save_for_backward(q, k, v, beta, decay, errors, marks)
        return y, last

    @staticmethod
    def backward(ctx, grad: Tensor, to_last: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, beta, decay, errors, marks = ctx.saved_tensors
        to_q, to_k, to_v = torch.zeros_like(q), torch.zeros_like(k), torch.empty_like(v)
        to_beta, to_decay = torch.zeros_like(beta), torch.zeros_like(decay)
        to_state = to_last.mT.clone(memory_format=torch.contiguous_format)
        given = q, k, v, beta, decay, errors, marks, grad.contiguous()
        native.run(ctx.kernels.delta_backward, len(v) * v.shape[2], *given, to_q, to_k, to_v, to_beta, to_decay, to_state)
        return None, to_q, to_k, to_v, to_beta, to_decay, to_state.mT


def _marks(ctx: Any, v: Tensor, state: Tensor, span: int) -> Tensor:
    """None where there is no way back."""
    batch, heads, keys, values = state.shape
    return v.new_empty(batch if native.recorded(ctx) else 0, heads, -(-v.shape[1] // span), values, keys)


def _in_chunks(form: Callable[..., tuple[Tensor, Tensor]], state: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    """`form` on one group of equal chunks after the other; each input is seen as (batch, chunks, heads, size, ...)."""
    cuts = pieces(inputs[0].shape[1])
    groups = zip(*(x.to(state.dtype).split([chunks * size for chunks, size in cuts], 1) for x in inputs), strict=True)
    outputs = []
    with full_precision(state):
        for (_, size), group in zip(cuts, groups, strict=True):
            y, state = form(state, *(rearrange(x, "b (n c) h ... -> b n h c ...", c=size) for x in group))
            outputs.append(rearrange(y, "b n h c v -> b (n c) h v"))
    return torch.cat(outputs, 1), state


def _linear(state: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> tuple[Tensor, Tensor]:
    decay, so_far, to_end = _decays(log_decay)
    # heads that share their queries and keys lie side by side as columns of one matrix
    apart, joined = "b n (g r) i v", "b n g i (r v)"
    heads = {"g": q.shape[2], "r": v.shape[2] // q.shape[2]}
    added = rearrange(k.mT @ rearrange(v * to_end, f"{apart} -> {joined}", **heads), f"{joined} -> {apart}", **heads)
    before, state = _carry(so_far[..., -1:, :], added, state)
    read = rearrange(q @ rearrange(before, f"{apart} -> {joined}", **heads), f"{joined} -> {apart}", **heads)
    return (q @ k.mT * decay) @ v + so_far * read, state


def _gated(state: Tensor, q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
    size = v.shape[3]
    y, values = (q * k).sum(-1, keepdim=True) * v, v
    # p blocks of s positions: in each, q has decayed since its start, k until its end, and all in all by `decay`
    q, k, v, y, decay = (x.unsqueeze(-2) for x in (q * decay, k, v, y, decay))
    for _ in range(size.bit_length() - 1):
        pairs = (rearrange(x, "b n h (p two) s x -> two b n h p s x", two=2).unbind() for x in (q, k, v, y, decay))
        (q1, q2), (k1, k2), (v1, v2), (y1, y2), (a1, a2) = pairs
        y2 = y2 + (q2 @ k1.mT) @ v1
        q, k = torch.cat([q1, q2 * a1], -2), torch.cat([k1 * a2, k2], -2)
        v, y, decay = torch.cat([v1, v2], -2), torch.cat([y1, y2], -2), a1 * a2
    q, k, y, decay = (x.squeeze(3) for x in (q, k, y, decay))
    before, state = _carry(decay.mT, k.mT @ values, state)
    return y + q @ before, state


def _delta(
    state: Tensor, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    system, scores = k @ k.mT, (q @ k.mT).tril()
    seen, kept, whole = k, k, [None] * v.shape[1]
    if log_decay is not None:
        decay, so_far, to_end = _decays(log_decay)
        system, scores = system * decay, scores * decay
        q, seen, kept, whole = q * so_far, k * so_far, k * to_end, so_far[..., -1:, :].unbind(1)
    beta = beta[..., None]
    # the solver reads the strict lower triangle only
    new = torch.linalg.solve_triangular(system * beta, torch.cat([v, seen], -1) * beta, upper=False, unitriangular=True)
    new, reach = new.split([v.shape[-1], k.shape[-1]], -1)
    before, written = [], []
    for new_n, reach_n, kept_n, whole_n in zip(new.unbind(1), reach.unbind(1), kept.mT.unbind(1), whole, strict=True):
        before.append(state)
        written.append(new_n - reach_n @ state)
        state = (state if whole_n is None else whole_n * state) + kept_n @ written[-1]
    return scores @ torch.stack(written, 1) + q @ torch.stack(before, 1), state


def _decays(log_decay: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """In each chunk: the decay after j up to i, 0 where j > i; as columns, the decay up to each position and from it on."""
    size = log_decay.shape[3]
    seen = torch.ones(size, size, dtype=torch.bool, device=log_decay.device).tril()
    sums = log_decay[..., None].expand(*log_decay.shape, size).masked_fill(~seen.tril(-1), 0).cumsum(-2)
    decay = sums.masked_fill(~seen, -torch.inf).exp()
    return decay, log_decay.cumsum(3).exp()[..., None], decay[..., -1, :, None]


def _carry(decay: Tensor, added: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The state before each chunk and after the last, where a chunk decays it and adds to it."""
    after = scan(decay.expand(added.shape).flatten(2), added.flatten(2), state.flatten(1)).view(added.shape)
    first, last = after.split([after.shape[1] - 1, 1], 1)
    return torch.cat([state[:, None], first], 1), last.squeeze(1)


def _carry_flops(heads: int, key: int, value: int) -> int:
    return scan_flops(1, heads * key * value, is_complex=False)
