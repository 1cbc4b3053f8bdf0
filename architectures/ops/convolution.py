"""State spaces with one input and one output, one for each channel: convolutions without end, as products of small matrices.

    x[t] = A x[t-1] + B u[t]        y[t] = 2 Re(C x[t])        so y = K * u with K[t] = 2 Re(C A^t B)

The states are complex and each stands for itself and its conjugate. A is diag(decay) - push sense, where `push` and `sense`
are a column and a row, or absent.

Fast form: the sequence is cut into chunks. Inside a chunk y = toeplitz(K) u; a chunk finds x before its first position and
reads C A^(i+1) x from it at position i; it leaves A^size x + sum over j of A^(size-1-j) B u[j] for the next one. Only this last
line runs chunk after chunk: a scan where A is diagonal. Else A^size = diag(decay^size) - sum over j of decay^(size-1-j) push
(sense A^j), which has rank `size` and is applied as such. The tables K, A^j B, C A^(j+1) and sense A^j belong to the
parameters: they are made once for all sequences, elementwise and never longer than a chunk. Any state can come first, and what
is left over at the end is a shorter chunk.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn import functional as F

from architectures.backbone import Flops
from architectures.ops.scan import scan, scan_flops

CHUNK = 32
Modes = Complex[Tensor, "channels modes"]
Table = Complex[Tensor, "channels size modes"]


@dataclass(frozen=True)
class Tables:
    """What a chunk needs of the parameters, for each distance j below the size of a chunk.

    kernel: K[j]. arrive: A^j B. leave: C A^(j+1). decays: decay^(j+1). back: sense A^j and decay^j push.
    """

    kernel: Float[Tensor, "channels size"]
    arrive: Table
    leave: Table
    decays: Table
    back: tuple[Table, Table] | None


def diagonal_tables(decay: Modes, read: Modes, length: int) -> Tables:
    """Tables of A = diag(decay) and B = 1 for sequences of `length`; any other B can be had by multiplying C with it."""
    decays = _powers(decay, min(length, CHUNK))
    leave = decays * read[:, None]
    kernel = 2 * torch.cat([read[:, None], leave[:, :-1]], 1).real.sum(-1)
    return Tables(kernel, torch.cat([torch.ones_like(decay)[:, None], decays[:, :-1]], 1), leave, decays, None)


def dplr_tables(decay: Modes, drive: Modes, read: Modes, push: Modes, sense: Modes, length: int) -> Tables:
    """Tables of A = diag(decay) - push sense for sequences of `length`."""
    decays = _powers(decay, min(length, CHUNK))
    row = torch.stack([drive, read, sense])  # A times a column, and rows times A
    left, right = torch.stack([sense, push, push]), torch.stack([push, sense, sense])
    rows = [row]
    for _ in range(decays.shape[1]):
        row = decay * row - right * 2 * (left * row).real.sum(-1, keepdim=True)
        rows.append(row)
    arrive, leave, senses = torch.stack(rows, 2).unbind(0)
    arrive = arrive[:, :-1]
    pushes = torch.cat([push[:, None], decays[:, :-1] * push[:, None]], 1)
    kernel = 2 * (arrive * read[:, None]).real.sum(-1)
    return Tables(kernel, arrive, leave[:, 1:], decays, (senses[:, :-1], pushes))


def state_space(
    tables: Tables, u: Float[Tensor, "batch length channels"], state: Complex[Tensor, "batch channels modes"]
) -> tuple[Float[Tensor, "batch length channels"], Complex[Tensor, "batch channels modes"]]:
    """y for inputs u that follow `state`, and the state after them."""
    length, chunk = u.shape[1], tables.kernel.shape[1]
    whole = length - length % chunk
    if 0 < whole < length:
        head, state = state_space(tables, u[:, :whole], state)
        tail, state = state_space(tables, u[:, whole:], state)
        return torch.cat([head, tail], 1), state
    size = min(length, chunk)
    inner = torch.cat([_toeplitz(tables.kernel[:, :size]), _real(tables.arrive[:, :size].flip(1))], 2)
    pieces = rearrange(u, "b (n i) d -> d (b n) i", i=size)
    y, left = (pieces @ inner).split([size, inner.shape[2] - size], 2)
    left = rearrange(left, "d (b n) (m parts) -> b n d m parts", b=len(u), parts=2)
    found, state = _carry(tables, size, torch.view_as_complex(left.contiguous()), state)
    y = torch.baddbmm(y, _real(rearrange(found, "b n d m -> d (b n) m")), _reading(tables.leave[:, :size]))
    return rearrange(y, "d (b n) i -> b (n i) d", b=len(u)), state


def state_space_definition(a: Tensor, b: Tensor, c: Tensor, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence as it is written, for dense A (channels, n, n), B and C (channels, n) over all n states, conjugates too."""
    outputs = []
    for now in u.unbind(1):
        state = torch.einsum("dnm,bdm->bdn", a, state) + b * now[..., None]
        outputs.append((c * state).sum(-1).real)
    return torch.stack(outputs, 1), state


