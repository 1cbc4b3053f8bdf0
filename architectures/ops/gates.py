"""The LSTM and the GRU that torch has, one layer: how they start, how they run, what they cost.

    LSTM  i, f, o = sigmoid(W x[t] + b + U h[t-1] + b'), g = tanh(...);   c[t] = f * c[t-1] + i * g;   h[t] = o * tanh(c[t])
    GRU   r, z = sigmoid(W x[t] + b + U h[t-1] + b'),  n = tanh(W_n x[t] + b_n + r * (U_n h[t-1] + b'_n));
          h[t] = n + z * (h[t-1] - n)

Fast form: a compiled kernel goes through time with W and U (ops/kernels/gates.py), under autocast in float32; the gradients
of all weights are large matrix products. It runs from `SHORTEST` positions on and, for an LSTM, up to a width of `WIDEST`.
Elsewhere, for widths that eight does not divide and where there are no kernels, torch's own runs; one position by itself is
torch's cell, which begins sooner. Measured at width 128 on one thread, the GRU is 1.6 times as fast as torch's for 64
sequences and 10 times for four; the LSTM 0.95 and 1.1 times. On two threads, which torch's own lets wait for one another at
every position, the LSTM is 1.0 times as fast for 64 sequences, 1.2 for 16, 1.3 to 2.2 for four and 1.1 for one. At width 256,
where U fills the second cache, torch's LSTM is up to 1.7 times as fast as the kernel.
"""

import math
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from architectures.ops import native
from architectures.ops.precision import full_precision

SHORTEST, WIDEST = 8, 128
ROWS = 4
LSTM = 21
"""Operations of a position and cell: four sums of two products and two biases (12), four activations, c (3), tanh c, h."""
GRU = 16
"""Operations of a position and cell: two gates of two products and two biases (3) and a sigmoid, n (two biases, r, a sum, tanh),
and h (3)."""

Sequence = Float[Tensor, "batch length dim"]
Cells = Float[Tensor, "1 batch dim"]


def initialise_gates(recurrence: nn.LSTM | nn.GRU) -> None:
    """One layer, in place: input weights uniform in +-1/sqrt(dim), recurrent weights orthogonal for each gate, biases zero; an
    LSTM's forget gate starts open with a bias of 1 (Jozefowicz et al. 2015, section 2.2).
    """
    dim = recurrence.hidden_size
    with torch.no_grad():
        ((from_x, from_h, bias_x, bias_h),) = recurrence.all_weights
        from_x.uniform_(-1 / math.sqrt(dim), 1 / math.sqrt(dim))
        for gate in from_h.split(dim):
            nn.init.orthogonal_(gate)
        for bias in (bias_x, bias_h):
            bias.zero_()
        if isinstance(recurrence, nn.LSTM):
            bias_x[dim : 2 * dim] = 1.0  # torch orders the gates i, f, g, o


def lstm(cells: nn.LSTM, x: Sequence, state: tuple[Cells, Cells]) -> tuple[Sequence, tuple[Cells, Cells]]:
    """All h[t] after a state (h, c), and the state after them."""
    wide = x.to(state[0].dtype)
    if x.shape[1] == 1:
        with full_precision(x):
            h, c = torch.lstm_cell(wide[:, 0], [state[0][0], state[1][0]], *cells.all_weights[0])
        return h[:, None], (h[None], c[None])
    kernels = _kernels(cells, wide, *state)
    if kernels is None:
        return cells(x, state) if x.shape[1] and not _shapes_alone(x) else (x, state)
    with full_precision(x):
        h, c = _LSTM.apply(kernels, wide, *cells.all_weights[0], state[0][0], state[1][0])  # pyright: ignore[reportGeneralTypeIssues]
    return h, (h[:, -1][None], c[None])


def gru(cells: nn.GRU, x: Sequence, state: Cells) -> tuple[Sequence, Cells]:
    """All h[t] after a state h, and the state after them."""
    wide = x.to(state.dtype)
    if x.shape[1] == 1:
        with full_precision(x):
            h = torch.gru_cell(wide[:, 0], state[0], *cells.all_weights[0])
        return h[:, None], h[None]
    kernels = _kernels(cells, wide, state)
    if kernels is None:
        return cells(x, state) if x.shape[1] and not _shapes_alone(x) else (x, state)
    with full_precision(x):
        h: Tensor = _GRU.apply(kernels, wide, *cells.all_weights[0], state[0])  # pyright: ignore[reportAssignmentType]
    return h, h[:, -1][None]


