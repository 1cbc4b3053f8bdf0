"""State spaces with one input and one output, one for each channel, all from a state and their kernels from the first position.

    x[t] = A x[t-1] + B u[t]      y[t] = 2 Re(C x[t]) + D u[t]      so from x = 0: y = K * u with K[t] = 2 Re(C A^t B) + [t = 0] D

The states are complex and each stands for itself and its conjugate. A is diag(decay) - push 2 Re(sense .), or diagonal.

From a state: the sequence is cut into chunks. Inside a chunk y = toeplitz(K) u; a chunk finds x before its first position and
reads C A^(i+1) x from it at position i; it leaves A^size x + sum over j of A^(size-1-j) B u[j] for the next one. These are
products for all chunks at once, of real and imaginary parts side by side, written out there and back so that little is kept.
Only x goes from one chunk to the next: in a compiled loop (ops/kernels/state_space.py), else two neighbours are one of twice
their size, and so on. What is left over at the end is cut into chunks of the smaller powers of two. A single position is a step.

The kernel of a diagonal A is factored: K[i size + j] is the product of a matrix of C A^(i size) B and one of A^j.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from architectures.backbone import Flops
from architectures.ops import native
from architectures.ops.precision import full_precision
from architectures.ops.turning import turned

CHUNK = 64
Modes = Complex[Tensor, "channels modes"]
Matrix = Float[Tensor, "channels n n"]


@dataclass(frozen=True)
class System:
    """A, B, C and D as above: decay, drive, read and direct; and a column and a row, where A is not diagonal."""

    decay: Modes
    drive: Modes
    read: Modes
    direct: Float[Tensor, " channels"]
    feedback: tuple[Modes, Modes] | None = None

    def matrix(self) -> Matrix:
        """A on the real parts of x, then the imaginary ones."""
        if self.feedback is None:
            return _block(self.decay)
        push, sense = self.feedback
        return _block(self.decay) - column(push)[:, :, None] * row(sense)[:, None]


def column(x: Complex[Tensor, "*many modes"]) -> Float[Tensor, "*many n"]:
    """A state, as `System.matrix` takes it."""
    return torch.cat([x.real, x.imag], -1)


def row(c: Complex[Tensor, "*many modes"]) -> Float[Tensor, "*many n"]:
    """What takes such a state x to 2 Re(c . x)."""
    return 2 * torch.cat([c.real, -c.imag], -1)


def _block(decay: Modes) -> Matrix:
    real, turn = torch.diag_embed(decay.real), torch.diag_embed(decay.imag)
    return torch.cat([torch.cat([real, -turn], 2), torch.cat([turn, real], 2)], 1)


def without_tiny(x: Tensor, size: Tensor) -> Tensor:
    """x, or zero with no gradient where its size is so small that products would not be normal numbers, which are slow.

    A size is that of a whole power, not of its parts: a part may be zero by chance and have a gradient all the same.
    """
    return torch.where(size < torch.finfo(size.dtype).tiny ** 0.5, 0, x)


def state_space(
    system: System, u: Float[Tensor, "batch length channels"], state: Complex[Tensor, "batch channels modes"]
) -> tuple[Float[Tensor, "batch length channels"], Complex[Tensor, "batch channels modes"]]:
    """y for inputs u that follow `state`, and the state after them."""
    if u.shape[1] == 1:
        return _step(system, u, state)
    size = 1 << min(u.shape[1].bit_length(), CHUNK.bit_length()) - 1
    reads, arrive, powers = (_diagonal if system.feedback is None else _dense)(system, size)
    kernel = (torch.cat([row(system.read)[:, None], reads[:, :-1]], 1) @ column(system.drive)[:, :, None])[..., 0]
    inner = _toeplitz(torch.cat([kernel[:, :1] + system.direct[:, None], kernel[:, 1:]], 1))
    x, outputs, rest = column(state).transpose(0, 1), [], u
    while rest.shape[1]:
        while size > rest.shape[1]:
            size //= 2
        whole = rest.shape[1] // size * size
        chunks, rest = rest.split([whole, rest.shape[1] - whole], 1)
        maps = inner[:, :size, :size], reads[:, :size], arrive[:, -size:], powers[size]
        y, x = _Chunks.apply(chunks, *maps, x)  # pyright: ignore[reportGeneralTypeIssues]
        outputs.append(y)
    real, turn = x.transpose(0, 1).chunk(2, 2)
    return torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0], torch.complex(real, turn)


class _Chunks(torch.autograd.Function):
    """y of whole chunks and x after them. inner: (channels, from, to); reads: (channels, to, n); arrive: (channels, from, n);
    power: (channels, n, n), or the diagonal's real and imaginary parts, (channels, n)."""

    @staticmethod
    def forward(ctx, u: Tensor, inner: Tensor, reads: Tensor, arrive: Tensor, power: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        chunks = _by_channels(u, inner.shape[1])
        starts, after = _carried(chunks, arrive, x, power)
        y = torch.bmm(chunks, inner).baddbmm_(starts, reads.mT)
        ctx.save_for_backward(chunks, inner, reads, arrive, power, x)
        return _by_positions(y, len(u)), after

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, to_after: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        with full_precision(grad):  # it may be called under autocast
            return _gradients(ctx.saved_tensors, grad, to_after)


def _gradients(saved: Sequence[Tensor], grad: Tensor, to_after: Tensor) -> tuple[Tensor, ...]:
    """Those of everything given to `_Chunks`."""
    chunks, inner, reads, arrive, power, x = saved
    grads, (starts, _) = _by_channels(grad, inner.shape[1]), _carried(chunks, arrive, x, power)
    # against time: what reaches x before a chunk comes from its outputs and, through A^size, from x after it
    ends, to_x = _carried(grads, reads, to_after, power, back=True)
    to_u = torch.bmm(grads, inner.mT).baddbmm_(ends, arrive.mT)
    to_power = starts.mT @ ends
    if power.ndim == 2:
        (a, b), (c, d) = ((part.diagonal(0, 1, 2) for part in half.chunk(2, 2)) for half in to_power.chunk(2, 1))
        to_power = torch.cat([a + d, b - c], 1)
    to_maps = chunks.mT @ grads, grads.mT @ starts, chunks.mT @ ends, to_power
    return _by_positions(to_u, len(grad)), *to_maps, to_x


def _carried(
    chunks: Float[Tensor, "channels chunks size"],
    arrive: Float[Tensor, "channels size n"],
    x: Float[Tensor, "channels batch n"],
    power: Tensor,
    *,
    back: bool = False,
) -> tuple[Float[Tensor, "channels chunks n"], Float[Tensor, "channels batch n"]]:
    """x before each chunk and after the last, where a chunk takes x to x power + chunk arrive; against time and with the
    transposed power where that is asked for.
    """
    left = torch.bmm(chunks, arrive).unflatten(1, (x.shape[1], -1))
    if back:
        power = power.mT if power.ndim == 3 else power * power.new_tensor([1, -1]).repeat_interleave(power.shape[1] // 2)
    if kernels := native.kernels("state_space", left, x, power):
        starts, after = torch.empty_like(left), x.clone(memory_format=torch.contiguous_format)
        carry = kernels.carry if power.ndim == 3 else kernels.carry_diagonal
        native.run(carry, len(left), int(back), left, power.contiguous(), after, starts)
        return starts.flatten(1, 2), after
    left, alone = left.flip(2) if back else left, power.ndim == 2
    given = [torch.complex(*part.chunk(2, -1)) for part in (left, x, power)] if alone else [left, x, power]
    starts, after = (column(part) if alone else part for part in _in_pairs(*given))
    return (starts.flip(2) if back else starts).flatten(1, 2), after


def _in_pairs(left: Tensor, x: Tensor, power: Tensor) -> tuple[Tensor, Tensor]:
    """Two neighbours are one chunk of twice their size."""
    count = left.shape[2]
    if count == 1:
        return x[:, :, None], left[:, :, 0] + _onward(x, power)
    odd = left[:, :, 1::2]
    even = left[:, :, : 2 * odd.shape[2] : 2]
    before, after = _in_pairs(odd + _onward(even, power), x, _onward(power, power))
    starts = torch.stack([before, even + _onward(before, power)], 3).flatten(2, 3)
    if count % 2:
        starts, after = torch.cat([starts, after[:, :, None]], 2), left[:, :, -1] + _onward(after, power)
    return starts, after


def _onward(x: Tensor, power: Tensor) -> Tensor:
    """States, or a power, further by a power: a matrix, or the complex numbers of a diagonal one."""
    if power.is_complex():
        return x * power.view(len(power), *[1] * (x.ndim - 2), -1)
    return (x.flatten(1, -2) @ power).view(x.shape)


def _by_channels(u: Float[Tensor, "batch length channels"], size: int) -> Float[Tensor, "channels chunks size"]:
    return turned(u.flatten(0, 1)[None])[0].unflatten(1, (-1, size))


def _by_positions(y: Float[Tensor, "channels chunks size"], batch: int) -> Float[Tensor, "batch length channels"]:
    return turned(y.flatten(1)[None])[0].unflatten(0, (batch, -1))


def _diagonal(system: System, size: int) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
    """C A^(i+1) and A^(size-1-i) B for i < size, and what takes a state A^k onward for powers k of two up to it."""
    powers = _powers(system.decay, size + 1)
    reads, arrive = system.read[:, None] * powers[:, 1:], system.drive[:, None] * powers[:, :-1].flip(1)
    return row(reads), column(arrive), {1 << k: column(powers[:, 1 << k]) for k in range(size.bit_length())}


def _dense(system: System, size: int) -> tuple[Tensor, Tensor, dict[int, Matrix]]:
    """The same, of matrices on real and imaginary parts."""
    power = system.matrix()
    reads, arrive, powers = row(system.read)[:, None] @ power, column(system.drive)[:, None], {1: power.mT}
    while reads.shape[1] < size:
        reads, arrive = torch.cat([reads, reads @ power], 1), torch.cat([arrive @ power.mT, arrive], 1)
        power = power @ power
        powers[reads.shape[1]] = power.mT
    return reads, arrive, powers


def state_space_definition(a: Tensor, b: Tensor, c: Tensor, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence as it is written, for dense A (channels, n, n), B and C (channels, n) over all n states, conjugates too."""
    outputs = []
    for now in u.unbind(1):
        state = torch.einsum("dnm,bdm->bdn", a, state) + b * now[..., None]
        outputs.append((c * state).sum(-1).real)
    return torch.stack(outputs, 1), state


def diagonal_kernel(decay: Modes, gain: Modes, length: int) -> Float[Tensor, "channels length"]:
    """K[t] = 2 Re(sum of gain decay^t) for t < length."""
    size, times = _grid(length)
    fine = _powers(decay, size)
    coarse = gain[:, None] * _powers(fine[:, -1] * decay, times)
    return (column(coarse) @ row(fine).mT).flatten(1)[:, :length]


def diagonal_kernel_flops(length: int, channels: int, modes: int) -> Flops:
    """The product of the factors, and complex products for each entry of them: its power, and in one of them the gain."""
    size, times = _grid(length)
    return Flops(4 * modes * size * times, 6 * modes * (size + 2 * times)) * channels


def _grid(length: int) -> tuple[int, int]:
    """`length` positions in rows as long as there are rows, about: how long and how many."""
    size = 1 << length.bit_length() // 2
    return size, -(-length // size)


def _powers(decay: Modes, count: int) -> Complex[Tensor, "channels count modes"]:
    """decay^0, decay^1, ..."""
    powers, decay = torch.ones_like(decay)[:, None], decay[:, None]
    while powers.shape[1] < count:
        powers, decay = torch.cat([powers, powers * decay], 1), decay * decay
    powers = powers[:, :count]
    return without_tiny(powers, powers.detach().abs())


def _step(system: System, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    after = torch.addcmul(system.decay * state, system.drive, u.mT)
    if system.feedback is not None:
        push, sense = system.feedback
        after = torch.addcmul(after, push, (sense * state).real.sum(-1, keepdim=True), value=-2)
    return torch.addcmul(2 * (system.read * after).real.sum(-1), system.direct, u[:, 0])[:, None], after


def _toeplitz(kernel: Tensor) -> Tensor:
    """Row j, column i: kernel[i - j], zero below the diagonal."""
    size = kernel.shape[1]
    return F.pad(kernel, (size - 1, 0)).unfold(1, size, 1).flip(1)