def state_space_flops(length: int, channels: int, modes: int, *, feedback: bool) -> Flops:
    """Chunks as executed, the zeros of the Toeplitz matrices included; and the tables in full, though a batch shares them.

    An entry of the tables costs 8 for decay^j, 6 for C A^j and 1 for its part of K; with feedback 8 and 6 for decay^j push, 14
    for each of three products with A, and 4 for K.
    """
    contraction = mixing = 0
    for chunks, size in ((length // CHUNK, CHUNK), (1, length % CHUNK)):
        if chunks and size:
            contraction += chunks * size * channels * (2 * size + (16 if feedback else 8) * modes)
            mixing += scan_flops(chunks, channels * modes, is_complex=True) + (2 * chunks * channels * modes if feedback else 0)
    return Flops(contraction, mixing + (60 if feedback else 15) * min(length, CHUNK) * channels * modes)


def _carry(tables: Tables, size: int, left: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The states that each chunk finds, (batch, chunks, channels, modes), from what it leaves by itself; and the last one."""
    decay = tables.decays[:, size - 1]
    if tables.back is None:
        ends = scan(decay.flatten(), left.flatten(2), state.flatten(1)).unflatten(2, decay.shape)
        return torch.cat([state[:, None], ends[:, :-1]], 1), ends[:, -1]
    senses, pushes = tables.back
    sense, push = _reading(senses[:, :size]), _real(-pushes[:, :size].flip(1))
    x, found = rearrange(state, "b d m -> d b m"), []
    for now in rearrange(left, "b n d m -> n d b m").unbind(0):
        found.append(x)
        fed = torch.view_as_complex((_real(x) @ sense @ push).unflatten(-1, (-1, 2)))
        x = decay[:, None] * x + now + fed
    return rearrange(found, "n d b m -> b n d m"), rearrange(x, "d b m -> b d m")


def _powers(decay: Tensor, size: int) -> Tensor:
    """decay^1 ... decay^size, (channels, size, modes), by repeated products: exact for fast turns, and zero may decay."""
    flat = decay.flatten()
    powers = scan(flat, flat.new_zeros(1, size, len(flat)), torch.ones_like(flat)[None])
    return rearrange(powers, "1 j (d m) -> d j m", d=len(decay))


def _toeplitz(kernel: Tensor) -> Tensor:
    """Row j, column i: kernel[i - j], zero below the diagonal."""
    size = kernel.shape[1]
    return F.pad(kernel, (size - 1, 0)).unfold(1, size, 1).flip(1)


def _real(x: Tensor) -> Tensor:
    """Real and imaginary parts side by side along the last axis."""
    return torch.view_as_real(x.resolve_conj()).flatten(-2)


def _reading(rows: Tensor) -> Tensor:
    """Columns that take the parts of x to 2 Re(row . x)."""
    return 2 * _real(rows.conj()).mT