def lstm_definition(cells: nn.LSTM, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Position by position."""
    ((w, u, b, b_h),) = cells.all_weights
    (h, c), out = (state[0][0], state[1][0]), []
    for now in x.unbind(1):
        i, f, g, o = (F.linear(now, w, b) + F.linear(h, u, b_h)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        out.append(h)
    return torch.stack(out, 1), (h[None], c[None])


def gru_definition(cells: nn.GRU, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Position by position."""
    ((w, u, b, b_h),) = cells.all_weights
    h, out = state[0], []
    for now in x.unbind(1):
        (r_x, z_x, n_x), (r_h, z_h, n_h) = F.linear(now, w, b).chunk(3, 1), F.linear(h, u, b_h).chunk(3, 1)
        r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
        n = torch.tanh(n_x + r * n_h)
        h = (1 - z) * n + z * h
        out.append(h)
    return torch.stack(out, 1), h[None]


def _shapes_alone(x: Tensor) -> bool:
    """Whether nobody asks for more than shapes, which are those of the input; torch's own would take every step to say so."""
    return x.is_meta and not torch.is_grad_enabled() and not native.watched()


def _kernels(cells: nn.LSTM | nn.GRU, x: Tensor, *state: Tensor) -> ModuleType | None:
    kernels = native.kernels("gates", x, *state, *cells.all_weights[0])
    dim = cells.hidden_size
    too_wide = isinstance(cells, nn.LSTM) and dim > WIDEST
    if kernels is None or not x.shape[0] or x.shape[1] < SHORTEST or too_wide or dim % 8:
        return None
    return kernels


class _LSTM(torch.autograd.Function):
    @staticmethod
    def forward(ctx, kernels: ModuleType, x, w, u, b, b_h, h_initial, c_initial):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, h_initial, c_initial = x.contiguous(), h_initial.contiguous(), c_initial.contiguous()
        gates, h, c = (x.new_empty(*x.shape[:2], width) for width in (len(u), u.shape[1], u.shape[1]))
        weights = w.t().contiguous(), u.t().contiguous(), b + b_h
        native.run(kernels.lstm_forward, *_work(x), x, *weights, h_initial, c_initial, gates, h, c)
        ctx.kernels = kernels
        ctx.save_for_backward(x, w, u, h_initial, c_initial, gates, h, c)
        return h, c[:, -1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, grad_c: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, w, u, h_initial, c_initial, gates, h, c = ctx.saved_tensors
        to_gates, to_h, to_c = torch.empty_like(gates), torch.empty_like(h_initial), grad_c.clone()
        arguments = (gates, c, c_initial, grad.contiguous(), u.contiguous(), to_gates, to_h, to_c)
        native.run(ctx.kernels.lstm_backward, *_work(x), *arguments)
        to_sums, seen = to_gates.flatten(0, 1), torch.cat([x.flatten(0, 1), _before(h, h_initial)], 1)
        to_b = to_sums.sum(0)
        to_x = (to_sums @ w).view_as(x) if ctx.needs_input_grad[1] else None
        to_w, to_u = (to_sums.t() @ seen).split([w.shape[1], u.shape[1]], 1)
        return None, to_x, to_w, to_u, to_b, to_b, to_h, to_c


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, kernels: ModuleType, x, w, u, b, b_h, initial):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, initial = x.contiguous(), initial.contiguous()
        gates, h, inner = (x.new_empty(*x.shape[:2], width) for width in (len(u), u.shape[1], u.shape[1]))
        weights = w.t().contiguous(), u.t().contiguous(), b, b_h
        native.run(kernels.gru_forward, *_work(x), x, *weights, initial, gates, h, inner)
        ctx.kernels = kernels
        ctx.save_for_backward(x, w, u, initial, gates, h, inner)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, w, u, initial, gates, h, inner = ctx.saved_tensors
        to_gates, to_inner, to_initial = torch.empty_like(gates), torch.empty_like(inner), torch.empty_like(initial)
        arguments = (gates, inner, h, initial, grad.contiguous(), u.contiguous(), to_gates, to_inner, to_initial)
        native.run(ctx.kernels.gru_backward, *_work(x), *arguments)
        to_sums, to_inner, before = to_gates.flatten(0, 1), to_inner.flatten(0, 1), _before(h, initial)
        to_rz = to_sums[:, : 2 * h.shape[2]]
        to_x = (to_sums @ w).view_as(x) if ctx.needs_input_grad[1] else None
        to_u = torch.cat([to_rz.t() @ before, to_inner.t() @ before])
        to_b = to_sums.sum(0)
        to_b_h = torch.cat([to_b[: 2 * h.shape[2]], to_inner.sum(0)])
        return None, to_x, to_sums.t() @ x.flatten(0, 1), to_u, to_b, to_b_h, to_initial


def _work(x: Tensor) -> tuple[int, int]:
    """Items of work and sequences of one: as many as share the weights, or so few that no thread is idle."""
    rows = min(ROWS, -(-len(x) // torch.get_num_threads()))
    return -(-len(x) // rows), rows


def _before(h: Tensor, initial: Tensor) -> Tensor:
    """h[t-1] of all positions."""
    return torch.cat([initial[:, None], h[:, :-1]], 1).flatten(0, 1)
